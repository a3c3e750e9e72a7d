"""The demo's contact sheet: what the students and the teacher find for the same queries, drawn without looking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from distill.contact_sheet import Answers, Section, write_sheet
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.data.views import decode
from distill.demo.scores import ENGLISH
from distill.evals.retrieval import Relevance
from distill.ship.embed import embed_images
from distill.ship.image_text import ImageText

QUERIES, ANSWERS = 5, 5  # of each kind; and how many results of each model


def contact_sheet(path: Path, student: ImageText, teacher: ImageText, kinds: Sequence[tuple[str, Shards]]) -> None:
    """Draw evenly spaced queries and the pictures that both models find for them.

    Args:
        path: of the PNG file.
        student: the 3T students.
        teacher: LiT.
        kinds: what kind of queries the captions of some shards are, and the shards.
    """
    sections = [section(title, shards, student, teacher) for title, shards in kinds]
    write_sheet(
        path, "Five best pictures for a text, right ones in green: queries evenly spaced, not chosen", sections
    )


def section(title: str, shards: Shards, student: ImageText, teacher: ImageText) -> Section:
    """The queries of one kind."""
    captions = Captions(languages=ENGLISH)
    relevance = Relevance.of([captions.read(shards.read(i, ["txt", "json"])) for i in range(len(shards))])
    found = {name: best(model, shards, relevance.texts) for name, model in (("3T student", student), ("LiT", teacher))}
    right = {name: [hits(row, relevance.of_text[k]) for k, row in enumerate(rows)] for name, rows in found.items()}
    shares = ", ".join(f"{name} {sum(map(any, rows)) / len(rows):.0%}" for name, rows in right.items())
    count = len(relevance.texts)
    drawn = [round(k * (count - 1) / max(1, QUERIES - 1)) for k in range(min(QUERIES, count))]
    rows = [
        (
            relevance.texts[k],
            [Answers([picture(shards, i) for i in found[name][k]], right[name][k]) for name in found],
        )
        for k in drawn
    ]
    heading = f"{title}: of {count} names, a right picture of {len(shards)} is among the first five for {shares}"
    return Section(heading, list(found), rows)


def best(model: ImageText, shards: Shards, texts: Sequence[str]) -> list[list[int]]:
    """For each text the numbers of the pictures that a model finds, best first."""
    scores = model.encode_text(list(texts)) @ embed_images(model, shards).T
    numbers: list[list[int]] = torch.topk(scores, min(ANSWERS, len(shards)), dim=1).indices.tolist()
    return numbers


def hits(found: Sequence[int], right: Sequence[int]) -> list[bool]:
    """Whether each result is right."""
    return [i in right for i in found]


def picture(shards: Shards, i: int) -> Image.Image:
    """Picture i of some shards."""
    return decode(shards.read(i, ["image"]))
