"""The main commands as a user runs them: train, resume, evaluate, export, load, embed."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, RECIPE, SHAPES, distill, evaluated, losses_of, picture
from PIL import Image
from reference import recalls
from safetensors import safe_open
from safetensors.torch import load_file

import distill as package
import teachers
from distill.data.batch import Batch
from distill.data.captions import Captions
from distill.data.pairs import Slot
from distill.data.shards import Shards
from distill.data.views import decode
from distill.lookup import resolve
from distill.recipe import dump, load, parse
from distill.ship.embed import embed_images
from distill.training import setup
from distill.training.checkpoint import Snapshot

METHODS = {
    "three_towers": [],
    "scratch": ["teacher=[]", 'objective={name="contrastive"}'],
    "l2": ['objective={name="l2", weight=0.5}'],
    "lit": ['objective={name="contrastive"}', 'student.image={arch="teacher"}', "student.width=1280"],
}


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A folder with recipe.toml and a finished run in "run"."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    distill("train", "recipe.toml", "--out", "run", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def export(home: Path) -> Path:
    distill("export", "run", "--out", "export", cwd=home)
    return home / "export"


def test_a_run_has_the_documented_files_metrics_and_checkpoints(home: Path, shards: Path) -> None:
    run = home / "run"
    names = {p.name for p in run.iterdir()}
    assert names == {
        "recipe.toml",
        "run.json",
        "tokenizer.model",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "samples",
        "shards.safetensors",
        ".lock",
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert {"loss", "fg", "fh", "gh", "tau", "lr", "examples", "examples_per_s"} <= line.keys()
        assert line["loss"] == pytest.approx((line["fg"] + line["fh"] + line["gh"]) / 3, rel=1e-5)
        assert line["examples"] == 16 * line["step"]
    about, card = json.loads((run / "run.json").read_text()), teachers.card("packaged/efficientnet_lite0")
    assert about["samples"] == 64 and about["steps"] == 6 and about["teachers"] == ["packaged/efficientnet_lite0"]
    assert about["teacher_weights"] == {card.name: teachers.load(card).fingerprint()}
    assert (run / "checkpoints" / "latest").read_text() == "step-00000006"
    assert {p.name for p in (run / "checkpoints").glob("step-*")} == {"step-00000003", "step-00000006"}
    assert list((run / "tensorboard").iterdir())


def test_the_resolved_recipe_is_unchanged_by_a_round_trip(home: Path) -> None:
    text = (home / "run" / "recipe.toml").read_text()
    recipe = parse(tomllib.loads(text))
    assert dump(recipe) == text
    assert resolve(recipe).recipe == resolve(load(str(home / "recipe.toml"))).recipe


def test_a_resumed_run_equals_the_uninterrupted_one(home: Path) -> None:
    overrides = sets("student.text.dropout=0.1", "checkpoint.every_steps=2", "data.first_share=0.3")
    distill("train", "recipe.toml", "--out", "whole", *overrides, cwd=home)
    distill("train", "recipe.toml", "--out", "parts", *overrides, cwd=home)
    parts = home / "parts"
    # As if it had been killed during step 6, with the checkpoint of step 4 and a half-written line of step 6.
    (parts / "checkpoints" / "latest").write_text("step-00000004")
    (parts / "checkpoints" / "step-00000006").rename(parts / "gone")
    lines = (parts / "metrics.jsonl").read_text().splitlines(keepends=True)
    (parts / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    distill("train", "recipe.toml", "--out", "parts", *overrides, "--resume", cwd=home)
    assert losses_of(parts) == losses_of(home / "whole")
    a, b = (load_file(r / "checkpoints/step-00000006/students.safetensors") for r in (parts, home / "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a | b)


@pytest.mark.parametrize("method", ["scratch", "l2", "lit"])
def test_every_packaged_objective_trains_exports_and_evaluates(home: Path, shards: Path, method: str) -> None:
    distill("train", "recipe.toml", "--out", method, *sets(*METHODS[method]), cwd=home)
    distill("export", method, "--out", f"{method}-export", cwd=home)
    found = evaluated(f"{method}-export", "--task", "retrieval", "--data", shards, cwd=home)
    assert found["images"] == 64 and found["texts"] == 64
    assert losses_of(home / method)[-1] < losses_of(home / method)[0]
    config = json.loads((home / f"{method}-export" / "config.json").read_text())
    assert config["image"]["arch"] == ("tf_efficientnet_lite0" if method == "lit" else "vit_tiny_patch16_224")


def test_an_online_teacher_gives_the_same_losses_as_the_cache(home: Path) -> None:
    common = sets("data.crop=[1.0, 1.0]", "teacher.0.dtype=fp32", "teacher.0.views=1", "train.steps=3")
    distill("train", "recipe.toml", "--out", "cached", *common, cwd=home)
    distill("train", "recipe.toml", "--out", "online", *common, *sets("teacher.0.cache=none"), cwd=home)
    assert losses_of(home / "online") == pytest.approx(losses_of(home / "cached"), rel=1e-4)


def test_an_export_has_two_towers_in_safetensors_and_no_pickle(home: Path, export: Path) -> None:
    names = {p.name for p in export.iterdir()}
    assert names == {"config.json", "image.safetensors", "text.safetensors", "tokenizer.model", "README.md"}
    for path in export.iterdir():
        # A pickle starts with the opcode of its protocol, a file of torch.save with a ZIP header.
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK")
    counts = json.loads((home / "run" / "run.json").read_text())["parameters"]
    for tower in ("image", "text"):
        with safe_open(export / f"{tower}.safetensors", framework="pt") as file:
            # As many elements as the student has parameters: neither teacher nor heads are included.
            assert sum(file.get_tensor(key).numel() for key in file.keys()) == counts[tower]


def test_an_export_gives_the_same_embeddings_as_the_trained_model(home: Path, export: Path) -> None:
    """The model from the checkpoint with inputs from the training's data pipeline, compared with the export."""
    recipe = load(str(home / "recipe.toml"), ["data.captions=first"])
    networks = setup.Networks(resolve(recipe))
    tokenizer = setup.load_tokenizer(networks.resolved, home / "run")
    assert tokenizer is not None
    model = networks.model(tokenizer.vocab)
    model.load_state_dict(Snapshot.read(home / "run/checkpoints/step-00000006").model)
    opened = Shards.open(recipe.data.train)
    # In epoch 0, every sample with an even index gets the first of the two cached views, the central crop.
    batch = setup.pairs_of(networks.resolved, opened, tokenizer).__getitems__([Slot(0, i, i) for i in range(0, 64, 2)])
    assert isinstance(batch, Batch)
    with torch.no_grad():
        rows = model.eval()(batch.inputs, batch.teachers)
    loaded = package.load(export)
    assert 1 / loaded.config.temperature == pytest.approx(float(rows["scale"]), rel=1e-6)
    texts = [Captions().read(opened.read(i))[0].text for i in range(0, 64, 2)]
    assert (loaded.encode_text(texts) - rows["text"][:, 0]).abs().max() <= 1e-6
    images = [decode(opened.read(i)) for i in range(0, 64, 2)]
    assert (loaded.encode_image(images) - rows["image"][:, 0]).abs().max() <= 1e-6
    opened.close()


