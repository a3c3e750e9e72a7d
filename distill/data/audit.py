"""Compares cached rows with freshly computed outputs of the teacher, before training uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from distill.data.cache import Cache
from distill.data.keyed_random import uniform
from distill.data.shards import Shards
from distill.errors import BadSample, UserError

if TYPE_CHECKING:
    from teachers import Teacher

DRAWS_PER_ROW = 10  # candidates drawn for each row to be compared, because some samples may be damaged
MIN_COSINE = 0.999  # rounding to bfloat16 and another batch size leave more of a cosine of 1


def audit(cache: Cache, teacher: Teacher, shards: Shards, rows: int) -> dict[str, Any]:
    """Compare some rows, spread over all shards and views or captions, with what the teacher computes.

    Args:
        cache: a complete cache.
        teacher: the loaded teacher.
        shards: all shards of the cache.
        rows: how many rows to compare; the same ones in every call.

    Returns:
        "rows", how many rows were compared, and "min_cosine", their smallest cosine with the teacher's outputs, None
        if no drawn sample can be used.

    Raises:
        UserError: if the cache was computed with other weights, or a cosine is below ``MIN_COSINE``.
    """
    cached_weights, weights = cache.weights(shards), teacher.fingerprint()
    if cached_weights != weights:
        raise UserError(
            f"The teacher cache {cache.folder(shards.indexes[0].path)} was made with other weights of "
            f"'{cache.card.name}': {cached_weights[:12]} instead of {weights[:12]}.",
            "Remove that folder, name another, or use the weights it was made with.",
        )
    lowest, compared = 1.0, 0
    for i, choice in draws(len(shards), cache.choices, rows * DRAWS_PER_ROW):
        if compared == rows:
            break
        try:
            which, cached, outputs = cache.compared(shards, i, choice, teacher)
        except BadSample:
            continue  # the image does not decode, or the captions cannot be read, and there is no embedding
        cosine = min(
            float(torch.cosine_similarity(outputs[name][0].cpu().flatten(), row.flatten(), dim=0))
            for name, row in cached.items()
        )
        if not cosine >= MIN_COSINE:  # also if it is NaN
            raise UserError(
                f"The cached embedding of {which} of sample '{shards.key(i)}' in "
                f"{cache.file(shards.indexes[shards.locate(i)[0]].path)} is not what '{cache.card.name}' gives: "
                f"cosine {cosine:.4f}.",
                "Remove that file.",
            )
        lowest, compared = min(lowest, cosine), compared + 1
    return {"rows": compared, "min_cosine": lowest if compared else None}


def draws(samples: int, choices: int, count: int) -> list[tuple[int, int]]:
    """At most ``count`` distinct pairs of a sample and a choice among its rows.

    Their order is random, and the same in every call.
    """
    drawn = (uniform(f"audit {n}", 2) for n in range(4 * count))
    return list(dict.fromkeys((int(x * samples), int(y * choices)) for x, y in drawn))[:count]
