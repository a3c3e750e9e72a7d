"""Queries of the evaluation data with a model's best answers: drawn at random, the best and the worst ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

from distill.data.views import decode
from distill.errors import UserError
from distill.evals.evaluation import Context
from distill.evals.retrieval import Relevance
from distill.reporting.facts import Answer, Gallery, Picture, Query

SIDE = 96  # pixels of a thumbnail's longer side
SEED = 0  # of the random draws
MOST_SAMPLES = 1000  # images that are searched; of larger data so many are drawn
ANSWERS = 5  # a query
LONGEST = 200  # characters of a caption that are shown
TIE = 1e-6  # see distill.metrics.ranking


def make_gallery(context: Context, draws: tuple[int, int, int] = (6, 3, 3), most: int = MOST_SAMPLES) -> Gallery:
    """Search the evaluation data in both directions.

    Args:
        context: of the retrieval, whose model has a text tower, and whose data have captions.
        draws: in each direction the number of queries that are drawn at random, of the best and of the worst ones.
        most: how many images are searched at most.

    Raises:
        UserError: if there are not two different captions.
    """
    data, generator = context.data, np.random.default_rng(SEED)
    drawn = np.sort(generator.permutation(len(data))[:most])
    images = context.images()["embedding"][drawn]
    relevance = Relevance.of([data.captions[i] for i in drawn])
    texts, texts_of_image, images_of_text = relevance.texts, relevance.of_image, relevance.of_text
    if len(texts) < 2:
        raise UserError("A search needs at least two different captions.", "Name other data.")
    scores = images @ context.texts(texts).T

    shown = [text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for text in texts]

    @cache
    def picture(i: int) -> Picture:
        return Picture(thumbnail(decode(data.samples.read(int(drawn[i]), ["image"]))), shown[texts_of_image[i][0]])

    def text_query(t: int) -> Query:
        best, rank, first = answers(scores[:, t], images_of_text[t])
        found = tuple(Answer(picture(i), i in images_of_text[t]) for i in best)
        return Query(shown[t], found, rank, picture(first))

    def image_query(i: int) -> Query:
        best, rank, first = answers(scores[i], texts_of_image[i])
        found = tuple(Answer(shown[t], t in texts_of_image[i]) for t in best)
        return Query(picture(i), found, rank, shown[first])

    by_text = draw(scores.T, images_of_text, generator, draws)
    by_image = draw(scores, texts_of_image, generator, draws)
    groups = {
        name: (tuple(map(text_query, by_text[name])), tuple(map(image_query, by_image[name]))) for name in by_text
    }
    return Gallery(len(drawn), len(texts), len(data), SEED, groups)


def answers(scores: np.ndarray, right: Sequence[int]) -> tuple[list[int], int, int]:
    """The best candidates of a query, the rank of its best correct one, and that one.

    Args:
        scores: [c], of the candidates.
        right: the numbers of the correct ones, at least one.
    """
    correct = np.zeros(len(scores), dtype=np.float32)
    correct[list(right)] = 1
    # Wrong candidates come before correct ones with which they tie, as in distill.metrics.ranking.
    order = np.lexsort((correct, -(scores - np.float32(TIE) * correct)))
    rank = int(np.argmax(correct[order]))
    return order[:ANSWERS].tolist(), 1 + rank, int(order[rank])


def draw(
    scores: np.ndarray, right: Sequence[Sequence[int]], generator: np.random.Generator, draws: tuple[int, int, int]
) -> dict[str, list[int]]:
    """The numbers of queries drawn at random, of the best and of the worst ones; none occurs twice.

    Args:
        scores: [q, c], of all candidates for all queries.
        right: for each query the numbers of its correct candidates.
        generator: of random numbers.
        draws: how many of each kind.
    """
    at_random = generator.permutation(len(scores))[: draws[0]].tolist()
    quality = np.array([margin(row, own) for row, own in zip(scores, right, strict=True)])
    rest = [int(q) for q in np.lexsort((-quality[:, 1], quality[:, 0])) if q not in at_random]
    best = rest[: draws[1]]
    worst = rest[len(best) :][::-1][: draws[2]]
    return {"random": at_random, "best": best, "worst": worst}


def margin(scores: np.ndarray, right: Sequence[int]) -> tuple[float, float]:
    """The rank of a query's best correct candidate, and by how much it scores above the best wrong one."""
    _, rank, first = answers(scores, right)
    wrong = np.delete(scores, list(right))
    return float(rank), float(scores[first] - wrong.max()) if len(wrong) else 0.0


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG file of at most ``SIDE`` pixels a side."""
    small, buffer = image.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
