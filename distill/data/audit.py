"""Cached rows compared with the outputs of the live teacher, before training uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from distill.data.cache import Cache
from distill.data.keyed_random import uniform
from distill.data.shards import Shards
from distill.data.views import decode
from distill.errors import BadSample, UserError

if TYPE_CHECKING:
    from teachers import Teacher

TRIES = 10  # rows drawn for each that is compared, where images do not decode
LEAST = 0.999  # what rounding to bfloat16 and another batch size leave of a cosine of 1, with room to spare


def audit(cache: Cache, teacher: Teacher, shards: Shards, rows: int) -> dict[str, Any]:
    """Compare some rows, spread over all shards and views, with what the live teacher computes.

    Args:
        cache: complete.
        teacher: live.
        shards: all that the cache holds.
        rows: how many; the same ones each time.

    Returns:
        What ``run.json`` notes: ``rows`` and the smallest cosine, ``min_cosine``; None if no image drawn decodes.

    Raises:
        UserError: if the weights are others, or a row is not the teacher's.
    """
    made, live = cache.weights(shards), teacher.fingerprint()
    if made != live:
        raise UserError(
            f"The teacher cache {cache.folder(shards.indexes[0].path)} was made with other weights of "
            f"'{cache.card.name}': {made[:12]} instead of {live[:12]}.",
            "Remove that folder, name another, or give the weights it was made with.",
        )
    lowest, compared = 1.0, 0
    for i, view in draws(len(shards), cache.table.views, rows * TRIES):
        if compared == rows:
            break
        try:
            image, cached = decode(shards.read(i, ["image"])), cache.row(shards, i, view)
        except BadSample:
            continue  # it has no embedding
        drawn = cache.views.draw(shards.key(i), view, image.size)
        pixels = drawn.render(image, cache.identity["image_size"], cache.card.interpolation)
        now = teacher(pixels[None].to(teacher.mean.device))
        cosine = min(
            float(torch.cosine_similarity(now[name][0].cpu().flatten(), row.flatten(), dim=0))
            for name, row in cached.items()
        )
        if not cosine >= LEAST:
            raise UserError(
                f"The cached embedding of view {view} of sample '{shards.key(i)}' in "
                f"{cache.file(shards.indexes[shards.locate(i)[0]].path)} is not what '{cache.card.name}' gives: "
                f"cosine {cosine:.4f}.",
                "Remove that file.",
            )
        lowest, compared = min(lowest, cosine), compared + 1
    return {"rows": compared, "min_cosine": lowest if compared else None}


def draws(samples: int, views: int, most: int) -> list[tuple[int, int]]:
    """Samples and views of them, each once, in a random order that is the same each time."""
    drawn = (uniform(f"audit {n}", 2) for n in range(4 * most))
    return list(dict.fromkeys((int(x * samples), int(y * views)) for x, y in drawn))[:most]
