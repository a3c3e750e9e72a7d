"""Queries and what the students find for them."""

from __future__ import annotations

from collections.abc import Sequence

from distill.reporting.blocks import Block, Examples, Heading, Text
from distill.reporting.facts import RunFacts
from distill.reporting.numbers import count

DRAWS = {
    "random": "drawn at random",
    "best": "the ones that were answered best",
    "worst": "the ones that were answered worst",
}


def blocks(runs: Sequence[RunFacts]) -> list[Block]:
    """For each run with a gallery, texts answered by pictures and pictures answered by texts."""
    found: list[Block] = []
    for run in runs:
        gallery = run.gallery
        if gallery is None:
            continue
        if len(runs) > 1:
            found.append(Heading(run.name))
        drawn = "" if gallery.samples == gallery.of else f", drawn at random from {count(gallery.of)}"
        found.append(
            Text(
                f"Searched were {count(gallery.samples)} images{drawn} with {count(gallery.texts)} different "
                f"captions. The first queries are a fair draw (seed {gallery.seed}); best and worst ones were chosen "
                "by the rank of the right answer. ✓ marks right answers, ✗ wrong ones."
            )
        )
        for direction, name, candidates in ((0, "Texts", gallery.samples), (1, "Images", gallery.texts)):
            for draw, both in gallery.groups.items():
                if both[direction]:
                    title = f"{name}, {DRAWS.get(draw, draw)}"
                    found.append(Examples(title, both[direction], candidates, len(runs) > 1))
    return found
