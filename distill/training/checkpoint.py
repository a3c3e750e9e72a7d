"""Checkpoints of a run: everything to resume from, and the students to use, as safetensors.

``checkpoints/step-N/`` appears under that name when it is complete and has been read back, and ``checkpoints/latest``
names the newest one. What is saved is whole and by name, not cut along processes: any number of them can go on from
it, at any ZeRO stage. There is no pickle in it, so a checkpoint from elsewhere cannot run code.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from distill.errors import UserError, as_user_errors
from distill.files import write_text, write_whole
from distill.tensors import digest, digest_of
from distill.training.model import on_cpu, student_tensors
from launch import group as processes
from launch import zero

CHECKPOINTS, BEST = "checkpoints", "best"  # folders of a run
STATE, STUDENTS, SEAL = "state.safetensors", "students.safetensors", "checkpoint.json"
MODEL, OPTIMIZER, BUFFERS = "model", "optimizer", "buffers"  # what names in STATE begin with


@dataclass(frozen=True)
class Snapshot:
    """A run between two steps, on the CPU.

    Attributes:
        step: optimiser steps done.
        model: the model's state dict.
        optimizer: see :func:`launch.zero.optimizer_state`.
        buffers: the model's buffers as process 0, 1, … has them: a batch norm's statistics are each process's own.
    """

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    buffers: tuple[dict[str, torch.Tensor], ...]

    @classmethod
    def take(cls, engine: Any, step: int, group: processes.Group) -> Snapshot:
        """A copy of everything that a run goes on from. Every process must call this."""
        model = engine.module
        with zero.full_parameters(model):
            state = on_cpu(model)
        own = {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers()}
        buffers = tuple(processes.gather_objects(own, group)) if own else ()
        with as_user_errors():
            optimizer = zero.optimizer_state(engine)
        return cls(step, state, optimizer, buffers)

    @classmethod
    def read(cls, folder: Path) -> Snapshot:
        """A snapshot from the files of a checkpoint."""
        from safetensors.torch import load_file

        parts: dict[str, dict[str, torch.Tensor]] = {MODEL: {}, OPTIMIZER: {}}
        for name, value in load_file(folder / STATE).items():
            part, rest = name.split("/", 1)
            parts.setdefault(part, {})[rest] = value
        buffers = [parts[f"{BUFFERS}-{rank}"] for rank in range(len(parts) - 2)]
        return cls(seal_of(folder)["step"], parts[MODEL], parts[OPTIMIZER], tuple(buffers))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything under one roof, as it is written."""
        parts = {MODEL: self.model, OPTIMIZER: self.optimizer}
        parts |= {f"{BUFFERS}-{rank}": own for rank, own in enumerate(self.buffers)}
        return {f"{part}/{name}": value.contiguous() for part, some in parts.items() for name, value in some.items()}

    def into(self, model: nn.Module, rank: int) -> None:
        """Give a model its weights, and process ``rank`` its own buffers.

        Raises:
            UserError: if they are another model's.
        """
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            raise UserError(
                f"The checkpoint is another model's: {error}.", "Resume with the recipe of the run."
            ) from error
        if self.buffers:
            own = self.buffers[rank % len(self.buffers)]
            for name, buffer in model.named_buffers():
                buffer.copy_(own[name])


