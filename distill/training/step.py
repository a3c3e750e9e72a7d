"""One optimiser step on a whole batch, or on micro-batches with the gradient of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from distill.data.batch import Batch, Tensors, in_sample_order, rows_of_part
from distill.training.averaging import update_averages
from distill.training.gather import LOSS_PARAMETERS, NotFiniteRows, embeddings, terms
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
        numbers: the loss terms of the global batch and the temperatures, by name.
        counts: the sums over all processes of the counts that were passed in.
        nonfinite: what was NaN or infinite, in words; "" if everything was finite. If not, the step has changed no
            weight. Of the rows, only those of this process are named, so this text may differ between processes.
        positions: the positions in the global batch of the samples with values that are not finite; empty if it
            cannot be narrowed down to samples.
    """

    numbers: dict[str, float]
    counts: dict[str, float]
    nonfinite: str = ""
    positions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """A training step: call it with a batch.

    Attributes:
        engine: the DeepSpeed engine around a :class:`~distill.training.model.Model`.
        objective: the objective that is optimised.
        teachers: for each teacher its frozen forward function if it runs online, None if the batch holds its outputs.
        weights: the weight of each teacher.
        group: the process group.
        ema: the decay of the averages of weights and buffers; 0 if none are kept.
    """

    engine: Any
    objective: Objective
    teachers: Sequence[TeacherForward | None]
    weights: Sequence[float]
    group: processes.Group
    ema: float = 0.0

    def __call__(
        self, share: Sequence[Batch], seed: int, counts: Mapping[str, float] = MappingProxyType({})
    ) -> Outcome:
        """Forward, backward and optimiser step. If any value is not finite, weights and buffers stay unchanged.

        Args:
            share: this process's share of the batch, as micro-batches of equal size; as many as the engine's
                gradient accumulation steps.
            seed: the seed of dropout and other randomness, for this step and process.
            counts: numbers that are summed over all processes in the same collective as the loss terms.
        """
        micro_batches = [with_teacher_outputs(batch, self.teachers, self.group.device) for batch in share]
        buffers = list(self.engine.module.buffers())
        before = [buffer.clone() for buffer in buffers]
        outcome = self._step(micro_batches, seed, counts)
        if outcome.nonfinite:  # batch norms have updated their running statistics with the non-finite values
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        return outcome

    def _step(self, micro_batches: list[Batch], seed: int, counts: Mapping[str, float]) -> Outcome:
        try:
            if len(micro_batches) == 1:
                rows = embed(self.engine, micro_batches, seed)
            else:
                with torch.no_grad(), preserve_buffers(self.engine.module):
                    rows = {k: v.detach().requires_grad_() for k, v in embed(self.engine, micro_batches, seed).items()}
            values = self.loss_terms(rows, sum(batch.captioned_count for batch in micro_batches))
        except NotFiniteRows as error:
            sums = self.sum_over_processes({}, counts)
            return Outcome({}, sums, f"the rows {', '.join(error.names)}", tuple(error.positions))
        numbers, counts = self.average(values, rows["scale"], counts)
        nonfinite = [name for name, value in numbers.items() if not math.isfinite(value)]
        if nonfinite:
            return Outcome(numbers, counts, f"the term {', '.join(nonfinite)}")
        if len(micro_batches) == 1:
            self.engine.backward(values["loss"])
            applied = zero.step(self.engine)
        else:
            applied = self.replay(micro_batches, seed, rows, values)
        if min(value for name, value in numbers.items() if name.startswith("tau")) * MAX_SCALE < 1.001:
            zero.clamp_parameter(self.engine.module.log_scale, MAX_LOG_SCALE)
        if self.ema and applied:  # after clamping, so the average is of the weights that the next step begins with
            update_averages(self.engine, self.ema)
        return Outcome(numbers, counts, "" if applied else "a gradient")

    def loss_terms(self, rows: Rows, captioned: int | None = None) -> dict[str, torch.Tensor]:
        """The objective's terms over the global batch, from this process's rows, of which so many are captioned.

        Raises:
            NotFiniteRows: on every process, if a row of any process is not finite.
        """
        return terms(self.objective, embeddings(rows, self.objective.needs, self.weights, self.group, captioned))

    def replay(self, micro_batches: list[Batch], seed: int, rows: Rows, values: dict[str, torch.Tensor]) -> bool:
        """Second pass of gradient caching (arXiv 2101.06983): backward and step, one micro-batch at a time.

        The first pass has embedded all micro-batches without a graph and computed the loss, whose backward gives the
        gradient of every embedding. Here each micro-batch is embedded again with the same random numbers, and the
        surrogate loss Σ ⟨embedding, its gradient⟩ is propagated to the weights. The loss uses the temperature once,
        but every micro-batch's forward returns it, so each gets an equal part of its gradient. The engine divides by
        the number of micro-batches, hence the factor. Accumulation is the engine's own, which works at every ZeRO
        stage; ``no_sync`` is not used.

        Returns:
            Whether all gradients were finite, so that the optimiser step was applied.
        """
        values["loss"].backward()
        gradients = {name: row.grad for name, row in rows.items() if row.grad is not None}
        count, size, captioned = len(micro_batches), len(micro_batches[0]), micro_batches[0].captioned_count
        applied = True
        for number, batch in enumerate(micro_batches):
            replayed = embed(self.engine, [batch], seed, first=number)
            own = {
                name: gradient / count
                if name in LOSS_PARAMETERS
                else rows_of_part(gradient, number, count, size, captioned)
                for name, gradient in gradients.items()
            }
            products = [(replayed[name] * own[name]).sum() for name in own if replayed[name].requires_grad]
            self.engine.backward(torch.stack(products).sum() * count)
            applied = zero.step(self.engine)
        return applied

    def average(
        self, values: dict[str, torch.Tensor], scale: torch.Tensor, counts: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Every term averaged over the processes, with the temperatures tau, tau_1, tau_2, …; and the summed counts.

        This runs before the backward pass, because a term that is not finite on one process must skip the step on
        all of them.
        """
        local = torch.cat([*(value.detach().view(1) for value in values.values()), scale.detach()]).tolist()
        names = [*values, *(f"tau_{i}" if i else "tau" for i in range(len(scale)))]
        sums = self.sum_over_processes(dict(zip(names, local, strict=True)), counts)
        numbers = {name: sums[name] / self.group.world for name in names}
        numbers |= {name: 1 / value for name, value in numbers.items() if name.startswith("tau")}
        return numbers, {name: sums[name] for name in counts}

    def sum_over_processes(self, *numbers: Mapping[str, float]) -> dict[str, float]:
        """All numbers by name, each summed over the processes, in one collective."""
        local = {name: value for mapping in numbers for name, value in mapping.items()}
        return dict(zip(local, processes.total(list(local.values()), self.group), strict=True))


def embed(model: nn.Module, micro_batches: Sequence[Batch], seed: int, first: int = 0) -> Rows:
    """The model's rows for micro-batches, computed one after the other and joined: captioned samples first.

    Args:
        model: a :class:`~distill.training.model.Model`, or the DeepSpeed engine around one.
        micro_batches: with the outputs of every teacher.
        seed: micro-batch i draws its random numbers from (seed, i) alone, so a replay repeats them.
        first: the index i of the first of these micro-batches.
    """
    parts: list[Rows] = []
    for number, batch in enumerate(micro_batches, first):
        torch.manual_seed(hash((seed, number)) & (2**63 - 1))
        parts.append(model(batch.inputs, batch.teachers))
    size, captioned = len(micro_batches[0]), micro_batches[0].captioned_count
    return {
        name: value if name in LOSS_PARAMETERS else in_sample_order([part[name] for part in parts], size, captioned)
        for name, value in parts[0].items()
    }


def with_teacher_outputs(batch: Batch, forwards: Sequence[TeacherForward | None], device: torch.device) -> Batch:
    """The batch on the device, with the input of every online teacher replaced by its outputs [n, 1 or C, …]."""
    batch = batch.to(device)
    outputs = [
        tensors if forward is None else teacher_outputs(forward, tensors)
        for tensors, forward in zip(batch.teachers, forwards, strict=True)
    ]
    return replace(batch, teachers=tuple(outputs))


def teacher_outputs(forward: TeacherForward, inputs: Tensors) -> dict[str, torch.Tensor]:
    """The outputs of a teacher by name, [n, 1 or C, …], from its one input [n, 1 or C, …]."""
    (value,) = inputs.values()
    return {name: out.unflatten(0, value.shape[:2]) for name, out in forward(value.flatten(0, 1)).items()}


@contextmanager
def preserve_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the model's buffers, such as a batch norm's running statistics, at the end of the block.

    Gradient caching runs every micro-batch twice, and running statistics must be updated once only.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)
