"""Runs with text towers of other tools: trained, resumed, exported and loaded without the folder they came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RECIPE, SCRATCH, distill, losses_of
from safetensors.torch import load_file
from test_open_clip_towers import folder_of
from text_folders import LONGEST, small_open_clip, write_bert, write_clip, write_siglip

import distill as package
import teachers
from distill.lookup import resolve
from distill.recipe import load
from distill.training.setup import Networks, existing_tokenizer
from students.hugging_face_tokenizer import HuggingFaceTokenizer

SETTINGS = ["--set", "student.tokenizer={}", "--set", "train.steps=4", "--set", "checkpoint.every_steps=2"]
QUERIES = ["a red circle", "ein blauer Kreis", "", "the cat " * 50, "🦊"]
WRITERS: dict[str, Any] = {
    "bert": write_bert,
    "clip": write_clip,
    "siglip": write_siglip,
    "open_clip": lambda folder: folder_of(small_open_clip(), folder),
}


def text_of(arch: str, **options: Any) -> list[str]:
    """The arguments that make a text student of an architecture with these options."""
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in ({"arch": arch} | options).items())
    return ["--set", f"student.text={{{table}}}"]


def words_of(kind: str, folder: Path, **options: Any) -> list[str]:
    return text_of("open_clip" if kind == "open_clip" else "hugging_face", init=str(folder), **options)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_tower_is_trained_resumed_exported_and_loaded_without_its_folder(
    tmp_path: Path, recipe: Path, kind: str
) -> None:
    folder, run = WRITERS[kind](tmp_path / "source"), tmp_path / "run"
    words = [*SCRATCH, *SETTINGS, *words_of(kind, folder)]
    number = ("--nproc", 2) if kind == "bert" else ()
    distill("train", recipe, *words, "--out", run, *number)
    assert len(losses_of(run)) == 4
    queries = package.load(str(run)).encode_text(QUERIES)
    shutil.rmtree(folder)

    # It goes on from its checkpoint with its own recipe, and does the same steps.
    shutil.copytree(run, tmp_path / "resumed")
    (tmp_path / "resumed" / "checkpoints" / "latest").write_text("step-00000002")
    # With as many processes: each draws its own dropout.
    distill("train", tmp_path / "resumed" / "recipe.toml", "--out", tmp_path / "resumed", "--resume", *number)
    np.testing.assert_allclose(losses_of(tmp_path / "resumed"), losses_of(run), rtol=1e-4)
    said = distill("train", recipe, *words, "--out", run, "--resume", status=2).stderr
    assert f"student.text.init names {folder}, which does not exist." in said and "recipe.toml" in said

    distill("export", run, "--out", tmp_path / "export")
    written = (tmp_path / "export" / "config.json").read_text()
    assert str(tmp_path) not in written and json.loads(written)["text"]["vocab"] > 100
    shutil.rmtree(run)
    model = package.load(str(tmp_path / "export"))
    torch.testing.assert_close(model.encode_text(QUERIES), queries)
    assert "Transformer of open_clip" in str((tmp_path / "export" / "README.md").read_text()) or kind != "open_clip"

    # An export is started from again; its architecture and tokenizer come with it.
    options = words_of(kind, tmp_path / "export", locked=True)
    again = [*SCRATCH, *SETTINGS, *options, "--set", "train.steps=1", "--out", tmp_path / "again"]
    distill("train", recipe, *again)
    distill("export", tmp_path / "again", "--out", tmp_path / "second")
    before, after = (load_file(tmp_path / name / "text.safetensors") for name in ("export", "second"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    head = "text_projection" if kind == "open_clip" else "head"
    assert changed and {name.split(".")[0] for name in changed} == {head}


def test_a_tower_of_another_size_like_a_text_teacher(tmp_path: Path, recipe: Path) -> None:
    """By the name of the card, which the recipe of the run and the export keep."""
    like = text_of("hugging_face", like="packaged/all_minilm_l6_v2", layers=1, width=24, heads=2, mlp=48, context=12)
    distill("train", recipe, *SCRATCH, *SETTINGS, *like, "--out", tmp_path / "run")
    assert 'like = "packaged/all_minilm_l6_v2"' in (tmp_path / "run" / "recipe.toml").read_text()
    distill("train", recipe, *SCRATCH, *SETTINGS, *like, "--out", tmp_path / "run", "--resume")
    distill("export", tmp_path / "run", "--out", tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["text"]["spec"]["config"]["hidden_size"] == 384 and config["text"]["spec"]["width"] == 24
    assert config["text"]["spec"]["pool"] == "mean" and not config["text"]["spec"]["like"]
    assert config["provenance"]["recipe"]["student"]["text"]["like"] == "packaged/all_minilm_l6_v2"
    model = package.load(str(tmp_path / "export"))
    assert model.encode_text(QUERIES).shape == (5, 32)


def test_what_is_wrong_in_a_recipe_is_a_sentence(tmp_path: Path, recipe: Path) -> None:
    bert, clip = write_bert(tmp_path / "bert"), write_clip(tmp_path / "clip")
    other = folder_of(small_open_clip(vocab_size=600), tmp_path / "small")
    for words, said in (
        (text_of("hugging_face"), 'The text tower "hugging_face" is built like a folder'),
        (text_of("hugging_face", like="nowhere"), "which does not exist. Correct it"),
        (text_of("hugging_face", like="packaged/efficientnet_lite0"), "embeds images; only a text teacher"),
        (text_of("hugging_face", like=str(other)), "config.json is missing or damaged"),
        (text_of("hugging_face", like=str(bert), pool="eos"), "A BERT pools by cls or mean, not by eos"),
        (text_of("hugging_face", like=str(bert), context=LONGEST + 1), "has 20 positions"),
        (text_of("hugging_face", like=str(bert), depth=2), "unknown key 'student.text.depth'"),
        (
            text_of("hugging_face", like=str(bert), init=str(clip)),
            "The tokenizer has 814 tokens and the text tower 137",
        ),
        (text_of("hugging_face", like=str(clip), init=str(bert)), "of another architecture"),
        (text_of("open_clip", init=str(other)), "has 600 tokens and open_clip's own tokenizer 49408"),
        (text_of("open_clip", init=str(bert)), "open_clip_config.json is missing or damaged"),
        (text_of("open_clip", width=24, heads=5), "A width of 24 is no multiple of 5 heads"),
    ):
        arguments = ["train", recipe, *SCRATCH, *SETTINGS, *words, "--out", tmp_path / "run"]
        error = distill(*arguments, status=2).stderr
        assert said in error and "Traceback" not in error and not (tmp_path / "run").exists(), error
    file = ["--set", f"student.tokenizer.file={clip / 'tokenizer.json'}"]
    arguments = [*SCRATCH, *SETTINGS, *text_of("hugging_face", init=str(bert)), *file]
    error = distill("train", recipe, *arguments, "--out", tmp_path / "run", status=2).stderr
    assert "Leave out student.tokenizer.file." in error or "does not say how it pads" in error


@pytest.mark.parametrize("name", ["bert", "clip", "siglip"])
def test_the_example_of_an_onnx_export_tokenizes_alike(tmp_path: Path, name: str) -> None:
    import tokenizers

    tokenizer = HuggingFaceTokenizer.of_folder(WRITERS[name](tmp_path / name), 12)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.model)
    scope: dict[str, Any] = {"np": np, "tokenizers": tokenizers}
    exec(tokenizer.EXAMPLE, scope)
    found = scope["encode"](QUERIES, tmp_path / "tokenizer.json", 12)
    assert np.array_equal(found, tokenizer.encode(QUERIES).numpy()) and found.shape == (len(QUERIES), 12)


def test_a_smaller_tower_starts_from_a_part_of_a_pretrained_one(tmp_path: Path, recipe: Path) -> None:
    """MiniLM's 6 layers to 3, and half of its width; the recipe's size of vocabulary has no effect."""
    name = "packaged/all_minilm_l6_v2"
    text = text_of("hugging_face", like=name, init=name, layers=3, width=192, heads=6, mlp=768, select="even")
    words = [*SCRATCH, *SETTINGS, *text, "--set", "student.tokenizer.vocab=90", "--set", "train.steps=1"]
    said = distill("train", recipe, *words, "--out", tmp_path / "run").stderr
    assert "student.tokenizer.vocab has no effect: the tokenizer of the text student 'hugging_face'" in said
    counts = json.loads((tmp_path / "run" / "run.json").read_text())["initial_weights"]["text"]
    assert counts["selected"] > 40 and counts["random_names"] == ["head.weight", "head.bias"]
    resolved = resolve(load(str(recipe), words[1::2]))
    tokenizer = existing_tokenizer(resolved)
    assert tokenizer is not None
    tower = Networks(resolved).model(tokenizer.vocab).towers["text"].state_dict()
    whole = load_file(teachers.text_teacher_folder(teachers.card(name)) / "model.safetensors")
    for own, layer in ((0, 0), (1, 2), (2, 5)):
        key = "encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(tower[f"net.{key.format(own)}"], whole[key.format(layer)][::2, ::2].float())


def test_paths_in_a_recipe_are_relative_to_it_and_names_of_cards_stay(tmp_path: Path, shards: Path) -> None:
    write_bert(tmp_path / "sub" / "bert")
    text = 'text = {{ arch = "hugging_face", like = "LIKE" }}'
    for like, expected in (
        ("bert", str(tmp_path / "sub" / "bert")),
        ("packaged/all_minilm_l6_v2", "packaged/all_minilm_l6_v2"),
    ):
        made = RECIPE.replace('text = {{ arch = "transformer", dim = 48, depth = 2, heads = 3, context = 8 }}', text)
        path = tmp_path / "sub" / "recipe.toml"
        path.write_text(made.format(shards=shards).replace("LIKE", like))
        resolved = resolve(load(str(path)))
        assert resolved.recipe.student.text.options["like"] == expected
        assert resolve(resolved.recipe).recipe == resolved.recipe