def test_an_export_gives_the_same_embeddings_as_its_run(home: Path, export: Path, shards: Path) -> None:
    run, loaded = package.load(home / "run"), package.load(export)
    data = Shards.open([str(shards)])
    texts = [caption.text for i in range(len(data)) for caption in Captions().read(data.read(i))]
    assert (embed_images(run, data) - embed_images(loaded, data)).abs().max() <= 1e-6
    assert (run.encode_text(texts) - loaded.encode_text(texts)).abs().max() <= 1e-6
    assert run.config == loaded.config
    data.close()


def test_a_loaded_export_encodes_and_classifies(export: Path) -> None:
    model = package.load(export)
    pictures = [picture(shape, "red", 7).resize((90, 60)) for shape in SHAPES]
    images, texts = model.encode_image(pictures), model.encode_text(["a red circle", "", "ein Kreis " * 50])
    assert images.shape == (4, 32) and texts.shape == (3, 32)
    assert torch.allclose(images.norm(dim=1), torch.ones(4)) and torch.allclose(texts.norm(dim=1), torch.ones(3))
    assert torch.allclose(model.encode_image(pictures, batch_size=3), images, atol=1e-5)
    assert torch.equal(model.encode_image(torch.stack([model.pixels(p) for p in pictures])), images)
    assert model.encode_image([]).shape == (0, 32) and model.encode_text([]).shape == (0, 32)
    labels = ["a red circle", "a blue square"]
    probabilities = model.zero_shot(pictures, labels)
    logits = images @ model.encode_text(labels).T / model.config.temperature
    assert torch.allclose(probabilities, logits.softmax(dim=1), atol=1e-5)
    assert torch.allclose(model.zero_shot(pictures, [[label] * 2 for label in labels]), probabilities, atol=1e-5)


