"""``distill demo``: the whole pipeline on real emoji, from data to export, in minutes on two CPU cores."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.data import emoji
from distill.data.shards import Shards
from distill.demo.scores import compare, measure
from distill.demo.sheet import contact_sheet
from distill.demo.teacher_check import TEACHER, teacher_difference
from distill.errors import UserError, as_user_errors
from distill.files import write_text
from distill.lookup import resolve
from distill.recipe import dump, load
from distill.reporting.write import write_report
from distill.ship.export import export
from distill.ship.load import load as load_students
from distill.training import fill_caches, fill_worker
from distill.training.setup import Networks, image_student
from distill.training.start import start
from launch.launcher import Job
from launch.launchers.local import Local
from launch.process import return_freed_memory

# Three variants of one recipe: they differ in the objective and in the image tower.
METHODS = {
    "three_towers": [],
    "scratch": ["teacher=[]", 'objective={name="contrastive"}', "student.image.init=", "student.image.select=none"],
    "lit": ['objective={name="contrastive"}', 'student.image={arch="teacher"}', "student.width=1280"],
}
MEASURED = '[{ task = "retrieval", languages = ["en"], every = 50 }]'  # while training: the English names


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        out: a folder that does not exist yet.
        say: prints a line.
        seed: the seed of the three trainings.
        overrides: changes to the demo's recipe, as for ``--set``.
        limit: use at most so many training and so many test emoji.
        seconds: the duration of each stage, by name.
    """

    out: Path
    say: Callable[[str], object] = print
    seed: int = 0
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Print the name of a stage and, at its end, how long it took."""
        self.say(f"• {name} …")
        start_time = time.perf_counter()
        yield
        gc.collect()
        return_freed_memory()
        self.seconds[name] = round(time.perf_counter() - start_time, 1)
        self.say(f"  {self.seconds[name]:.0f} s")

    def run(self) -> dict[str, Any]:
        """Run all stages, and return the content of ``results.json``.

        Raises:
            UserError: if the folder exists, an override is wrong, or a package of the extra "demo" is missing.
        """
        if self.out.exists():
            raise UserError(f"{self.out} already exists.", "Choose another --out.")
        self.check()
        with self.stage("packing OpenMoji's pictures with their names in 14 languages"):
            packed = emoji.pack(self.out / "shards", self.limit)
        shards, unseen, known = (Shards.open(map(str, paths)) for paths in packed)
        self.say(
            f"  {len(shards)} emoji to train on, {len(unseen)} unseen ones to test on; of {len(known)} of the former "
            "another name is held back"
        )
        with self.stage("checking the teacher against its package's own network"):
            difference = teacher_difference()
            self.say(f"  largest difference {difference:.1e}")
        recipes = {name: self.recipe(name, packed.train, packed.test) for name in METHODS}
        runs = self.train(recipes, shards)
        result = {
            "seed": self.seed,
            "train_images": len(shards),
            "test_images": len(unseen),
            "teacher_difference": difference,
            **self.measure(runs, packed.other_names),
        }
        with self.stage("exporting the 3T students and drawing the contact sheet"):
            export(runs["three_towers"], self.out / "export")
            kinds = [("Unseen emoji", unseen), ("Trained emoji, by a name not trained with", known)]
            students, teacher = load_students(self.out / "export"), load_students(runs["lit"])
            contact_sheet(self.out / "contact-sheet.png", students, teacher, kinds)
        with self.stage("writing the report on the three runs"):
            write_report(list(runs.values()), self.out / "report.html", say=lambda line: None)
        result["seconds"] = self.seconds
        write_text(self.out / "results.json", json.dumps(result, indent=1) + "\n")
        return result

    def train(self, recipes: dict[str, Recipe], shards: Shards) -> dict[str, Path]:
        """Embed the training pictures, train every recipe, and return the folders of the runs by name."""
        with self.stage("embedding the training pictures with the teacher"):
            resolved = resolve(recipes["three_towers"])
            job = Job(Path(fill_worker.__file__), (), self.out, Local())
            fill_caches.fill_and_audit(resolved, Networks(resolved), shards, job)
        runs = {name: self.out / "runs" / name for name in recipes}
        for name, recipe in recipes.items():
            with self.stage(f"training {name}"):
                if not start(recipe, runs[name]):
                    raise KeyboardInterrupt("The demo has been stopped.")
        return runs

    def measure(self, runs: dict[str, Path], other_names: list[Path]) -> dict[str, Any]:
        """The scores of every run, and the differences of 3T from the others."""
        cache = self.out / "embeddings"
        with self.stage("measuring on unseen emoji, and on trained ones by names that were held back"):
            return {
                "scores": {name: measure(run, load_students(run), other_names, cache) for name, run in runs.items()},
                "differences": {
                    name: {"unseen": compare(runs["three_towers"], run, cache)}
                    for name, run in runs.items()
                    if name != "three_towers"
                },
            }

    def check(self) -> None:
        """Raise ``UserError`` if an override is wrong, before any work is done."""
        for name in METHODS:
            recipe = self.load_recipe(name, [], [])
            with as_user_errors():
                image_student(resolve(recipe))
            if recipe.teacher and recipe.teacher[0].name != TEACHER:
                raise UserError(
                    "The demo uses a fixed teacher.", "Write your own recipe for another one: see the README."
                )
        if self.limit is not None and recipe.train.batch_size > self.limit:
            raise UserError(
                f"--limit {self.limit} leaves fewer emoji than a batch has ({recipe.train.batch_size}).",
                f"Add --set train.batch_size={self.limit}, or less.",
            )

    def load_recipe(self, name: str, train: list[Path], test: list[Path]) -> Recipe:
        """One of the three recipes, with these shards as data."""
        data = [f"data.train={json.dumps([str(p.absolute()) for p in train])}"]
        data += [f"data.eval={json.dumps([str(p.absolute()) for p in test])}"]
        data += [f"evaluate={MEASURED}"]
        return load("demo", [*data, f"train.seed={self.seed}", *self.overrides, *METHODS[name]])

    def recipe(self, name: str, train: list[Path], test: list[Path]) -> Recipe:
        """One of the three recipes, also written to ``recipes/`` for the user to start from."""
        recipe = self.load_recipe(name, train, test)
        folder = self.out / "recipes"
        folder.mkdir(exist_ok=True)
        write_text(folder / f"{name}.toml", dump(recipe))
        return recipe
