"""Fixtures and helpers that several tests share: small shards on disk, a recipe, the command line as a process."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

# One thread per process, set before NumPy and torch are imported: the tests start many processes, and idle OpenMP
# threads busy-wait. On the CPU even if there is a GPU: the tests compare k processes with one at tight tolerances.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Embeddings that evaluations keep are of this test run, and of the processes that it starts.
if "DISTILL_CACHE" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="distill-cache-")  # removed when this process ends
    os.environ["DISTILL_CACHE"] = CACHE.name
# No test downloads anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "brown", "pink")
GERMAN = {
    **{"circle": "Kreis", "square": "Quadrat", "triangle": "Dreieck", "cross": "Kreuz"},
    **{"red": "rot", "green": "grün", "blue": "blau", "orange": "orange"},
    **{"purple": "lila", "black": "schwarz", "brown": "braun", "pink": "rosa"},
}


def picture(shape: str, colour: str, seed: int, side: int = 48) -> Image.Image:
    """A drawing of the caption "a COLOUR SHAPE", so that image and text towers have a correspondence to learn."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    x, y = rng.integers(2, 10, 2)
    box = (x, y, x + 34, y + 34)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "triangle":
        draw.polygon([(x + 17, y), (x, y + 34), (x + 34, y + 34)], fill=colour)
    else:
        draw.line(box, fill=colour, width=9)
        draw.line((x, y + 34, x + 34, y), fill=colour, width=9)
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """Write a tar file with these members; the bytes are the same each time."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, shape: str, colour: str, seed: int) -> list[tuple[str, bytes]]:
    """The members of one sample: an image, its English caption, and a JSON file with the English and German ones."""
    captions = {"en": f"a {colour} {shape}", "de": f"{GERMAN[shape]}, {GERMAN[colour]}"}
    return [
        (f"{key}.png", encoded(picture(shape, colour, seed))),
        (f"{key}.txt", captions["en"].encode()),
        (f"{key}.json", json.dumps({"captions": captions}).encode()),
    ]


def write_shards(folder: Path, counts: tuple[int, ...] = (40, 24), first: int = 0) -> list[Path]:
    """Write shards of drawings, ``counts[i]`` samples in the i-th; ``first`` is the number of the first sample."""
    paths, number = [], first
    folder.mkdir(parents=True, exist_ok=True)
    for i, count in enumerate(counts):
        members: list[tuple[str, bytes]] = []
        for _ in range(count):
            shape, colour = SHAPES[number % 4], COLOURS[number // 4 % 8]
            members += sample(f"{number:06d}", shape, colour, number)
            number += 1
        paths.append(write_tar(folder / f"train-{i:06d}.tar", members))
    return paths


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two shards, 64 samples. Read only: tests that change shards write their own."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder)
    return folder


RECIPE = """
[data]
train = "{shards}"
image_size = 32
crop = [0.7, 1.0]
workers = 0

[[teacher]]
name = "packaged/efficientnet_lite0"
image_size = 64
views = 2

[student]
width = 32
text = {{ arch = "transformer", dim = 48, depth = 2, heads = 3, context = 8 }}
tokenizer = {{ vocab = 100 }}

[student.image]
arch = "vit_tiny_patch16_224"
img_size = 32
depth = 2
embed_dim = 48
num_heads = 3
class_token = false
global_pool = "map"

[objective]
name = "three_towers"

[train]
steps = 6
batch_size = 16

[checkpoint]
every_steps = 3
"""


# Options that make the recipe train without a teacher.
SCRATCH = ["--set", "teacher=[]", "--set", "objective.name=contrastive"]


# The smallest valid config.json of an export.
CONFIG = {
    "format": "distill-export/1",
    **{"width": 8, "temperature": 0.07, "provenance": {}},
    "image": {"arch": "resnet18", "mean": [0.5] * 3, "std": [0.5] * 3, "width": 8, "image_size": 32}
    | {"interpolation": "bicubic"},
    "text": {"spec": {"arch": "transformer"}, "vocab": 30},
}


@pytest.fixture
def recipe(tmp_path: Path, shards: Path) -> Path:
    """A recipe that trains in seconds; its teacher cache lies next to the shards, shared by all tests."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(shards=shards))
    return path


