"""The papers' variants as recipe settings: each trains, logs its loss terms, and exports the trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import distill, evaluated
from safetensors.torch import load_file

import distill as package
import teachers
from distill.data.batch import Batch
from distill.data.captions import Captions
from distill.data.pairs import Slot
from distill.data.shards import Shards
from distill.data.views import decode
from distill.lookup import resolve
from distill.recipe import load
from distill.ship.embed import embed_images
from distill.training import setup
from distill.training.checkpoint import Snapshot
from distill.training.schedule import GroupSchedule, learning_rate
from distill.training.step import with_teacher_outputs

RECIPE = """
[data]
train = "{shards}"
image_size = 32
captions = "first"
workers = 0

[[teacher]]
name = "packaged/efficientnet_lite0"
image_size = 32

[student]
width = 32
text = {{ arch = "transformer", dim = 24, depth = 1, heads = 2, context = 8 }}
tokenizer = {{ vocab = 100 }}

[student.image]
arch = "vit_tiny_patch16_224"
img_size = 32
depth = 1
embed_dim = 48
num_heads = 3
class_token = false
global_pool = "map"

[train]
steps = 2
batch_size = 32

[checkpoint]
every_steps = 2
"""

LITE0 = '{name="packaged/efficientnet_lite0",image_size=32}'
MINILM = '{name="packaged/all_minilm_l6_v2",weight=0.5}'
FROM_TEACHER = 'arch="tf_efficientnet_lite0",init="teacher"'
THREE = {"loss", "fg", "fh", "gh", "tau"}
# Name → the settings, and the loss terms that are logged.
GRID: dict[str, tuple[list[str], set[str]]] = {
    "3T": ([], THREE),
    "no fg": (['objective.terms=["fh","gh"]'], THREE - {"fg"}),
    "no fh": (['objective.terms=["fg","gh"]'], THREE - {"fh"}),
    "no gh": (['objective.terms=["fg","fh"]'], THREE - {"gh"}),
    "heads on the third tower, MLP": (["objective.heads=third", "objective.adapter=mlp"], THREE),
    "heads on the main towers": (["objective.heads=main"], THREE),
    "headless": (["objective.heads=none"], THREE),
    "headless, MLP": (["objective.heads=none", "objective.adapter=mlp"], THREE),
    "independent heads": (["objective.heads=independent"], THREE),
    "three temperatures": (["objective.temperatures=own", "objective.weight=2"], THREE | {"tau_1", "tau_2"}),
    "sigmoid 3T": (["objective.pair=sigmoid", "student.temperature=0.1"], THREE),
    "L2 transfer": (["objective.name=l2", "objective.weight=0.01"], THREE),
    "initialised from the teacher": ([f"student.image={{{FROM_TEACHER}}}"], THREE),
    "cosine features": (["objective.name=cosine"], THREE),
    "smooth L1 features": (["objective.name=smooth_l1"], THREE),
    "relational": (["objective.name=relational"], THREE),
    "function matching": (["objective.name=function_matching"], {"loss", "fg", "kl", "tau"}),
    "function matching with mixup": (
        ["objective.name=function_matching", "objective.mixup=1", "teacher.0.cache=none", "train.micro_batch=16"],
        {"loss", "fg", "kl", "tau"},
    ),
    "image and text teacher": ([f"teacher=[{LITE0},{MINILM}]", "train.micro_batch=16"], THREE),
    "joint captions": (
        ["data.captions=joint", f"teacher=[{LITE0},{MINILM}]", "objective.heads=main", "train.micro_batch=8"],
        THREE,
    ),
    "uu": (["objective.name=contrastive", "teacher=[]"], {"loss", "tau"}),
    "Uu": (["objective.name=contrastive", f"student.image={{{FROM_TEACHER}}}"], {"loss", "tau"}),
    "Lu, online": (["objective.name=contrastive", f"student.image={{{FROM_TEACHER},locked=true}}"], {"loss", "tau"}),
    "LiT": (["objective.name=contrastive", 'student.image={arch="teacher"}', "student.width=1280"], {"loss", "tau"}),
    "SigLiT": (
        ["objective.name=contrastive", "objective.pair=sigmoid", 'student.image={arch="teacher",layers=1}'],
        {"loss", "tau"},
    ),
    "FlexiLiT 1": (["objective.name=contrastive", 'student.image={arch="teacher",layers=4}'], {"loss", "tau"}),
    "FlexiLiT 2": (
        [
            "objective.name=contrastive",
            'student.image={arch="teacher",layers=4,beside={arch="vit_tiny_patch16_224",img_size=32,depth=1,'
            "embed_dim=48,num_heads=3}}",
        ],
        {"loss", "tau"},
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A folder with the recipe that the settings of every variant are applied to."""
    home = tmp_path_factory.mktemp("grid")
    (home / "recipe.toml").write_text(RECIPE.format(shards=shards))
    return home


