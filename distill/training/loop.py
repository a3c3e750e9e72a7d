"""The training loop: Batch → towers → objective → backward and step → checkpoint.

It does not know which objective it runs, how many processes there are or at which ZeRO stage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from distill.config import pieces_of
from distill.data.batch import Batch
from distill.data.pairs import Part
from distill.errors import as_user_errors
from distill.training.averaging import keep_buffer_averages
from distill.training.checkpoint import Checkpoints, Snapshot
from distill.training.health import Health
from distill.training.log import Log
from distill.training.observing import Observed, observers_of
from distill.training.optimizer import build_optimizer
from distill.training.run import resolve_run
from distill.training.run_lock import locked
from distill.training.schedule import GroupSchedule, learning_rate
from distill.training.setup import Networks, load_tokenizer
from distill.training.step import Step
from distill.training.stop_requests import StopRequests
from distill.training.training_set import open_data_again
from launch import group as processes
from launch import weight_average, zero
from launch.settings import deepspeed_settings
from launch.watchdog import Watchdog


def train(run: Path, networks: Networks | None = None) -> bool:
    """Train a prepared run from its newest checkpoint, or from the start, to its end.

    Every process of a job calls this. All state that matters is a function of the step: data order, views,
    captions, learning rate and random numbers.

    Args:
        run: a folder that ``distill.training.prepare`` made.
        networks: what preparing it in this process has built; otherwise all is built here.

    Returns:
        Whether it has come to its end; if not, it was requested to stop and has saved a checkpoint.

    Raises:
        UserError: if it cannot go on.
    """
    group = processes.join()
    networks = networks or Networks(resolve_run(run), initialize=False)
    resolved, recipe = networks.resolved, networks.resolved.recipe
    # What is entered here is closed in reverse order, whatever happens.
    with ExitStack() as opened:
        data = opened.enter_context(closing(open_data_again(resolved, run)))
        tokenizer = load_tokenizer(resolved, run)
        if group.first:
            opened.enter_context(locked(run))
        checkpoints = opened.enter_context(Checkpoints(run, recipe.checkpoint.keep, group))
        snapshot = checkpoints.latest()
        if snapshot is None and not networks.initialize:
            networks = Networks(resolved)
        start, total = snapshot.step if snapshot else 0, recipe.total_steps(data.samples)
        engine, schedules = make_engine(networks, tokenizer.vocab if tokenizer is not None else 0, snapshot, group)
        opened.callback(engine.destroy)
        del snapshot
        advance = make_step(networks, engine, group)
        part = Part(group.rank, group.world, pieces_of(recipe, group.world), start, total)
        health, log = Health(run, recipe, data.samples + data.pictures, start, group), None
        if group.first:
            log = Log(run, f"training {recipe.objective.name}", start, total, recipe.train.batch_size)
            opened.callback(log.close)
        requests = opened.enter_context(StopRequests(run, recipe.checkpoint.every_minutes, group.first))
        observed = Observed(run, networks, tokenizer, engine, group, start, total)
        observers = opened.enter_context(observers_of(observed))
        watchdog = opened.enter_context(Watchdog(group, recipe.train.stall_seconds, say))
        batches = data.batches(tokenizer, part, pin=group.device.type == "cuda")
        loader, done = opened.enter_context(closing(batches)), start
        watchdog.at(start + 1, "loading")
        for step, share in enumerate(loader, start):
            watchdog.at(step + 1, "computing")
            rates = [learning_rate(step, total, recipe.optim, schedule) for schedule in schedules]
            for parameters, rate in zip(engine.optimizer.param_groups, rates, strict=True):
                parameters["lr"] = rate

            # Dropout and the like draw from (seed, step, rank), so a resumed run needs no generator state.
            seed = hash((recipe.train.seed, step, group.rank))
            outcome, done = advance(share, seed, seen(share) | requests.now()), step + 1
            health.record(done, share, outcome, partial(data.keys, step))
            watchdog.at(done, "evaluating")
            numbers = outcome.numbers | {"lr": learning_rate(step, total, recipe.optim)}
            found = observers.after_step(done, numbers)
            if log is not None:
                samples = {"samples": int(outcome.counts["samples"])}
                log.step({"step": done} | numbers | samples, found, observers.seconds)
            stop = outcome.counts["stop"] > 0
            if stop or outcome.counts["save"] or done % recipe.checkpoint.every_steps == 0 or done == total:
                watchdog.at(done, "saving")
                checkpoints.save(engine, done)
                requests.checkpoint_saved()
            if stop:
                break
            watchdog.at(done + 1, "loading")
        checkpoints.close()
    return done == total


def seen(share: Sequence[Batch]) -> dict[str, float]:
    """What is counted over all processes: bad samples, and a sum that tells whether two runs see the same samples."""
    return {"samples": sum(piece.checksum for piece in share), "bad": sum(len(piece.bad) for piece in share)}


def say(sentence: str) -> None:
    """Write a line to standard error, where the log of every process goes."""
    print(sentence, file=sys.stderr, flush=True)


def make_step(networks: Networks, engine: Any, group: processes.Group) -> Step:
    """What takes the steps of a run."""
    resolved, stage = networks.resolved, networks.resolved.recipe.zero.stage
    forwards = [
        zero.sharded(networks.teacher(k, group.device), group, stage) if teacher.online else None
        for k, teacher in enumerate(resolved.teachers)
    ]
    weights = [teacher.table.weight for teacher in resolved.teachers if resolved.needs.teachers]
    return Step(engine, resolved.objective, forwards, weights, group, resolved.recipe.train.ema)


def make_engine(
    networks: Networks, vocab: int, snapshot: Snapshot | None, group: processes.Group
) -> tuple[Any, list[GroupSchedule]]:
    """DeepSpeed's engine around a run's model, and the learning-rate schedules of its parameter groups.

    The weights follow from the seed, or are those of a snapshot. They are put in before DeepSpeed partitions them, so
    it does not matter how they were partitioned before.
    """
    import deepspeed

    recipe, model = networks.resolved.recipe, networks.model(vocab)
    networks.release_teachers()  # one whose outputs are cached may have given the image student its first weights
    if recipe.train.ema:
        keep_buffer_averages(model)
    if snapshot:
        snapshot.into(model, group.rank)
    model = model.to(group.device)
    optimizer, schedules = build_optimizer(model, recipe, networks.resolved.optimizer)
    settings = deepspeed_settings(
        batch_size=recipe.train.batch_size,
        world=group.world,
        pieces=pieces_of(recipe, group.world),
        stage=recipe.zero.stage,
        precision=recipe.train.precision,
        clip=recipe.optim.clip,
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    if recipe.train.ema:
        weight_average.keep(engine)
    if snapshot:
        with as_user_errors():
            zero.load_optimizer_state(engine, snapshot.optimizer)
    return engine, schedules
