"""One optimiser step, in one piece or in micro-batches with the gradient of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from distill.data.batch import Batch, Tensors
from distill.training.gather import NUMBERS, NotFiniteRows, embeddings, terms
from distill.training.model import MAX_LOG_SCALE, MAX_SCALE
from launch import group as processes
from launch import zero
from losses import Objective
from losses.projections import Rows

TeacherForward = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Outcome:
    """The result of a step, the same on every process.

    Attributes:
        numbers: the terms of the whole batch, by name, and the temperatures.
        counts: what the processes counted, added up.
        trouble: what was not finite; then nothing has changed. Of the rows, only this process's are named.
        positions: of the samples in the whole batch that it came from; empty for all of them.
    """

    numbers: dict[str, float]
    counts: dict[str, float]
    trouble: str = ""
    positions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """What a step needs besides its batch.

    Attributes:
        engine: DeepSpeed's, around a :class:`~distill.training.model.Model`.
        objective: what is optimised.
        teachers: for each, its frozen forward if it runs online, None if the batch holds its outputs.
        weights: one a teacher.
        group: the processes.
    """

    engine: Any
    objective: Objective
    teachers: Sequence[TeacherForward | None]
    weights: Sequence[float]
    group: processes.Group

    def __call__(
        self, share: Sequence[Batch], seed: int, counts: Mapping[str, float] = MappingProxyType({})
    ) -> Outcome:
        """Forward, backward and optimiser step. Where anything is not finite the weights stay as they are.

        Args:
            share: this process's share of the batch, in pieces of equal size; one, or as many as the engine
                accumulates gradients of.
            seed: of dropout and the like, for this step and process.
            counts: numbers that are summed over all processes along with the terms.
        """
        pieces = [with_teacher_outputs(piece, self.teachers, self.group.device) for piece in share]
        buffers = list(self.engine.module.buffers())
        before = [buffer.clone() for buffer in buffers]
        outcome = self._attempt(pieces, seed, counts)
        if outcome.trouble:  # a batch norm has taken it into its statistics
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        return outcome

    def _attempt(self, pieces: list[Batch], seed: int, counts: Mapping[str, float]) -> Outcome:
        try:
            if len(pieces) == 1:
                rows = embed(self.engine, pieces, seed)
            else:
                with torch.no_grad(), kept_buffers(self.engine.module):
                    rows = {k: v.detach().requires_grad_() for k, v in embed(self.engine, pieces, seed).items()}
            values = self.terms_of(rows)
        except NotFiniteRows as error:
            return Outcome({}, self.summed({}, counts), f"the rows {', '.join(error.names)}", tuple(error.positions))
        numbers, counts = self.averaged(values, rows["scale"], counts)
        wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
        if wrong:
            return Outcome(numbers, counts, f"the term {', '.join(wrong)}")
        if len(pieces) == 1:
            self.engine.backward(values["loss"])
            applied = zero.step(self.engine)
        else:
            applied = self.replay(pieces, seed, rows, values)
        if min(value for name, value in numbers.items() if name.startswith("tau")) * MAX_SCALE < 1.001:
            zero.keep_at_most(self.engine.module.log_scale, MAX_LOG_SCALE)
        return Outcome(numbers, counts, "" if applied else "a gradient")

    def terms_of(self, rows: Rows) -> dict[str, torch.Tensor]:
        """The objective of the whole batch, from this process's rows.

        Raises:
            NotFiniteRows: on every process, if an embedding of any is not finite.
        """
        return terms(self.objective, embeddings(rows, self.objective.needs, self.weights, self.group))

    def replay(self, pieces: list[Batch], seed: int, rows: Rows, values: dict[str, torch.Tensor]) -> bool:
        """Gradient caching (arXiv 2101.06983): all has been embedded and the loss taken; now the gradient by pieces.

        The loss gives the gradient of every embedding. Replayed with the same random numbers, a piece contributes
        Σ ⟨embedding, its gradient⟩, whose gradient by the weights is its share of the chain rule. The temperature is
        used once and appears in every piece, so each takes an equal part of its gradient. The engine divides by the
        number of pieces, hence the factor. It accumulates in its own way at every ZeRO stage; nothing of ``no_sync``.
        """
        values["loss"].backward()
        slopes = {name: row.grad for name, row in rows.items() if row.grad is not None}
        count, size, applied = len(pieces), len(pieces[0]), True
        for number, piece in enumerate(pieces):
            again = embed(self.engine, [piece], seed, first=number)
            mine = slice(number * size, (number + 1) * size)
            share = [
                (again[name] * (slope / count if name in NUMBERS else slope[mine])).sum()
                for name, slope in slopes.items()
                if again[name].requires_grad
            ]
            self.engine.backward(torch.stack(share).sum() * count)
            applied = zero.step(self.engine)
        return applied

    def averaged(
        self, values: dict[str, torch.Tensor], scale: torch.Tensor, counts: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Every term over the global batch and the temperature (of several: tau, tau_1, tau_2, …); and the counts.

        It comes before the backward: a term that is not finite on one process must stop all of them.
        """
        local = torch.cat([*(value.detach().view(1) for value in values.values()), scale.detach()]).tolist()
        names = [*values, *(f"tau_{i}" if i else "tau" for i in range(len(scale)))]
        sums = self.summed(dict(zip(names, local, strict=True)), counts)
        numbers = {name: sums[name] / self.group.world for name in names}
        numbers |= {name: 1 / value for name, value in numbers.items() if name.startswith("tau")}
        return numbers, {name: sums[name] for name in counts}

    def summed(self, *numbers: Mapping[str, float]) -> dict[str, float]:
        """Numbers added up over the processes, in one collective."""
        given = {name: value for some in numbers for name, value in some.items()}
        return dict(zip(given, processes.total(list(given.values()), self.group), strict=True))


def embed(model: nn.Module, pieces: Sequence[Batch], seed: int, first: int = 0) -> Rows:
    """The model's rows for some pieces, one after the other, as if they had been one.

    Args:
        model: a :class:`~distill.training.model.Model`, or DeepSpeed's engine around one.
        pieces: with every teacher's part as outputs.
        seed: piece i draws its random numbers from (seed, i) alone, so a replay repeats them.
        first: the number of the first of these pieces.
    """
    parts: list[Rows] = []
    for number, piece in enumerate(pieces, first):
        torch.manual_seed(hash((seed, number)) & (2**63 - 1))
        parts.append(model(piece.inputs, piece.teachers))
    if len(parts) == 1:
        return parts[0]
    return {k: parts[0][k] if k in NUMBERS else torch.cat([part[k] for part in parts]) for k in parts[0]}


def with_teacher_outputs(batch: Batch, forwards: Sequence[TeacherForward | None], device: torch.device) -> Batch:
    """The batch on the device, the input of every teacher that runs online replaced by its outputs [n, 1 or C, …]."""
    batch = batch.to(device)
    parts = zip(batch.teachers, forwards, strict=True)
    return replace(batch, teachers=tuple(own if forward is None else run(forward, own) for own, forward in parts))


def run(forward: TeacherForward, inputs: Tensors) -> dict[str, torch.Tensor]:
    """The outputs of a teacher, [n, 1 or C, …], from its one input [n, 1 or C, …]."""
    (value,) = inputs.values()
    return {name: out.unflatten(0, value.shape[:2]) for name, out in forward(value.flatten(0, 1)).items()}


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Inside, the model may move its buffers (a batch norm's running statistics); afterwards they are as before.

    A step of gradient caching runs every piece twice and must count it once.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
