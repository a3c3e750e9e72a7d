"""The runs of a study: ordinary run folders, one for each variant and seed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from distill.config import Recipe
from distill.errors import UserError
from distill.lookup import resolve
from distill.studies.variants import Variant
from distill.training.checkpoint import CHECKPOINTS, is_complete
from distill.training.resuming import keys_changed
from distill.training.run import is_run, read_about, read_recipe, rules_of
from distill.training.training_set import TrainingSet, open_data

SEED = "train.seed"
COMPLETE, BEGUN, NEW = "complete", "begun", "to do"


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        variant: what is trained.
        seed: with which seed.
        folder: the run folder, which may not exist yet.
    """

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def recipe(self) -> Recipe:
        """The recipe with the seed."""
        return self.variant.with_seed(self.seed)

    @property
    def state(self) -> str:
        """``COMPLETE``, ``BEGUN`` or ``NEW``."""
        if not is_run(self.folder):
            return NEW
        return COMPLETE if is_complete(self.folder, read_about(self.folder)["steps"]) else BEGUN


def runs_of(out: Path, variants: Iterable[Variant], seeds: Iterable[int]) -> list[Run]:
    """The runs of a study in their order: all variants with the first seed, then all with the second, …"""
    variants = list(variants)
    return [Run(one, seed, out / "runs" / one.folder / f"seed-{seed}") for seed in seeds for one in variants]


def check_unchanged(out: Path, variants: Iterable[Variant]) -> None:
    """Raise ``UserError`` if runs of variants were started with other recipes or training samples, naming them."""
    opened: dict[tuple[str, ...], TrainingSet] = {}
    try:
        for variant in variants:
            for run in sorted((out / "runs" / variant.folder).glob("seed-*")):
                if not is_run(run):
                    continue
                check_run(variant, run)
                train = variant.recipe.data.train
                # The same samples train all variants, and all seeds: one look at each data set is enough.
                if not variant.recipe.data.streamed and train not in opened:
                    opened[train] = open_data(variant.resolved)
                    opened[train].continue_with(run)
    finally:
        for data in opened.values():
            data.close()


def check_run(variant: Variant, run: Path) -> None:
    """Raise ``UserError`` if a run was started with another recipe than the variant's."""
    changed = keys_changed(read_recipe(run), resolve(variant.recipe, rules_of(run)).recipe)
    changed = [name for name in changed if name != SEED]
    if changed:
        raise UserError(
            f"The variant '{variant.name}' was started with another {', '.join(changed)}: {run}.",
            "Give the recipe it was started with, or choose another --out.",
        )


def steps_of(run: Run, samples: dict[tuple[str, ...], int]) -> int:
    """How many steps a run has, or will have.

    Args:
        run: the run.
        samples: of the training sets that are known; others are added.
    """
    recipe = run.recipe
    if is_run(run.folder):
        return int(read_about(run.folder)["steps"])
    if recipe.train.epochs is None:
        return recipe.total_steps(0)
    if recipe.data.train not in samples:
        with closing(open_data(run.variant.resolved)) as data:
            samples[recipe.data.train] = data.samples
    return recipe.total_steps(samples[recipe.data.train])


def steps_done(run: Run) -> int:
    """The steps of a run that its newest checkpoint holds."""
    latest = run.folder / CHECKPOINTS / "latest"
    found = re.fullmatch(r"step-(\d+)", latest.read_text(encoding="utf-8").strip()) if latest.is_file() else None
    return int(found[1]) if found else 0


def keep_last_checkpoint(run: Path) -> None:
    """Delete all checkpoints of a run but the newest one; its best one stays, too."""
    folder = run / CHECKPOINTS
    last = (folder / "latest").read_text(encoding="utf-8").strip()
    for old in folder.glob("step-*"):
        if old.name != last:
            # Half deleted it must not be found under its name.
            shutil.rmtree(old.rename(folder / f".unfinished-{old.name}"))