def run(home: Path, name: str, settings: list[str]) -> Path:
    """The run with these settings; trained if it does not exist yet."""
    if not (home / name).exists():
        options = [part for setting in settings for part in ("--set", setting)]
        distill("train", "recipe.toml", "--out", name, *options, cwd=home)
    return home / name


def changed(run: Path, before: dict[str, torch.Tensor], prefix: str, step: int = 2) -> set[str]:
    """The names of the tensors in ``before`` that differ from a run's after a step."""
    after = load_file(run / f"checkpoints/step-{step:08d}/students.safetensors")
    return {k for k, v in before.items() if not torch.equal(v, after[prefix + k])}


@pytest.mark.parametrize("name", GRID)
def test_every_variant_trains_and_loads_as_the_trained_model(home: Path, name: str) -> None:
    settings, terms = GRID[name]
    folder = run(home, name, settings)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and set(lines[0]) - {"step", "lr", "examples", "examples_per_s", "samples"} == terms
    assert all(torch.tensor(list(line.values())).isfinite().all() for line in lines)

    recipe = load(str(folder / "recipe.toml"))
    networks = setup.Networks(resolve(recipe))
    tokenizer = setup.load_tokenizer(networks.resolved, folder)
    assert tokenizer is not None
    model = networks.model(tokenizer.vocab)
    model.load_state_dict(Snapshot.read(folder / "checkpoints/step-00000002").model)
    opened = Shards.open(recipe.data.train)
    slots = [Slot(0, i, i) for i in range(9)]
    batch = setup.pairs_of(networks.resolved, opened, tokenizer).__getitems__(slots)
    assert isinstance(batch, Batch)
    live = enumerate(networks.resolved.teachers)
    forwards = [networks.teacher(k) if teacher.online else None for k, teacher in live]
    batch = with_teacher_outputs(batch, forwards, torch.device("cpu"))
    with torch.no_grad():
        rows = model.eval()(batch.inputs, batch.teachers)
    count = len(batch.keys)
    loaded = package.load(folder)
    images = loaded.encode_image([decode(opened.read(i)) for i in range(count)])
    texts = loaded.encode_text([Captions().read(opened.read(i))[0].text for i in range(count)])
    # A teacher's cached embeddings are float16.
    tolerance = 2e-3 if recipe.on_teacher else 1e-5
    assert (images - rows["image"][:, 0]).abs().max() <= tolerance
    assert (texts - rows["text"][:, 0]).abs().max() <= 1e-5
    opened.close()


@pytest.mark.parametrize("name", ["independent heads", "FlexiLiT 2", "LiT", "SigLiT", "joint captions"])
def test_an_export_gives_the_same_embeddings_as_its_run(home: Path, name: str, shards: Path) -> None:
    folder = run(home, name, GRID[name][0])
    distill("export", folder, "--out", home / f"{name} export")
    from_run, loaded = package.load(folder), package.load(home / f"{name} export")
    data = Shards.open([str(shards)])
    assert torch.equal(embed_images(from_run, data), embed_images(loaded, data))
    assert torch.equal(from_run.encode_text(["a red circle"]), loaded.encode_text(["a red circle"]))
    data.close()


def teacher_state() -> dict[str, torch.Tensor]:
    return dict(teachers.load(teachers.card("packaged/efficientnet_lite0")).net.state_dict())


def test_a_tower_initialised_from_the_teacher_changes_only_where_it_is_not_locked(home: Path) -> None:
    """U: all tensors change, batch statistics included; L: none; partly locked: those that are not locked."""
    before, all_names = teacher_state(), set(teacher_state())
    counters = {k for k in before if k.endswith("num_batches_tracked")}
    assert changed(run(home, "Uu", GRID["Uu"][0]), before, "image.net.") == all_names
    assert changed(run(home, "Lu, online", GRID["Lu, online"][0]), before, "image.net.") == set()
    part = '"conv_stem","bn1","blocks.0","blocks.1.0.conv_pw.weight"'
    partly = run(home, "partly", [f"student.image={{{FROM_TEACHER},locked=[{part}]}}"])
    names = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.0.conv_pw.weight")
    assert changed(partly, before, "image.net.") == {k for k in all_names if not k.startswith(names)}
    delayed = run(home, "delayed", [f"student.image={{{FROM_TEACHER},delay=0.5}}", "checkpoint.every_steps=1"])
    statistics = {k for k in all_names if "running" in k} | counters
    assert changed(delayed, before, "image.net.", step=1) == statistics, (
        "during the delay only batch statistics change"
    )
    assert changed(delayed, before, "image.net.") == all_names
    scaled = run(home, "scaled", [f"student.image={{{FROM_TEACHER},lr_scale=0}}"])
    assert changed(scaled, before, "image.net.") == statistics


