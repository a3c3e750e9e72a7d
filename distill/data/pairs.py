"""Training pairs from indexed shards: which batch holds which, independent of the number of processes and loaders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from distill.data.batch import Batch, joined
from distill.data.order import Order
from distill.data.shards import Shards
from distill.data.transform import TrainingPair, Transform
from distill.errors import Bad, BadSample, UserError

# Variables in which torchrun, DeepSpeed, Open MPI and MPICH say how many of the processes are on this machine.
PROCESSES_HERE = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
ATTEMPTS = 1000  # samples tried for one position: the one in the order, then replacements for bad ones


class Part(NamedTuple):
    """The batches that one process loads.

    Attributes:
        rank, world: the process, and the number of processes.
        pieces: the number of micro-batches into which its share of each batch is split.
        start, stop: the first step, and the step before which to stop; counted from 0.
    """

    rank: int
    world: int
    pieces: int
    start: int
    stop: int


class Slot(NamedTuple):
    """One position in the sample order of all epochs, with the epoch and the sample there.

    Where a batch is joined of several data sets, ``dataset`` is the number of the one that these are of.
    """

    epoch: int
    sample: int
    position: int
    dataset: int = 0


def on_one_machine(world: int) -> bool:
    """Whether all processes of a job share this machine's memory, as far as the variables of its launcher say."""
    here = [os.environ[name] for name in PROCESSES_HERE if os.environ.get(name, "").isdigit()]
    nodes = os.environ.get("SLURM_STEP_NUM_NODES", "")
    return all(int(count) >= world for count in here) and nodes in ("", "1")


class Pairs(Dataset[Batch]):
    """A data set whose item for a list of :class:`Slot` is a collated batch.

    Args:
        shards: the shards with the samples.
        transform: turns samples into batches.
        order: the sample order of all epochs, from which replacements for bad samples are taken.
        batch_size: of the global batch.
        one_machine: whether all processes of the job are on this machine, so that one reads ahead for the others.
    """

    def __init__(
        self, shards: Shards, transform: Transform, order: Order, batch_size: int, one_machine: bool = True
    ) -> None:
        self.shards, self.transform, self.order, self.batch_size = shards, transform, order, batch_size
        self.one_machine, self._begun = one_machine, False

    def __getitems__(self, slots: list[Slot]) -> Batch | UserError:
        """The batch of some slots, see :meth:`Transform.collate`; or an error for the main process to raise.

        A loader process would wrap an exception in its own traceback.
        """
        bad: list[Bad] = []
        self._read_ahead(slots)
        try:
            pairs = [self._pair(slot, bad) for slot in slots]
        except UserError as error:
            return error
        return self.transform.collate(pairs, bad)

    def _read_ahead(self, slots: list[Slot]) -> None:
        """Have the operating system read the images of the same slots of the next batch, while these are decoded."""
        if "image" not in self.transform.kinds or not slots:
            return
        first = slots[0].position
        # The last slot, a neighbour for mixup, may be elsewhere in the batch.
        stop = first + sum(slot.position == first + k for k, slot in enumerate(slots))
        for lead in (self.batch_size,) if self._begun else (0, self.batch_size):
            if self.one_machine:
                runs = self.order.ahead(first + lead, stop + lead)
            else:
                runs = np.array([(i, 1) for _, i in self.order.between(first + lead, stop + lead)])
            self.shards.read_ahead(runs)
        self._begun = True

    def _pair(self, slot: Slot, bad: list[Bad]) -> TrainingPair:
        """The pair of a slot: of its sample, or of the first usable replacement; bad samples go to ``bad``.

        Raises:
            BadSample: if none of ``ATTEMPTS`` samples can be used.
        """
        for number in range(ATTEMPTS):
            i = self.order.replacement(slot.position, number, self.batch_size) if number else slot.sample
            try:
                return self.transform.pair(self.shards.read(i, self.transform.kinds), slot.epoch, i)
            except BadSample as error:
                bad.append(error.bad)
                last = error
        raise last


class Schedule(Sampler[list[Slot]]):
    """The slots of each of one process's micro-batches, from step ``start`` up to ``stop``.

    Step s covers positions [s·B, (s+1)·B) of the order. Process r of R has the r-th of R equal parts, split into
    ``pieces`` micro-batches. With ``neighbours``, which mixup needs, each micro-batch has one more slot: the position
    after it, or the first position of the batch after the last one.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
        rank: int,
        world: int,
        start: int,
        stop: int,
        neighbours: bool = False,
        pieces: int = 1,
    ) -> None:
        self.order, self.batch_size, self.size, self.pieces = order, batch_size, batch_size // (world * pieces), pieces
        self.offset, self.start, self.stop, self.neighbours = rank * pieces * self.size, start, stop, neighbours

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size
            for piece in range(self.pieces):
                begin = self.offset + piece * self.size
                found = self.order.between(first + begin, first + begin + self.size)
                slots = [Slot(*one, position) for position, one in enumerate(found, first + begin)]
                if self.neighbours:
                    position = first + (begin + self.size) % self.batch_size
                    slots.append(Slot(*self.order.at(position), position))
                yield slots

    def __len__(self) -> int:
        return (self.stop - self.start) * self.pieces


class JoinedPairs(Dataset[Batch]):
    """Captioned pairs and pictures without captions in one batch, in this order.

    Args:
        captioned, pictures: the two data sets, number 0 and 1 of :class:`Slot`.
    """

    def __init__(self, captioned: Pairs, pictures: Pairs) -> None:
        self.datasets = captioned, pictures

    def __getitems__(self, slots: list[Slot]) -> Batch | UserError:
        """The batch of some slots; or an error for the main process to raise, see :class:`Pairs`."""
        parts = list[Batch]()
        for number, dataset in enumerate(self.datasets):
            part = dataset.__getitems__([slot for slot in slots if slot.dataset == number])
            if isinstance(part, UserError):
                return part
            parts.append(part)
        return joined(*parts)


class JoinedSchedule(Sampler[list[Slot]]):
    """The slots of batches that are joined of several data sets.

    Args:
        schedules: one for each data set, with the same steps and numbers of pieces.
    """

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.schedules = schedules

    def __iter__(self) -> Iterator[list[Slot]]:
        for pieces in zip(*self.schedules, strict=True):
            yield [slot._replace(dataset=number) for number, slots in enumerate(pieces) for slot in slots]

    def __len__(self) -> int:
        return len(self.schedules[0])
