"""What surrounds exports: the ONNX example without torch, refusals, hashes, foreign files, the model card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import RECIPE, distill, picture, write_shards
from huggingface_hub import ModelCard, ModelCardData, metadata_load

import distill as package
from distill.errors import UserError
from distill.evals.subject import OpenOptions, open_subject
from distill.ship import foreign
from distill.ship.card_metadata import base_models, metadata, teachers_of
from distill.ship.config_file import read_config

ALONE = ("numpy", "onnxruntime", "sentencepiece", "pillow")  # what the example of an ONNX export needs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, its results, and exports of it in several formats; and a FlexiLiT."""
    home = tmp_path_factory.mktemp("home")
    write_shards(home / "shards")
    (home / "recipe.toml").write_text(RECIPE.format(shards=home / "shards"))
    distill("train", "recipe.toml", "--out", "run", cwd=home)
    distill("evaluate", "run", "--task", "retrieval", "--data", "shards", "--json", "scores.json", cwd=home)
    words = ("--metrics", "scores.json", "--license", "cc-by-4.0")
    formats = [word for one in ("distill", "onnx", "timm", "torch") for word in ("--format", one)]
    distill("export", "run", "--out", "out", *formats, *words, cwd=home)
    flexible = ("--set", 'objective={name="contrastive"}', "--set", 'student.image={arch="teacher", layers=2}')
    distill("train", "recipe.toml", "--out", "flexible", *flexible, "--set", "train.steps=1", cwd=home)
    return home


