"""One optimiser step, in one piece or in micro-batches with the gradient of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from distill.data.batch import Batch
from distill.errors import UserError
from distill.train.embeddings import NUMBERS, embeddings, terms
from distill.train.model import MAX_LOG_SCALE, MAX_SCALE
from distill.train.spaces import Rows
from launch import group as processes
from losses import NotFinite, Objective

TeacherForward = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What a step needs besides its batch.

    Attributes:
        engine: DeepSpeed's, around a :class:`~distill.train.model.Model`.
        objective: what is optimised.
        teach: for every teacher, its frozen forward if it runs online, None if the batch holds its embeddings.
        weights: one a teacher.
        group: the processes.
    """

    engine: Any
    objective: Objective
    teach: Sequence[TeacherForward | None]
    weights: Sequence[float]
    group: processes.Group

    def __call__(self, share: Sequence[Batch], seed: int) -> dict[str, float]:
        """Forward, backward and optimiser step; the terms of the whole batch and the temperatures.

        Args:
            share: this process's share of the batch, in pieces of equal size; one, or as many as the engine
                accumulates gradients of.
            seed: of dropout and the like, for this step and process.
        """
        pieces = [taught(piece, self.teach, self.group.device) for piece in share]
        if len(pieces) == 1:
            rows = embed(self.engine, pieces, seed)
            values = self.terms_of(rows)
            self.engine.backward(values["loss"])
            self.engine.step()
        else:
            rows, values = self.cached(pieces, seed)
        numbers = self.averaged(values, rows["scale"])
        if min(value for name, value in numbers.items() if name.startswith("tau")) * MAX_SCALE < 1.001:
            processes.keep_at_most(self.engine.module.log_scale, MAX_LOG_SCALE)
        return numbers

    def terms_of(self, rows: Rows) -> dict[str, torch.Tensor]:
        """The objective of the whole batch, from this process's rows.

        Raises:
            UserError: if an embedding is not finite: training has diverged.
        """
        given = embeddings(rows, self.objective.needs, self.weights, self.group)
        try:
            return terms(self.objective, given)
        except NotFinite as error:
            raise UserError(
                f"Training has diverged at step {self.engine.global_steps + 1}. {error}",
                "Train into another folder with a lower optim.lr or a longer optim.warmup.",
            ) from error

    def cached(self, pieces: list[Batch], seed: int) -> tuple[Rows, dict[str, torch.Tensor]]:
        """Gradient caching (arXiv 2101.06983): embed all, one loss over the whole batch, then replay piece by piece.

        The loss gives the gradient of every embedding. Replayed with the same random numbers, a piece contributes
        Σ ⟨embedding, its gradient⟩, whose gradient by the weights is its share of the chain rule. The temperature is
        used once and appears in every piece, so each takes an equal part of its gradient. The engine divides by the
        number of pieces, hence the factor. It accumulates in its own way at every ZeRO stage; nothing of ``no_sync``.
        """
        with torch.no_grad(), kept_buffers(self.engine.module):
            rows = {k: v.detach().requires_grad_() for k, v in embed(self.engine, pieces, seed).items()}
        values = self.terms_of(rows)
        values["loss"].backward()
        slopes = {name: row.grad for name, row in rows.items() if row.grad is not None}
        count, size = len(pieces), len(pieces[0].tokens)
        for number, piece in enumerate(pieces):
            again = embed(self.engine, [piece], seed, first=number)
            mine = slice(number * size, (number + 1) * size)
            share = [
                (again[name] * (slope / count if name in NUMBERS else slope[mine])).sum()
                for name, slope in slopes.items()
                if again[name].requires_grad
            ]
            self.engine.backward(torch.stack(share).sum() * count)
            self.engine.step()
        return rows, values

    def averaged(self, values: dict[str, torch.Tensor], scale: torch.Tensor) -> dict[str, float]:
        """Every term over the global batch, by name, and the temperature (of several: tau, tau_1, tau_2, …)."""
        local = torch.cat([*(value.detach().view(1) for value in values.values()), scale.detach()])
        numbers = processes.mean(local, self.group).tolist()  # one collective, one wait for the device
        taus = {f"tau_{i}" if i else "tau": 1 / s for i, s in enumerate(numbers[len(values) :])}
        return dict(zip(values, numbers, strict=False)) | taus


def embed(model: nn.Module, pieces: Sequence[Batch], seed: int, first: int = 0) -> Rows:
    """The model's rows for some pieces, one after the other, as if they had been one.

    Args:
        model: a :class:`~distill.train.model.Model`, or DeepSpeed's engine around one.
        pieces: with every teacher's part as embeddings.
        seed: piece i draws its random numbers from (seed, i) alone, so a replay repeats them.
        first: the number of the first of these pieces.
    """
    parts: list[Rows] = []
    for number, piece in enumerate(pieces, first):
        torch.manual_seed(hash((seed, number)) & (2**63 - 1))
        parts.append(model(piece.images, piece.tokens, piece.teachers, piece.mixed))
    if len(parts) == 1:
        return parts[0]
    return {k: parts[0][k] if k in NUMBERS else torch.cat([part[k] for part in parts]) for k in parts[0]}


def taught(batch: Batch, teach: Sequence[TeacherForward | None], device: torch.device) -> Batch:
    """The batch on the device, every teacher's part turned into embeddings [n, 1 or C, P]."""
    batch = batch.to(device)
    outputs = []
    for part, forward in zip(batch.teachers, teach, strict=True):
        if forward is not None:
            part = forward(part.flatten(0, 1)).unflatten(0, part.shape[:2])
        outputs.append(part)
    return replace(batch, teachers=tuple(outputs))


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Inside, the model may move its buffers (a batch norm's running statistics); afterwards they are as before.

    A step of gradient caching runs every piece twice and must count it once.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
