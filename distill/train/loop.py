"""The training loop: Batch → towers → objective → backward and step → checkpoint.

It does not know which objective it runs, how many processes there are or at which ZeRO stage.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from distill.config import Recipe
from distill.data.batch import Schedule, batches
from distill.data.captions import Tokenizer
from distill.data.order import Order
from distill.data.shards import Shards
from distill.facts import objective_of, teachers_of
from distill.train import checkpoint, setup, towers
from distill.train.log import Log
from distill.train.optim import Pace, learning_rate, optimizer
from distill.train.prepare import TOKENIZER, pieces_of, read_recipe
from distill.train.step import Step
from launch import group as processes
from launch.settings import deepspeed_settings


def train(run: Path) -> None:
    """Train a prepared run from its newest checkpoint, or from the start, to its end.

    Every process of a job calls this. All state that matters is a function of the step: data order, views,
    captions, learning rate and random numbers.

    Args:
        run: a folder that ``distill.train.prepare`` made.
    """
    group = processes.start()
    recipe = read_recipe(run)
    shards = Shards.of(recipe.data.train)
    tokenizer = Tokenizer.load(run / TOKENIZER, towers.text_spec(recipe).context)
    engine, paces = make_engine(recipe, tokenizer.vocab, group)
    start, total = checkpoint.restore(engine, run), recipe.train.total_steps(len(shards))

    objective = objective_of(recipe)
    live = setup.online_teachers(recipe, group.device)
    teach = [processes.sharded(teacher, group, recipe.zero.stage) if teacher else None for teacher in live]
    advance = Step(engine, objective, teach, [table.weight for table in teachers_of(recipe)], group)
    order, size = Order(shards.counts, recipe.train.seed), recipe.train.batch_size
    pieces, neighbours = pieces_of(recipe, group.world), objective.needs.mixup > 0
    schedule = Schedule(order, size, group.rank, group.world, start, total, neighbours, pieces)
    pairs = setup.pairs_of(recipe, shards, tokenizer)
    log = Log(run, f"training {recipe.objective.name}", start, total) if group.first else None
    clock = time.perf_counter()
    try:
        loader = batches(pairs, schedule, recipe.data.workers, pin=group.device.type == "cuda")
        for step, share in enumerate(loader, start):
            rates = [learning_rate(step, total, recipe.optim, pace) for pace in paces]
            for parameters, rate in zip(engine.optimizer.param_groups, rates, strict=True):
                parameters["lr"] = rate

            # Dropout and the like draw from (seed, step, rank), so a resumed run needs no generator state.
            terms = advance(share, hash((recipe.train.seed, step, group.rank)))

            if log is not None:
                now = time.perf_counter()
                lr = learning_rate(step, total, recipe.optim)
                pace = {"lr": lr, "examples": (step + 1) * size, "examples_per_s": size / (now - clock)}
                log.step({"step": step + 1} | terms | pace)
                clock = now
            if (step + 1) % recipe.checkpoint.every_steps == 0 or step + 1 == total:
                checkpoint.save(engine, run, step + 1, recipe.checkpoint.keep, group)
    finally:
        if log is not None:
            log.close()
        shards.close()
        engine.destroy()


def make_engine(recipe: Recipe, vocab: int, group: processes.Group) -> tuple[Any, list[Pace]]:
    """DeepSpeed's engine around a recipe's model, whose weights follow from the seed; and the pace of its groups."""
    import deepspeed

    torch.manual_seed(recipe.train.seed)
    model = setup.model_of(recipe, vocab).to(group.device)
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
    return engine, paces