def noise(n: int, side: int) -> Any:
    """[n, 3, side, side] uint8, uniformly distributed."""
    import torch

    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def random_state(net: Any) -> dict[str, Any]:
    """A state dict with a network's names and shapes and small positive weights, so that variances are valid."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator) * 0.1 + 0.01
        if value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype)
        for name, value in net.state_dict().items()
    }


# Every call below runs in its own process, forked from a server that has already imported torch, timm and DeepSpeed:
# the imports take longer than most of what is tested.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["distill.demo.run", "deepspeed", "timm", "torch.utils.tensorboard"])


def distill(
    *arguments: object, cwd: Path | None = None, status: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the ``distill`` command; fail with its output unless it ends with ``status``."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pipes = DupFd(out.fileno()), DupFd(err.fileno())
        process = PROCESSES.Process(target=_distill, args=(words, pipes, str(cwd or Path.cwd()), os.environ | env))
        process.start()
        process.join(600)
        if process.is_alive():
            process.kill()
            process.join()
        code = process.exitcode
        assert code is not None
        process.close()
        texts = [file.read() for file in (out, err) if file.seek(0) == 0]
    result = subprocess.CompletedProcess(words, code, texts[0], texts[1])
    if status is not None and code != status:
        raise AssertionError(f"{words}: status {code}, expected {status}\n{result.stdout}\n{result.stderr}")
    return result


def evaluated(*arguments: object, cwd: Path | None = None, **env: str) -> dict[str, Any]:
    """The result of the first task of ``distill evaluate``."""
    found = json.loads(distill("evaluate", *arguments, "--json", "-", cwd=cwd, **env).stdout)
    return dict(found["results"][0])


def _distill(words: list[str], pipes: tuple[Any, Any], cwd: str, environment: dict[str, str]) -> None:
    """Do what the console script does, in a newly forked process."""
    for descriptor, pipe in zip((1, 2), pipes, strict=True):
        os.dup2(pipe.detach(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["distill", *words]
    from distill.cli.main import main

    main()


def program(name: str, packages: str) -> str:
    """The path of a program; if it is not installed, the test is skipped, but fails in CI."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        reason = f"{name} is not installed: apt-get install {packages}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def metrics(run: Path) -> list[dict[str, Any]]:
    """What a run has logged for every step."""
    return lines_of(run / "metrics.jsonl")


def losses_of(run: Path) -> list[float]:
    """The loss of every step of a run."""
    return [line["loss"] for line in metrics(run)]


def steps_done(run: Path) -> int:
    """How many steps a run, which may still be in progress, has logged."""
    return (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0


def wait_for_step(run: Path, step: int, process: Any = None, seconds: float = 150) -> None:
    """Wait until a run has logged ``step`` steps; fail if its process ends before that, or it takes too long."""
    end = time.monotonic() + seconds
    while steps_done(run) < step:
        ended = process is not None and (process.exitcode if hasattr(process, "exitcode") else process.poll())
        assert ended in (None, False), f"it has ended, with status {ended}"
        assert time.monotonic() < end, f"no step {step} within {seconds:g} s"
        time.sleep(0.05)


def workers_of(pid: int) -> dict[int, psutil.Process]:
    """The training processes started by a command, by rank."""
    found: dict[int, psutil.Process] = {}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            words, rank = child.cmdline(), child.environ().get("RANK")
        except psutil.Error:
            continue
        # The launcher's command line also contains the script, and "-m". Loader processes have the command line and
        # the rank of the training process that forked them, which comes before them here.
        if rank is not None and any(word.endswith("worker.py") for word in words) and "-m" not in words:
            found.setdefault(int(rank), child)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three shards, 80 samples, for ``server`` to serve."""
    folder = tmp_path_factory.mktemp("remote")
    write_shards(folder, (40, 24, 16))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Any]:
    """A web server of that folder that fails in the ways its addresses request."""
    from faulty_server import serving

    with serving(folder) as server:
        yield server
