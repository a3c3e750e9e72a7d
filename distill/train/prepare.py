"""Everything that happens before the first training process starts: checks, tokenizer, teacher cache, folder.

Cheap checks come first, the folder last: a recipe that is wrong leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.data.captions import Tokenizer
from distill.errors import Bad, UserError
from distill.files import read_table, write_text, write_whole
from distill.recipe import check, dump
from distill.train import fill_caches, open_data, setup, towers
from distill.train.health import BAD_SAMPLES
from distill.train.stop_requests import STOP
from distill.train.training_set import TrainingSet
from launch.job import Job

RECIPE, TOKENIZER, ABOUT = "recipe.toml", "tokenizer.model", "run.json"
# What may be given anew to resume: how much is checked and saved, how it is loaded and cut up, what is passed over.
MAY_CHANGE = (
    r"teacher\.\d+\.audit|checkpoint\..*|zero\.stage|"
    r"data\.(workers|bad_samples|timeout|retries)|train\.(skip_nonfinite|stall_seconds)"
)
PACKAGES = ("torch", "deepspeed", "timm", "sentencepiece", "webdataset", "safetensors", "numpy")


def is_run(folder: Path) -> bool:
    """Whether ``distill train`` has written this folder."""
    return (folder / RECIPE).is_file() and (folder / TOKENIZER).is_file()


def read_recipe(run: Path) -> Recipe:
    """The resolved recipe of a run.

    Raises:
        UserError: if the folder is no run, or its recipe is damaged.
    """
    if not is_run(run):
        raise UserError(f"{run} is not a run.", "Name a folder that 'distill train' wrote.")
    return check(_own(run / RECIPE, tomllib.loads))


def read_about(run: Path) -> dict[str, Any]:
    """What a run's ``run.json`` says; raises like :func:`read_recipe`."""
    return _own(run / ABOUT, json.loads)


