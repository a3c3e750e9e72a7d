"""Image–text retrieval: an image's captions among all captions, and a caption's images among all images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data.captions import Caption
from distill.errors import BadSample, UserError
from distill.evals.evaluation import CHECKS, Context, Dataset, Evaluation, Metric, Outcome, Unsuitable
from distill.metrics import ranking
from distill.metrics.resampling import mean, mean_metric

RANKS = (1, 5, 10)


class Retrieval(Evaluation):
    """Recall at 1, 5 and 10 in both directions over all pairs.

    Equal captions are one text: any of an image's captions is a right answer for it, and any image with
    that caption is a right answer for the text. Where captions have several languages, also for each language alone,
    as in LiT (arXiv 2111.07991, figures 6 and 7).

    Attributes:
        merge: whether equal captions are one text. If not, each belongs to its own image only, as CLIP_benchmark and
            most published numbers have it; then a perfect model too misses where two images have the same caption.
    """

    reads = ("text", "captions")

    merge: bool = True

    def check(self, context: Context) -> None:
        CHECKS["text"](context)
        if self.languages and not speaks(context.data, self.languages):
            raise UserError(
                f"No caption says that its language is {' or '.join(self.languages)}.", "Leave out --language."
            )
        super().check(context)
        if len(Relevance.of(context.data.captions).texts) < 2:
            raise Unsuitable("Retrieval needs at least two different captions.", "Name other data.")

    def measure(self, context: Context) -> Outcome:
        captions, images = context.data.captions, context.images()["embedding"]
        every = Relevance.of(captions) if self.merge else Relevance.separate(captions)
        encoded = context.texts(every.texts)
        metrics = recall_metrics(images, encoded, every)
        row_of_text = {text: k for k, text in enumerate(every.texts)}
        by_language: dict[str, dict[str, Any]] = {}
        for language in languages_of(captions):
            kept, own = in_language(captions, language, self.merge)
            rows = encoded[[row_of_text[text] for text in own.texts]]
            found = recall_metrics(images[kept], rows, own)
            by_language[language] = {"images": len(kept), "texts": len(own.texts)}
            by_language[language] |= {name: metric.value for name, metric in found.items()}
        counts = {"images": len(images), "texts": len(every.texts)}
        return Outcome(metrics, counts, {"by_language": by_language} if by_language else {})


@dataclass(frozen=True)
class Relevance:
    """Which of the distinct texts belong to which images.

    Attributes:
        texts: the distinct captions.
        of_image: for each image, the numbers of its texts.
        of_text: for each text, the numbers of its images, ascending.
    """

    texts: list[str]
    of_image: list[list[int]]
    of_text: list[list[int]]

    @classmethod
    def of(cls, captions: Sequence[Sequence[Caption]]) -> Relevance:
        """From the captions of each image."""
        number: dict[str, int] = {}
        of_image: list[list[int]] = []
        of_text: list[list[int]] = []
        for i, own in enumerate(captions):
            texts = dict.fromkeys(number.setdefault(caption.text, len(number)) for caption in own)
            of_text += [[] for _ in range(len(number) - len(of_text))]
            for text in texts:
                of_text[text].append(i)
            of_image.append(list(texts))
        return cls(list(number), of_image, of_text)

    @classmethod
    def separate(cls, captions: Sequence[Sequence[Caption]]) -> Relevance:
        """From the captions of each image, where equal ones are texts of their own."""
        texts = [(i, caption.text) for i, own in enumerate(captions) for caption in own]
        of_image: list[list[int]] = [[] for _ in captions]
        for k, (i, _) in enumerate(texts):
            of_image[i].append(k)
        return cls([text for _, text in texts], of_image, [[i] for i, _ in texts])


def recall_metrics(images: np.ndarray, texts: np.ndarray, relevance: Relevance) -> dict[str, Metric]:
    """Recalls in both directions, and the mean of the two at 10.

    Args:
        images: [n, D] unit rows.
        texts: [t, D] unit rows.
        relevance: of these images and texts.
    """
    found: dict[str, Metric] = {}
    # Captions of one image are no independent queries: they are resampled together.
    image_of_text = np.array([own[0] for own in relevance.of_text])
    directions: list[tuple[str, np.ndarray, np.ndarray, list[list[int]], np.ndarray | None]] = [
        ("i2t", images, texts, relevance.of_image, None),
        ("t2i", texts, images, relevance.of_text, image_of_text),
    ]
    for name, queries, candidates, right, groups in directions:
        hits = ranking.recall_hits(queries, candidates, right, RANKS)
        expected = ranking.chance(len(candidates), right)
        found |= {f"{name}_r{k}": mean_metric(hits[k], expected[k], groups) for k in RANKS}
    both = (found["i2t_r10"], found["t2i_r10"])
    chance = sum(metric.chance or 0.0 for metric in both) / 2
    return found | {"mean_r10": Metric(mean_of_means, tuple(m.arrays[0] for m in both), chance, independent=True)}


def mean_of_means(first: np.ndarray, second: np.ndarray) -> float:
    """The mean of the means of two arrays."""
    return (mean(first) + mean(second)) / 2


def speaks(data: Dataset, languages: Sequence[str]) -> bool:
    """Whether any caption says that it is in one of some languages."""
    for i in range(len(data)):
        with suppress(BadSample):  # it has captions in other languages only
            if any(caption.language in languages for caption in data.read_captions(i)):
                return True
    return False


def languages_of(captions: Sequence[Sequence[Caption]]) -> list[str]:
    """The languages that captions name, sorted, if there are several of them with at least two texts."""
    texts: dict[str, set[str]] = {}
    for own in captions:
        for caption in own:
            texts.setdefault(caption.language, set()).add(caption.text)
    named = sorted(language for language, own_texts in texts.items() if language and len(own_texts) > 1)
    return named if len(named) > 1 else []


def in_language(captions: Sequence[Sequence[Caption]], language: str, merge: bool) -> tuple[list[int], Relevance]:
    """The images that have captions of a language, and the relevance of these alone."""
    own = [[caption for caption in some if caption.language == language] for some in captions]
    kept = [i for i, some in enumerate(own) if some]
    return kept, (Relevance.of if merge else Relevance.separate)([own[i] for i in kept])


EVALUATION = Retrieval