def test_evaluate_gives_the_same_metrics_for_run_and_export_and_as_brute_force(
    home: Path, export: Path, shards: Path
) -> None:
    data = ["--task", "retrieval", "--data", shards, "--language", "en"]
    of_run = evaluated("run", *data, cwd=home)
    table = distill("evaluate", "export", *data, "--json", "scores.json", cwd=home).stdout
    of_export = json.loads((home / "scores.json").read_text())["results"][0]
    assert of_run == of_export and f"{of_run['metrics']['t2i_r10']:.4f}" in table
    assert (of_run["images"], of_run["texts"]) == (64, 32)

    model, opened = package.load(export), Shards.open([str(shards)])
    captions = [opened.read(i).txt.decode() for i in range(64)]  # type: ignore[union-attr]
    texts = list(dict.fromkeys(captions))
    images, encoded = embed_images(model, opened).numpy(), model.encode_text(texts).numpy()
    own = [[texts.index(caption)] for caption in captions]
    owners = [[i for i, caption in enumerate(captions) if caption == text] for text in texts]
    expected = {f"i2t_r{k}": v for k, v in recalls(images, encoded, own).items()}
    expected |= {f"t2i_r{k}": v for k, v in recalls(encoded, images, owners).items()}
    expected["mean_r10"] = (expected["i2t_r10"] + expected["t2i_r10"]) / 2
    assert of_run["metrics"] == pytest.approx(expected)
    opened.close()
    again = distill("evaluate", "export", *data, "--json", "scores.json", cwd=home, status=2)
    assert "already exists" in again.stderr


def test_embed_writes_embeddings_and_names(home: Path, export: Path, shards: Path) -> None:
    (home / "photos" / "below").mkdir(parents=True)
    picture("circle", "red", 1).save(home / "photos" / "below" / "a.png")
    picture("square", "blue", 2).convert("RGBA").save(home / "photos" / "b.webp")
    (home / "texts.txt").write_text("a red circle\n\nein Quadrat, blau\n")
    model = package.load(export)
    for arguments, names, rows in (
        (
            ["--images", "photos"],
            ["b.webp", "below/a.png"],
            model.encode_image([Image.open(home / "photos/b.webp"), Image.open(home / "photos/below/a.png")]),
        ),
        (
            ["--texts", "texts.txt"],
            ["a red circle", "", "ein Quadrat, blau"],
            model.encode_text(["a red circle", "", "ein Quadrat, blau"]),
        ),
        (["--images", str(shards)], [f"{i:06d}" for i in range(64)], None),
    ):
        out = home / f"{len(names)}-{arguments[0]}.safetensors"
        distill("embed", "export", *arguments, "--out", out, cwd=home)
        with safe_open(out, framework="pt") as file:
            found = file.get_tensor("embeddings")
            assert json.loads(file.metadata()["names"]) == names
        assert found.shape == (len(names), 32)
        if rows is not None:
            assert torch.allclose(found, rows, atol=1e-6)
        refused = distill("embed", "export", *arguments, "--out", out, cwd=home, status=2)
        assert "already exists" in refused.stderr


@pytest.mark.slow
def test_three_towers_learns_shapes_and_colours(home: Path, shards: Path) -> None:
    longer = sets("train.steps=150", "optim.lr=2e-3", "student.tokenizer.vocab=60")
    distill("train", "recipe.toml", "--out", "longer", *longer, cwd=home)
    found = evaluated("longer", "--task", "retrieval", "--data", shards, "--language", "en", cwd=home)
    assert found["metrics"]["t2i_r1"] > 0.5 > 5 * found["chance"]["t2i_r1"]
    model = package.load(home / "longer")
    right = [
        int(model.zero_shot([picture(shape, colour, 1000 + i)], [f"a {c} {shape}" for c in COLOURS]).argmax())
        == COLOURS.index(colour)
        for i, shape in enumerate(SHAPES)
        for colour in COLOURS
    ]
    assert np.mean(right) > 0.7
