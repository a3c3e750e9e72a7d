"""The training loop: Batch → towers → objective → backward and step → checkpoint.

It does not know which objective it runs, how many processes there are or at which ZeRO stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import losses
import teachers
from distill.config import Recipe
from distill.data.batch import Batch, Schedule, batches
from distill.data.captions import Tokenizer
from distill.data.order import Order
from distill.data.shards import Shards
from distill.errors import from_leaves
from distill.train import checkpoint, setup
from distill.train.log import Log
from distill.train.model import global_embeddings
from distill.train.optim import learning_rate, optimizer
from distill.train.prepare import TOKENIZER, read_recipe
from launch import group as processes
from launch.settings import deepspeed_settings

TeacherForward = Callable[[torch.Tensor], torch.Tensor]


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
    tokenizer = Tokenizer.load(run / TOKENIZER, setup.text_spec(recipe).context)
    objective = losses.objective(recipe.objective.name, **recipe.objective.options)
    engine = make_engine(recipe, tokenizer.vocab, objective.uses_heads, group)
    start, total = checkpoint.restore(engine, run), recipe.train.total_steps(len(shards))

    teach = teacher_forwards(recipe, group)
    weights = [table.weight for table in recipe.teacher]
    order = Order(shards.counts, recipe.train.seed)
    schedule = Schedule(order, recipe.train.batch_size, group.rank, group.world, start, total)
    pairs = setup.pairs_of(recipe, shards, tokenizer)
    log = Log(run, f"training {recipe.objective.name}", start, total) if group.first else None
    clock = time.perf_counter()
    try:
        loader = batches(pairs, schedule, recipe.data.workers, pin=group.device.type == "cuda")
        for step, host_batch in enumerate(loader, start):
            # Dropout and the like draw from (seed, step, rank), so a resumed run needs no generator state.
            torch.manual_seed(hash((recipe.train.seed, step, group.rank)) & (2**63 - 1))
            batch = taught(host_batch.to(group.device), teach)
            lr = learning_rate(step, total, recipe.optim)
            for parameters in engine.optimizer.param_groups:
                parameters["lr"] = lr

            embeddings = global_embeddings(engine, batch, weights, group)
            terms = objective(embeddings)
            engine.backward(terms["loss"])
            engine.step()

            means = mean_terms(terms, embeddings.scale, group)
            if log is not None:
                now, examples = time.perf_counter(), recipe.train.batch_size
                rate = {"lr": lr, "examples": (step + 1) * examples, "examples_per_s": examples / (now - clock)}
                log.step({"step": step + 1} | means | rate)
                clock = now
            if (step + 1) % recipe.checkpoint.every_steps == 0 or step + 1 == total:
                checkpoint.save(engine, run, step + 1, recipe.checkpoint.keep, group)
    finally:
        if log is not None:
            log.close()
        shards.close()
        engine.destroy()


def make_engine(recipe: Recipe, vocab: int, uses_heads: bool, group: processes.Group) -> Any:
    """DeepSpeed's engine around the model of a recipe, with weights that follow from the seed."""
    import deepspeed

    torch.manual_seed(recipe.train.seed)
    model = setup.model_of(recipe, vocab, uses_heads).to(group.device)
    settings = deepspeed_settings(
        batch_size=recipe.train.batch_size,
        world=group.world,
        stage=recipe.zero.stage,
        precision=recipe.train.precision,
        clip=recipe.optim.clip,
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer(model, recipe.optim), config=settings)
    return engine


def mean_terms(terms: dict[str, torch.Tensor], scale: torch.Tensor, group: processes.Group) -> dict[str, float]:
    """Every term over the global batch, by name, and the temperature."""
    local = torch.cat([*(term.detach().view(1) for term in terms.values()), scale])
    *values, mean_scale = processes.mean(local, group).tolist()  # one collective, one wait for the device
    return dict(zip(terms, values, strict=True)) | {"tau": 1 / mean_scale}


def teacher_forwards(recipe: Recipe, group: processes.Group) -> list[TeacherForward | None]:
    """For every teacher, the frozen forward if it runs online, None if its embeddings come from a cache."""
    with from_leaves():
        return [
            teachers.load(setup.card_of(table), table.image_size).to(group.device) if table.cache == "none" else None
            for table in recipe.teacher
        ]


def taught(batch: Batch, teach: list[TeacherForward | None]) -> Batch:
    """The batch with every teacher's part turned into embeddings [n, P]."""
    if not any(teach):
        return batch
    embeddings = tuple(
        part if forward is None else forward(part) for part, forward in zip(batch.teachers, teach, strict=True)
    )
    return Batch(batch.images, batch.tokens, embeddings, batch.keys)
