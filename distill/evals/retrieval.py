"""Image–text retrieval: an image's captions among all captions, and a caption's images among all images."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.errors import BadSample, UserError
from distill.evals.evaluation import Context, Evaluation, Strings
from distill.metrics import ranking
from distill.ship.embed import embed_images
from distill.ship.image_text import ImageText


class Retrieval(Evaluation):
    """Recall at 1, 5 and 10 in both directions over all pairs of some shards.

    Equal captions are one text: any of an image's captions is a right answer for it, and any image with
    that caption is a right answer for the text.

    Attributes:
        languages: only captions of these, and those without one; none means those that the model was trained with.
    """

    languages: Strings = ()

    def evaluate(self, model: ImageText, context: Context) -> dict[str, Any]:
        """{"task", "images", "texts", "metrics": {"i2t_r1": …, "t2i_r10": …}, "chance": {…}}, recalls in [0, 1].

        Raises:
            UserError: if the model has no text tower, a sample cannot be read, or all captions are the same.
        """
        model.check_text()
        captions = replace(context.captions, languages=self.languages or context.captions.languages)
        shards = context.open(self.data, captions)
        for shard, key in shards.missing("image"):
            raise BadSample(str(shard), key, "there is no image")
        if self.languages and not has_language(shards, captions):
            raise UserError(
                f"No caption says that its language is {' or '.join(self.languages)}.", "Leave out --language."
            )
        return measure(model, shards, captions, context.workers)


def has_language(shards: Shards, captions: Captions) -> bool:
    """Whether any caption says that it is in one of the languages asked for."""
    for i in range(len(shards)):
        with suppress(BadSample):  # it has captions in other languages only
            if any(
                caption.language in captions.languages for caption in captions.read(shards.read(i, ["txt", "json"]))
            ):
                return True
    return False


def measure(model: ImageText, shards: Shards, captions: Captions, workers: int = 0) -> dict[str, Any]:
    """See :meth:`Retrieval.evaluate`; over shards that are open already."""
    texts, captions_of_image, images_of_text = relevance(shards, captions)
    if len(texts) < 2:
        raise UserError("Retrieval needs at least two different captions.", "Name other shards.")
    images, encoded = embed_images(model, shards, workers).numpy(), model.encode_text(texts).numpy()
    found: dict[str, float] = {}
    expected: dict[str, float] = {}
    for name, queries, candidates, right in (
        ("i2t", images, encoded, captions_of_image),
        ("t2i", encoded, images, images_of_text),
    ):
        found |= {f"{name}_r{k}": v for k, v in ranking.recalls(queries, candidates, right).items()}
        expected |= {f"{name}_r{k}": v for k, v in ranking.chance(len(candidates), right).items()}
    return {
        "task": "retrieval",
        "images": len(images),
        "texts": len(texts),
        "metrics": found,
        "chance": expected,
    }


def relevance(shards: Shards, captions: Captions) -> tuple[list[str], list[list[int]], list[list[int]]]:
    """The distinct texts of some shards, each image's texts, and each text's images, by number."""
    number: dict[str, int] = {}
    texts_of_image: list[list[int]] = []
    images_of_text: list[list[int]] = []
    for i in range(len(shards)):
        own = []
        for caption in captions.read(shards.read(i, ["txt", "json"])):
            text = number.setdefault(caption.text, len(number))
            if text == len(images_of_text):
                images_of_text.append([])
            images_of_text[text].append(i)
            own.append(text)
        texts_of_image.append(own)
    return list(number), texts_of_image, images_of_text


EVALUATION = Retrieval