@pytest.mark.slow
def test_the_example_of_an_onnx_export_needs_neither_torch_nor_distill(home: Path, tmp_path: Path) -> None:
    picture("circle", "red", 5).resize((32, 32)).save(tmp_path / "small.png")  # of the input's size: no resizing
    picture("cross", "blue", 6).save(tmp_path / "large.png")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, clean = tmp_path / "venv" / "bin" / "python", {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    subprocess.run([python, "-m", "pip", "install", "-q", *ALONE], check=True)
    missing = subprocess.run([python, "-c", "import torch"], env=clean, capture_output=True, text=True)
    assert "No module named 'torch'" in missing.stderr
    model, texts = package.load(home / "run", "cpu"), ["a red circle", "ein Kreuz, blau", "something else entirely"]
    for name, tolerance in (("small.png", 1e-5), ("large.png", 2e-2)):
        words = [python, home / "out" / "onnx" / "example.py", tmp_path / name, *texts]
        found = subprocess.run(words, env=clean, capture_output=True, text=True, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        numbers = np.fromstring(found.stdout.replace("[", "").replace("]", ""), sep=" ")
        expected = (model.encode_image(str(tmp_path / name)) @ model.encode_text(texts).T).numpy()[0]
        np.testing.assert_allclose(numbers, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "run, words, said",
    [
        ("flexible", ["timm"], "timm has no networks that are an MLP of 2 layers on a locked one"),
        ("run", ["open_clip"], "open_clip has no text tower that computes what a 2-layer Transformer does"),
        ("run", ["onnx", "open_clip"], "open_clip has no text tower"),
        ("run", ["timm", "--int8"], "'timm' cannot store 8-bit integers. Choose --format onnx"),
        ("run", ["timm", "--dtype", "fp8"], "'fp8' is no type of weights. Choose --dtype fp32, fp16, bf16"),
        ("run", ["tim"], "no export format 'tim'. Did you mean 'timm'?"),
        ("out/distill", ["onnx", "--int8"], "Name shards with --calibrate"),
        ("out/distill", ["onnx", "--best"], "is an export, which has no checkpoints"),
        ("run", ["timm", "--metrics", "recipe.toml"], "does not hold results of an evaluation"),
    ],
)
def test_what_a_format_cannot_hold_is_said_before_anything_is_written(
    home: Path, run: str, words: list[str], said: str
) -> None:
    before = sorted(home.iterdir())
    formats = [word for one in words if not one.startswith(("--", "fp", "recipe")) for word in ("--format", one)]
    options = words[next((i for i, word in enumerate(words) if word.startswith("--")), len(words)) :]
    assert said in distill("export", run, "--out", "no", *formats, *options, cwd=home, status=2).stderr
    assert sorted(home.iterdir()) == before


def test_a_missing_package_is_named_with_its_command(home: Path) -> None:
    code = "import sys; sys.modules['onnxscript'] = None; sys.argv = ['distill', *sys.argv[1:]]\n"
    code += "from distill.cli.main import main; main()"
    words = [sys.executable, "-c", code, "export", "run", "--out", "no", "--format", "onnx"]
    found = subprocess.run(words, cwd=home, capture_output=True, text=True)
    assert found.returncode == 2 and "pip install 'distill[export]'" in found.stderr, found.stderr


@pytest.mark.parametrize("form", ["onnx", "timm", "torch"])
def test_an_export_for_another_library_is_recognised(home: Path, form: str) -> None:
    kinds = {
        "onnx": "a folder of ONNX files",
        "timm": "a folder of timm",
        "torch": "a folder of programs of torch.export",
    }
    with pytest.raises(UserError, match=f"is {kinds[form]}, not an export in distill's own format"):
        package.load(home / "out" / form)
    if form != "timm":  # which is a teacher that can be measured
        words = ("evaluate", home / "out" / form, "--data", home / "shards")
        assert kinds[form] in distill(*words, status=2).stderr


def test_a_file_and_a_folder_of_open_clip_are_recognised(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image.onnx is an ONNX file"):
        package.load(home / "out" / "onnx" / "image.onnx")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match="distill evaluate open_clip/local-dir:"):
        package.load(tmp_path)
    assert foreign.what(home / "out" / "distill") is None and foreign.what(home / "run") is None


def test_a_folder_of_timm_is_a_teacher_whose_features_are_those_before_the_projection(home: Path) -> None:
    model, drawn = package.load(home / "run", "cpu"), picture("circle", "red", 1)
    subject = open_subject(home / "out" / "timm", OpenOptions("cpu"))
    found = subject.images([prepare(drawn)[None] for prepare in subject.preparations()])["pre_logits"]
    expected = model.image(model.pixels(drawn)[None], ("pre_logits",))["pre_logits"]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=0, atol=1e-5)


def test_the_hashes_cover_all_files(home: Path) -> None:
    config = read_config(home / "out" / "distill")
    assert set(config.files) == {"image.safetensors", "text.safetensors", "tokenizer.model"}
    assert len(config.sha256) == 64


def test_no_format_names_folders_of_this_machine(home: Path) -> None:
    root = str(Path(package.__file__).parent.parent)
    for path in (home / "out").rglob("*"):
        for word in (root, str(home), sys.prefix):
            assert path.is_dir() or word.encode() not in path.read_bytes(), f"{path} holds {word}"


def test_the_card_has_metadata_of_the_hub(home: Path) -> None:
    for form, library in (("distill", "distill"), ("timm", "timm"), ("onnx", "onnx"), ("torch", "pytorch")):
        card = home / "out" / form / "README.md"
        found = metadata_load(card)
        assert found is not None and found["license"] == "cc-by-4.0" and found["library_name"] == library
        texts = "image-feature-extraction" if form == "timm" else "zero-shot-image-classification"
        assert found["pipeline_tag"] == texts and "three-towers" in found["tags"]
        assert "base_model" not in found  # the teacher's weights are not in it
        assert ModelCardData(**found).to_dict() == found and ModelCard.load(card).data.license == "cc-by-4.0"
        text = card.read_text()
        scores = json.loads((home / "scores.json").read_text())["results"][0]
        low, high = scores["intervals"]["t2i_r10"]
        assert f"| t2i_r10 | {scores['metrics']['t2i_r10']:.4f} | {low:.4f} to {high:.4f} |" in text
        assert "- `packaged/efficientnet_lite0`: Apache-2.0" in text and "64 images in 2 shards" in text
        assert 'name = "three_towers"' in text and "largest central square, resized to 32 px" in text


def test_a_teacher_for_research_alone_and_a_base_model_are_named(home: Path) -> None:
    config = read_config(home / "out" / "distill")
    about = dict(config.provenance) | {"teachers": ["timm/vit_base_patch16_224.mae"]}
    about["teacher_cards"] = {"timm/vit_base_patch16_224.mae": {"licence": "CC-BY-NC-4.0", "source": "timm"}}
    other = config.model_copy(update={"provenance": about})
    assert "forbids commercial use" in teachers_of(other)[0] and base_models(other) == []
    assert "license_name: not-chosen-yet" in metadata(other, "timm", "other", texts=True)
    about["recipe"] = {"student": {"image": {"arch": "teacher"}}, "data": {"languages": ["en", "de"]}}
    other = config.model_copy(update={"provenance": about})
    assert "base_model:\n- timm/vit_base_patch16_224.mae" in metadata(other, "timm", "other", texts=True)
    assert "language:\n- en\n- de" in metadata(other, "timm", "other", texts=True)
