"""From one process's rows to what an objective looks at: the whole batch, gathered in one collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.train.spaces import Rows
from launch import group as processes
from losses import Embeddings, Needs, Objective, Teaching

NUMBERS = ("scale", "bias")  # parameters of the loss: alike on every process, not rows
PER_SAMPLE = ("teacher", "logits")  # spaces in which nothing is compared across samples
STANDS_FOR = {"image_h": "image", "text_h": "text", "teacher_f": "teacher", "teacher_g": "teacher"}


def embeddings(rows: Rows, needs: Needs, weights: Sequence[float], group: processes.Group) -> list[Embeddings]:
    """What the objective is given, once for every caption an image has in this batch.

    Args:
        rows: what a :class:`~distill.train.model.Model` makes of this process's share.
        needs: of the objective.
        weights: one a teacher.
        group: the processes.
    """
    local = {name for name in rows if "/" in name and needs.space in PER_SAMPLE}
    whole = processes.gather({k: v for k, v in rows.items() if k not in local and k not in NUMBERS}, group)
    n, captions = rows["text"].shape[:2]
    mine = slice(group.rank * n, (group.rank + 1) * n)
    return [
        Embeddings(
            image=whole["image"][:, 0],
            text=whole["text"][:, caption],
            scale=rows["scale"],
            bias=rows.get("bias"),
            teachers=tuple(teaching({**rows, **whole}, k, caption, needs, weight) for k, weight in enumerate(weights))
            if needs.space != "none"
            else (),
            rows=mine,
        )
        for caption in range(captions)
    ]


def teaching(rows: Rows, k: int, caption: int, needs: Needs, weight: float) -> Teaching:
    """Teacher k's side of the batch, for one of the captions."""
    own = {name.split("/")[1]: value for name, value in rows.items() if name.startswith(f"{k}/")}
    if needs.space == "shared":
        # Where a head is fixed to the identity, the embedding itself takes its place.
        bare = {"image": rows["image"], "text": rows["text"], **own}
        own = {name: own.get(name, bare.get(other)) for name, other in STANDS_FOR.items()}  # type: ignore[misc]
    chosen = {n: v[:, min(caption, v.shape[1] - 1)] for n, v in own.items() if v is not None}
    return Teaching(**chosen, weight=weight)


def terms(objective: Objective, given: Sequence[Embeddings]) -> dict[str, torch.Tensor]:
    """The objective's terms, summed over the captions of an image (LiT, arXiv 2111.07991, appendix C)."""
    parts = [objective(one) for one in given]
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