def test_towers_are_initialised_from_an_export_with_its_tokenizer(home: Path) -> None:
    """A locked image tower and a text tower with learning rate 0 keep the export's weights; unlocked ones train."""
    first = run(home, "3T", [])
    if not (home / "export").exists():
        distill("export", first, "--out", home / "export")
    settings = ["student.text.init=export", "student.image.init=export", "objective.name=contrastive", "teacher=[]"]
    locked = run(home, "LL", [*settings, "student.image.locked=true", "student.text.lr_scale=0"])
    assert (locked / "tokenizer.model").read_bytes() == (first / "tokenizer.model").read_bytes()
    for tower, prefix in (("image", "image.net."), ("text", "text.")):
        before = load_file(home / "export" / f"{tower}.safetensors")
        differing = {k for k in changed(locked, before, prefix) if not k.startswith("head.")}
        assert differing == set(), tower
    learned = run(home, "UU", settings)
    assert changed(learned, load_file(home / "export" / "text.safetensors"), "text.")
    error = distill("train", "recipe.toml", "--out", "x", "--set", "student.text.init=nowhere", cwd=home, status=2)
    assert "nowhere" in error.stderr
    other = run(home, "fewer pieces", ["student.tokenizer.vocab=40"]) / "tokenizer.model"
    both = ("--set", "student.text.init=export", "--set", f"student.tokenizer.file={other}")
    error = distill("train", "recipe.toml", "--out", "x", *both, cwd=home, status=2)
    assert "is not its tokenizer" in error.stderr


def test_a_delayed_schedule_is_the_whole_schedule_in_the_remaining_steps() -> None:
    recipe = load("scratch", ["data.train=x", "optim.lr=1.0", "optim.warmup=0.1"])
    whole = [learning_rate(s, 50, recipe.optim) for s in range(50)]
    delayed = [learning_rate(s, 100, recipe.optim, GroupSchedule(scale=0.1, delay=0.5)) for s in range(100)]
    assert delayed[:50] == [0.0] * 50
    assert delayed[50:] == pytest.approx([0.1 * rate for rate in whole])


def test_alpha_mixes_student_and_teacher_embeddings_if_there_is_no_head(home: Path, shards: Path) -> None:
    """α = 0 gives the student, α = 1 the teacher through its adapter, other values their normalised weighted sum."""
    data = Shards.open([str(shards)])
    for name in ("headless", "headless, MLP"):
        folder = run(home, name, GRID[name][0])
        rows = {a: embed_images(package.load(folder, alpha=a), data) for a in (0.0, 0.3, 1.0)}
        assert torch.equal(rows[0.0], embed_images(package.load(folder), data))
        expected = torch.nn.functional.normalize(0.3 * rows[1.0] + 0.7 * rows[0.0], dim=1)
        assert torch.allclose(rows[0.3], expected, atol=1e-6)
        recipe = load(str(folder / "recipe.toml"))
        model = setup.Networks(resolve(recipe)).model(100)
        state = Snapshot.read(folder / "checkpoints/step-00000002").model
        adapter = {k.removeprefix("spaces.0."): v for k, v in state.items() if k.startswith("spaces.0.")}
        model.spaces[0].load_state_dict(adapter)
        teacher = teachers.load(teachers.card(recipe.teacher[0].name), 32)
        pixels = torch.stack([package.load(folder).pixels(decode(data.read(i))) for i in range(8)])
        adapted = model.spaces[0].adapter(teacher(pixels)["embedding"])
        assert torch.allclose(rows[1.0][:8], torch.nn.functional.normalize(adapted, dim=1), atol=1e-5)
    pictures = [decode(data.read(i)) for i in range(3)]
    assert torch.allclose(package.load(folder, alpha=0.3).encode_image(pictures), rows[0.3][:3], atol=1e-5)
    assert evaluated(folder, "--task", "retrieval", "--data", shards, "--alpha", "0.3")["images"] == 64
    with_heads = run(home, "3T", [])
    error = distill("evaluate", with_heads, "--task", "retrieval", "--data", shards, "--alpha", "0.3", status=2).stderr
    assert "no head stands between" in error and error.count("\n") == 1
    data.close()
