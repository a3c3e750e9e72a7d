"""The training loop: Batch → towers → objective → backward and step → checkpoint.

It does not know which objective it runs, how many processes there are or at which ZeRO stage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distill.config import Recipe
from distill.data.batch import Batch
from distill.data.captions import Tokenizer
from distill.lookup import objective_of, teachers_of
from distill.train import open_data, setup, towers
from distill.train.checkpoint import Checkpoints, Snapshot
from distill.train.health import Health
from distill.train.log import Log
from distill.train.optim import Pace, learning_rate, optimizer
from distill.train.prepare import TOKENIZER, pieces_of, read_recipe
from distill.train.step import Step
from distill.train.stop_requests import StopRequests
from distill.train.training_set import Part
from launch import group as processes
from launch import zero
from launch.settings import deepspeed_settings
from launch.watchdog import Watchdog


def train(run: Path) -> bool:
    """Train a prepared run from its newest checkpoint, or from the start, to its end.

    Every process of a job calls this. All state that matters is a function of the step: data order, views,
    captions, learning rate and random numbers.

    Args:
        run: a folder that ``distill.train.prepare`` made.

    Returns:
        Whether it has come to its end; if not, it has been asked to stop and has saved what it had.

    Raises:
        UserError: if it cannot go on.
    """
    group = processes.join()
    recipe = read_recipe(run)
    data = open_data.of_run(recipe, run)
    tokenizer = Tokenizer.load(run / TOKENIZER, towers.text_spec(recipe).context)
    checkpoints = Checkpoints(run, recipe.checkpoint.keep, group)
    snapshot = checkpoints.latest()
    engine, paces = make_engine(recipe, tokenizer.vocab, snapshot, group)
    start, total = snapshot.step if snapshot else 0, recipe.train.total_steps(data.samples)
    del snapshot
    advance = make_step(recipe, engine, group)
    part = Part(group.rank, group.world, pieces_of(recipe, group.world), start, total)
    health = Health(run, recipe, data.samples, start, group)
    log = Log(run, f"training {recipe.objective.name}", start, total, recipe.train.batch_size) if group.first else None
    done = start
    try:
        with (
            StopRequests(run, recipe.checkpoint.every_minutes, group.first) as requests,
            Watchdog(group, recipe.train.stall_seconds, say) as watchdog,
            closing(data.batches(tokenizer, part, pin=group.device.type == "cuda")) as loader,
        ):
            watchdog.at(start + 1, "loading")
            for step, share in enumerate(loader, start):
                watchdog.at(step + 1, "computing")
                rates = [learning_rate(step, total, recipe.optim, pace) for pace in paces]
                for parameters, rate in zip(engine.optimizer.param_groups, rates, strict=True):
                    parameters["lr"] = rate

                # Dropout and the like draw from (seed, step, rank), so a resumed run needs no generator state.
                seed = hash((recipe.train.seed, step, group.rank))
                outcome, done = advance(share, seed, seen(share) | requests.now()), step + 1
                health.take(done, share, outcome, partial(data.keys, step))
                if log is not None:
                    lr, samples = learning_rate(step, total, recipe.optim), int(outcome.counts["samples"])
                    log.step({"step": done} | outcome.numbers | {"lr": lr, "samples": samples})
                stop = outcome.counts["stop"] > 0
                if stop or outcome.counts["save"] or done % recipe.checkpoint.every_steps == 0 or done == total:
                    watchdog.at(done, "saving")
                    checkpoints.save(engine, done)
                    requests.granted()
                if stop:
                    break
                watchdog.at(done + 1, "loading")
            checkpoints.close()
    finally:
        checkpoints.leave()
        if log is not None:
            log.close()
        data.close()
        engine.destroy()
    return done == total


def seen(share: Sequence[Batch]) -> dict[str, float]:
    """What is counted over all processes: bad samples, and a sum that tells whether two runs see the same samples."""
    return {"samples": sum(piece.sum for piece in share), "bad": sum(len(piece.bad) for piece in share)}


def say(sentence: str) -> None:
    """A word in the log, from whichever process."""
    print(sentence, file=sys.stderr, flush=True)


def make_step(recipe: Recipe, engine: Any, group: processes.Group) -> Step:
    """What takes a recipe's steps."""
    live = setup.online_teachers(recipe, group.device)
    teach = [zero.sharded(teacher, group, recipe.zero.stage) if teacher else None for teacher in live]
    weights = [table.weight for table in teachers_of(recipe)]
    return Step(engine, objective_of(recipe), teach, weights, group)


def make_engine(
    recipe: Recipe, vocab: int, snapshot: Snapshot | None, group: processes.Group
) -> tuple[Any, list[Pace]]:
    """DeepSpeed's engine around a recipe's model, and the pace of its parameter groups.

    The weights follow from the seed, or are those of a snapshot. They are put in before DeepSpeed cuts them up, so it
    does not matter how they were cut up before.
    """
    import deepspeed

    torch.manual_seed(recipe.train.seed)
    model = setup.model_of(recipe, vocab)
    if snapshot:
        snapshot.into(model, group.rank)
    model = model.to(group.device)
    optim, paces = optimizer(model, recipe)
    settings = deepspeed_settings(
        batch_size=recipe.train.batch_size,
        world=group.world,
        pieces=pieces_of(recipe, group.world),
        stage=recipe.zero.stage,
        precision=recipe.train.precision,
        clip=recipe.optim.clip,
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optim, config=settings)
    if snapshot:
        zero.load_optimizer_state(engine, snapshot.optimizer)
    return engine, paces