class Checkpoints:
    """Writes the checkpoints of a run, one at a time, while training goes on.

    Used with ``with``, which at the end waits until the last one is written, whatever happens.

    Args:
        run: the run folder.
        keep: how many of them stay.
        group: the processes; the first one writes.
        folder: of the run.
    """

    def __init__(self, run: Path, keep: int, group: processes.Group, folder: str = CHECKPOINTS) -> None:
        self.run, self.keep, self.group, self.folder = run, keep, group, folder
        self.writing: threading.Thread | None = None
        self.failure: OSError | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self.wait()

    def latest(self) -> Snapshot | None:
        """The newest checkpoint that is whole; the first process looks, so all take the same."""
        folder = processes.gather_objects(newest(self.run) if self.group.first else None, self.group)[0]
        return Snapshot.read(folder) if folder else None

    def save(self, engine: Any, step: int, about: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Copy what a checkpoint needs, and have it written, with what there is to say about it. Every process must
        call this.

        What cannot be written (a full disk) is said and costs this checkpoint, not the training; the last good one
        stays, and :meth:`close` raises if nothing later was written.
        """
        snapshot = Snapshot.take(engine, step, self.group)
        averages = {
            name.removesuffix(f"/{zero.AVERAGE}"): value
            for name, value in snapshot.optimizer.items()
            if name.endswith(f"/{zero.AVERAGE}")
        }
        students = dict(student_tensors(engine.module, averages))
        if not self.group.first:
            return
        self.wait()
        made_by = {"processes": self.group.world, "zero_stage": engine.zero_optimization_stage()}
        seal = {**about, "step": step, "made_by": made_by | {"autocast": bool(engine.torch_autocast_enabled())}}
        self.writing = threading.Thread(target=self._write, args=(snapshot, students, seal), name="checkpoint")
        self.writing.start()

    def close(self) -> None:
        """Wait for the last checkpoint.

        Raises:
            UserError: if it could not be written.
        """
        self.wait()
        if self.failure is not None:
            error, self.failure = self.failure, None
            good = newest(self.run, self.folder)
            raise UserError(
                f"The last checkpoint could not be written: {error.strerror or error}.",
                f"Make room and continue with --resume; {good.name if good else 'nothing'} is kept.",
            ) from error

    def wait(self) -> None:
        """Wait until what has been begun is written."""
        if self.writing is not None:
            self.writing.join()
            self.writing = None

    def _write(self, snapshot: Snapshot, students: dict[str, torch.Tensor], seal: dict[str, Any]) -> None:
        try:
            write(self.run / self.folder, snapshot.tensors(), students, seal, self.keep)
            self.failure = None
        except OSError as error:
            self.failure = error
            print(
                f"The checkpoint of step {snapshot.step} could not be written: {error.strerror or error}. "
                "The one before it is kept; training goes on to the next.",
                file=sys.stderr,
                flush=True,
            )
        except Exception as error:  # safetensors has its own for a disk that is full
            self.failure = OSError(str(error))
            print(
                f"The checkpoint of step {snapshot.step} could not be written: {error}.", file=sys.stderr, flush=True
            )


def write(
    folder: Path, state: dict[str, torch.Tensor], students: dict[str, torch.Tensor], seal: dict[str, Any], keep: int
) -> None:
    """Write one checkpoint: complete, read back and sealed before it gets its name; then forget the oldest."""
    from safetensors.torch import save_file

    tag = f"step-{seal['step']:08d}"
    for left in folder.glob(".unfinished-*"):
        shutil.rmtree(left)
    unfinished = folder / f".unfinished-{tag}"
    try:
        hashes = {}
        for name, tensors in ((STATE, state), (STUDENTS, students)):
            write_whole(unfinished / name, lambda to, tensors=tensors: save_file(tensors, to))  # type: ignore[misc]
            hashes[name] = digest(tensors)
            if digest_of(unfinished / name) != hashes[name]:
                raise OSError(f"{name} does not read back as it was written")
        write_text(unfinished / SEAL, json.dumps(seal | {"sha256": hashes}, indent=1) + "\n")
        shutil.rmtree(folder / tag, ignore_errors=True)  # a damaged one, or one that a run resumed earlier has left
        unfinished.rename(folder / tag)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    write_text(folder / "latest", tag)
    older = sorted(path for path in folder.glob("step-*") if path.name < tag)
    for old in older[: max(0, len(older) - keep + 1)]:
        # Half deleted it must not be found under its name.
        shutil.rmtree(old.rename(folder / f".unfinished-{old.name}"))


def seal_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; "step" among it."""
    return dict(json.loads((folder / SEAL).read_text(encoding="utf-8")))


def step_of(folder: Path) -> int:
    """The number of steps that a checkpoint's run had done."""
    return int(seal_of(folder)["step"])


def complaint(folder: Path) -> str:
    """What is wrong with a checkpoint; "" if it is as it was written."""
    try:
        seal = seal_of(folder)
        for name, expected in seal["sha256"].items():
            if digest_of(folder / name) != expected:
                return f"{name} has changed since it was written"
        return "" if isinstance(seal["step"], int) else "it does not say of which step it is"
    except Exception as error:  # a damaged file makes json and safetensors raise whatever they like
        return f"{type(error).__name__}: {error}"


def is_complete(run: Path, steps: int) -> bool:
    """Whether a run of so many steps has come to its end."""
    latest = run / "checkpoints" / "latest"
    return latest.is_file() and latest.read_text(encoding="utf-8").strip() == f"step-{steps:08d}"


def best_value(run: Path, start: int) -> float:
    """The score of the best checkpoint of a run that goes on from step ``start``, the larger the better.

    Minus infinity if there is none. One of a later step comes from a part of the run that was interrupted before its
    next checkpoint, and is made again.
    """
    try:
        folder = newest(run, BEST)
        seal = {} if folder is None else seal_of(folder)
        return float(seal["score"]) if seal.get("step", start + 1) <= start else -math.inf
    except (UserError, KeyError, TypeError, ValueError):
        return -math.inf


def any_saved(run: Path) -> bool:
    """Whether a run has saved a checkpoint; whether one is whole, :func:`newest` finds out."""
    folder = run / CHECKPOINTS
    return (folder / "latest").is_file() or any(folder.glob("step-*"))


def newest(run: Path, name: str = CHECKPOINTS) -> Path | None:
    """The folder of a run's newest checkpoint that is whole, if it has one; it says which ones it passes over.

    Args:
        run: the run.
        name: of the folder with the checkpoints.

    Raises:
        UserError: if there are checkpoints and none is whole: starting anew would throw the run away.
    """
    folder, latest = run / name, run / name / "latest"
    there = sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)
    if latest.is_file():
        named = latest.read_text(encoding="utf-8", errors="replace").strip()
        if not (folder / named).is_dir():
            raise UserError(f"{latest} names the checkpoint {named}, which is not there.", "Name one that is.")
        there = [path for path in there if path.name <= named]
    for path in there:
        wrong = complaint(path)
        if not wrong:
            return path
        print(f"The checkpoint {path} is damaged ({wrong}); the one before it is taken.", file=sys.stderr)
    if there:
        raise UserError(f"No checkpoint in {folder} is whole.", "Restore one, or train into another folder.")
    return None