def _own(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        return read_table(path, parse)
    except ValueError as error:
        raise UserError(
            f"{path} is missing or damaged: {error}.", "Restore it, or train into another folder."
        ) from error


def prepare(recipe: Recipe, run: Path, resume: bool, job: Job, allow_pipe: bool = False) -> None:
    """Make a run folder ready for training, or check that it is the one to resume.

    Args:
        recipe: resolved.
        run: the run folder.
        resume: continue the run that is there, instead of starting one.
        job: where training will run; what the teacher caches lack is embedded there too.
        allow_pipe: whether the recipe may run shell commands.

    Raises:
        UserError: if anything the user gave does not hold; nothing is left behind then.
    """
    claim(recipe, run, resume)
    pieces_of(recipe, job.world)
    given = given_tokenizer(recipe)
    # A wrong tower, and a teacher that cannot be had, fail here, before any data is read.
    setup.model_of(recipe, given.vocab if given else 4)
    weights = fill_caches.online_weights(recipe)
    data = open_data.of(recipe)
    if data.commands and not allow_pipe:
        number = "a command" if len(data.commands) == 1 else f"{len(data.commands)} commands"
        remedy = "If you trust the recipe, add --allow-pipe."
        raise UserError(f"The recipe runs {number}: {'; '.join(data.commands)}.", remedy)
    bad = data.check()
    if resume:
        data.check_unchanged(run)
    tokenizer = None if resume else given or make_tokenizer(recipe, data)
    embedded, audits = data.embed(job)
    weights |= embedded
    if tokenizer is None:
        check_weights(run, weights)
        write_text(run / RECIPE, dump(recipe))
        (run / STOP).unlink(missing_ok=True)
        return
    model = setup.model_of(recipe, tokenizer.vocab)
    about = {
        "versions": {"distill": version("distill"), "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "seed": recipe.train.seed,
        "processes": job.world,
        "samples": data.samples,
        "steps": recipe.train.total_steps(data.samples),
        "vocab": tokenizer.vocab,
        "parameters": parameter_counts(model),
        "shards": data.shards,
        "teachers": [table.name for table in recipe.teacher],
        "teacher_weights": weights,
        "teacher_audits": audits,
    }
    write_run(recipe, run, tokenizer, about, data, bad)


def write_run(
    recipe: Recipe, run: Path, tokenizer: Tokenizer, about: dict[str, Any], data: TrainingSet, bad: list[Bad]
) -> None:
    """The run folder with all its files, at once or not at all."""
    unfinished = run.with_name(f".{run.name}.unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    write_whole(unfinished / TOKENIZER, lambda to: to.write_bytes(tokenizer.model))
    write_text(unfinished / ABOUT, json.dumps(about, indent=1) + "\n")
    data.save(unfinished)
    if bad:
        lines = [json.dumps({"step": 0} | one._asdict(), ensure_ascii=False) + "\n" for one in bad]
        write_text(unfinished / BAD_SAMPLES, "".join(lines))
    write_text(unfinished / RECIPE, dump(recipe))
    try:
        unfinished.rename(run)  # fails if another start has been quicker
    except OSError as error:
        shutil.rmtree(unfinished)
        raise UserError(f"{run} has been taken meanwhile: {error.strerror}.", "Choose another --out.") from error


def pieces_of(recipe: Recipe, world: int) -> int:
    """How many micro-batches each process's share of a batch is cut into.

    Raises:
        UserError: if batch, processes and micro-batch do not divide.
    """
    size, micro = recipe.train.batch_size, recipe.train.micro_batch
    if size % world:
        raise UserError(
            f"train.batch_size = {size} does not divide among {world} processes.", f"Choose a multiple of {world}."
        )
    share = size // world
    if not micro or micro >= share:
        return 1
    if share % micro:
        raise UserError(
            f"train.micro_batch = {micro} does not divide the {share} samples of a process.",
            f"Choose a divisor of {share}.",
        )
    return share // micro


def claim(recipe: Recipe, run: Path, resume: bool) -> None:
    """Refuse to write where something is, and to resume what is not there or is another recipe's."""
    if resume:
        if not is_run(run):
            raise UserError(f"There is no run to resume in {run}.", "Leave out --resume, or correct --out.")
        old, new = read_recipe(run).model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = sorted({name for name in differences(old, new) if not re.fullmatch(MAY_CHANGE, name)})
        if changed:
            raise UserError(
                f"The run in {run} was started with another {', '.join(changed)}.",
                f"Give the recipe it was started with ({run / RECIPE} is it), or train into another folder.",
            )
    elif is_run(run):
        raise UserError(f"{run} already holds a run.", "Add --resume to continue it, or choose another --out.")
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError(f"{run} exists and is no empty folder.", "Choose another --out.")


def check_weights(run: Path, weights: dict[str, str]) -> None:
    """Refuse to resume with other weights of a teacher than the run was started with."""
    before = read_about(run)["teacher_weights"]
    changed = [name for name, value in weights.items() if before.get(name, value) != value]
    if changed:
        raise UserError(
            f"The weights of '{changed[0]}' are not those the run was started with.",
            "Restore them, or train into another folder.",
        )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The dotted names of the values in which two recipes differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for k, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{path}.{k}")]
    return [] if old == new else [path]


def given_tokenizer(recipe: Recipe) -> Tokenizer | None:
    """The tokenizer that the recipe names, or that comes with the text tower it starts from.

    Raises:
        UserError: if it cannot be read, or both are named and differ.
    """
    context, file, init = towers.text_spec(recipe).context, recipe.student.tokenizer.file, recipe.student.text.init
    named = Tokenizer.load(Path(file), context) if file else None
    if not init:
        return named
    # To another tokenizer than its own, the tower's token ids would mean something else.
    own = Tokenizer.load(Path(init) / TOKENIZER, context)
    if named is not None and named.model != own.model:
        raise UserError(
            f"student.text.init starts from {init}, and student.tokenizer.file is not its tokenizer.",
            "Leave out student.tokenizer.file.",
        )
    return own


def make_tokenizer(recipe: Recipe, data: TrainingSet) -> Tokenizer:
    """A SentencePiece model trained from the training captions."""
    # All at once: SentencePiece would take an error among them for their end.
    return Tokenizer.train(list(data.texts()), recipe.student.tokenizer.vocab, towers.text_spec(recipe).context)


def parameter_counts(model: Any) -> dict[str, int]:
    """Trainable parameters by part; "heads" are all that is thrown away."""
    parts = {"image": [model.image], "text": [model.text], "heads": [model.spaces, model.between]}
    return {
        name: sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
        for name, modules in parts.items()
    }
