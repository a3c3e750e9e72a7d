"""Teachers from folders of transformers and open_clip, compared with what those libraries compute themselves."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from conftest import RECIPE
from PIL import Image
from safetensors.torch import load_file, save_file
from text_folders import texts, write_bert
from torch.testing import assert_close
from tower_folders import (
    IMAGE_ONLY,
    OPEN_CLIP,
    change,
    write_clip_pair,
    write_image_only,
    write_open_clip,
    write_siglip_pair,
)

import distill
import teachers
from distill.config import Recipe, TeacherTable
from distill.data.views import Views
from distill.errors import UserError
from distill.lookup import resolve
from distill.recipe import apply_override, parse

PAIRS = ("clip", "siglip", *(f"open_clip_{kind}" for kind in OPEN_CLIP))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All folders. Read only: tests that change one copy it."""
    base = tmp_path_factory.mktemp("folders")
    write_clip_pair(base / "clip")
    write_siglip_pair(base / "siglip")
    for kind in IMAGE_ONLY:
        write_image_only(base / kind, kind)
    for kind in OPEN_CLIP:
        write_open_clip(base / f"open_clip_{kind}", kind)
    return base


@pytest.fixture
def copy(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(folders / name, tmp_path / name))

    return copied


def card(folder: Path, tower: str) -> teachers.Card:
    (found,) = teachers.towers(str(folder), tower)
    return found


def random_pixels(side: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalized(found: teachers.Card, pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (found.mean, found.std))
    return (pixels / 255 - mean) / std


def theirs(folder: Path) -> Any:
    """The library's own network of a whole pair."""
    if folder.name.startswith("open_clip"):
        return open_clip.create_model(f"local-dir:{folder}").eval()
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("larger", [0, 32])
@torch.no_grad()
def test_the_image_tower_of_a_pair_gives_the_librarys_embeddings(folders: Path, name: str, larger: int) -> None:
    found = card(folders / name, "image")
    side = found.image_size + larger
    teacher, pixels = teachers.load(found, side), random_pixels(side)
    inputs = normalized(found, pixels)
    if name.startswith("open_clip"):
        options = {"force_image_size": side} if larger else {}
        own = open_clip.create_model(f"local-dir:{folders / name}", **options).eval()
        expected = own.encode_image(inputs)
    else:
        expected = theirs(folders / name).get_image_features(inputs, interpolate_pos_encoding=larger > 0).pooler_output
    assert_close(teacher(pixels)["embedding"], expected, rtol=0, atol=1e-5)
    assert expected.shape == (3, found.width) and expected.std(0).min() > 0.01, "inputs make a difference"
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_the_text_tower_of_a_pair_gives_the_librarys_token_ids_and_embeddings(folders: Path, name: str) -> None:
    found, many = card(folders / name, "text"), texts()
    teacher, ids = teachers.load(found), teachers.tokenizer(found).encode(many)
    if name.startswith("open_clip"):
        own_ids = open_clip.get_tokenizer(f"local-dir:{folders / name}")(many)
        expected = theirs(folders / name).encode_text(own_ids)
    else:
        kind = transformers.CLIPTokenizer if name == "clip" else transformers.SiglipTokenizer
        tokenizer = kind.from_pretrained(folders / name)
        options = {"padding": "max_length", "truncation": True, "max_length": found.context, "return_tensors": "pt"}
        own = tokenizer(many, **options)
        own_ids = own.input_ids
        mask = {"attention_mask": own.attention_mask} if name == "clip" else {}
        expected = theirs(folders / name).get_text_features(own_ids, **mask).pooler_output
    assert torch.equal(ids, own_ids) and len(ids.unique(dim=0)) > len(many) // 2
    assert_close(teacher(ids)["embedding"], expected, rtol=0, atol=1e-5)
    assert expected.shape == (len(many), found.width)
    tokenizer = teachers.tokenizer(found)
    assert torch.equal(pickle.loads(pickle.dumps(tokenizer)).encode(many[:5]), ids[:5])
    assert tokenizer.encode([]).shape == (0, found.context)


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_both_towers_share_a_space_and_know_its_temperature(folders: Path, name: str) -> None:
    image, text = teachers.towers(str(folders / name), "both")
    assert (image.modality, text.modality) == ("image", "text") and image.width == text.width
    assert teachers.card(str(folders / name)).name == image.name != text.name
    scale = theirs(folders / name).logit_scale.exp().item()
    assert image.temperature == text.temperature == pytest.approx(1 / scale, rel=1e-6)
    loaded = [teachers.load(one) for one in (image, text)]
    assert loaded[0].fingerprint() != loaded[1].fingerprint()
    whole = sum(parameter.numel() for parameter in theirs(folders / name).parameters())
    own = [sum(parameter.numel() for parameter in one.parameters()) for one in loaded]
    assert max(own) < whole and sum(own) <= whole + 4, "each has its own tower only, and temperature and bias"


@pytest.mark.parametrize("kind", IMAGE_ONLY)
@torch.no_grad()
def test_an_image_encoder_of_transformers_gives_its_own_embedding(folders: Path, kind: str) -> None:
    """What the classifier of ViT reads, and what transformers calls the pooled output of the others."""
    found, folder = card(folders / kind, ""), folders / kind
    pixels, auto = random_pixels(32), transformers.AutoModel
    if kind == "clip_vision_model":
        auto = transformers.CLIPVisionModelWithProjection
    own = auto.from_pretrained(folder, dtype=torch.float32).eval()(normalized(found, pixels))
    expected = own.last_hidden_state[:, 0] if kind.startswith("vit") else getattr(own, "image_embeds", None)
    expected = own.pooler_output if expected is None else expected
    assert_close(teachers.load(found)(pixels)["embedding"], expected, rtol=0, atol=1e-5)
    if kind == "vit_classifier":
        logits = transformers.ViTForImageClassification.from_pretrained(folder)
        got = logits.classifier(teachers.load(found)(pixels)["embedding"])
        assert_close(got, logits.eval()(normalized(found, pixels)).logits, rtol=0, atol=1e-5)
    assert found.temperature == 0 and found.name == f"local/{kind}"


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with some noise, as photographs have."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(x * k + y) + np.cos(y * k) for k in (1, 1.7, 2.3)], axis=2)
    return Image.fromarray((128 + 50 * waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))


def processed(folder: Path, image: Image.Image) -> torch.Tensor:
    """The pixels, normalised, that the library's own preprocessing makes of a picture."""
    if folder.name.startswith("open_clip"):
        preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2]
        return preprocess(image)[None]
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(images=image, return_tensors="pt").pixel_values


@pytest.mark.parametrize("name", (*PAIRS, *IMAGE_ONLY))
def test_a_view_without_augmentation_is_what_the_librarys_preprocessing_makes(folders: Path, name: str) -> None:
    """Up to rounding for square pictures; for elongated ones where the library crops the centre, as views do."""
    found, folder = card(folders / name, "image"), folders / name
    squashes = (
        "crop_size" not in (folder / "preprocessor_config.json").read_text()
        if name in IMAGE_ONLY
        else (name in ("siglip", "open_clip_siglip"))
    )
    differences = {}
    for size in ((200, 200), (300, 200), (200, 300)):
        image = picture(*size)
        view = Views((1.0, 1.0), False).draw("key", 0, image.size)
        ours = normalized(found, view.render(image, found.image_size, found.interpolation)[None])
        levels = (ours - processed(folder, image)).abs() * torch.tensor(found.std).view(1, 3, 1, 1) * 255
        differences[size] = float(levels.max()), float(levels.mean())
    assert differences[200, 200][0] <= 2.01 and differences[200, 200][1] < 0.5
    for size in ((300, 200), (200, 300)):
        if squashes:
            assert differences[size][1] > 10, "a squashed picture shows more, so this test can tell them apart"
        else:
            assert differences[size][1] < 3


@pytest.mark.parametrize("name", PAIRS)
def test_weights_of_another_model_are_refused_before_anything_is_loaded(
    name: str, copy: Callable[[str], Path]
) -> None:
    folder = copy(name)
    if name.startswith("open_clip"):
        config = json.loads((folder / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"]["width"] = 32
        change(folder / "open_clip_config.json", **config)
    else:
        config = json.loads((folder / "config.json").read_text())
        change(folder / "config.json", text_config=config["text_config"] | {"hidden_size": 64})
    with pytest.raises(
        ValueError, match="are not those of its .*config.json: .* instead of .* Both must be of one model"
    ):
        teachers.towers(str(folder), "text")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_missing_or_misshapen_tensor_is_refused(name: str, tower: str, copy: Callable[[str], Path]) -> None:
    folder = copy(name)
    path = next(folder.glob("*.safetensors"))
    state = load_file(path)
    marks = {"image": ("vis",), "text": ("text", "token_embedding", "transformer.", "ln_final")}[tower]
    own = [key for key in state if key.startswith(marks) and key.endswith("bias") and state[key].ndim == 1]
    without = {key: value for key, value in state.items() if key != own[1]}
    for changed in (without, state | {own[0]: torch.zeros(7)}):
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match="not those of its|cannot load"):
            teachers.load(card(folder, tower))


@pytest.mark.parametrize(
    "name, removed, tower, message",
    [
        ("clip", "tokenizer*", "text", "clip has no tokenizer, which its text tower needs"),
        ("siglip", "spiece.model", "text", "siglip has no tokenizer"),
        ("open_clip_siglip", "spiece.model", "text", "open_clip_siglip has no tokenizer"),
        ("clip", "preprocessor_config.json", "image", "has no preprocessor_config.json, which says how images"),
        ("siglip", "processor_config.json", "image", "has no preprocessor_config.json, which says how images"),
        ("clip", "model.safetensors", "image", "model.safetensors is missing. Only safetensors are read"),
        ("open_clip_clip", "*.safetensors", "text", "open_clip_model.safetensors is missing"),
        ("vit", "nothing", "text", "has no text tower, only that of images. Leave out teacher.N.tower"),
        ("dinov2", "nothing", "both", "has no text tower"),
    ],
)
def test_what_is_missing_is_named(
    name: str, removed: str, tower: str, message: str, copy: Callable[[str], Path]
) -> None:
    folder = copy(name)
    for path in folder.glob(removed):
        path.unlink()
    with pytest.raises(ValueError, match=message):
        teachers.towers(str(folder), tower)
    if tower != "both" and name in PAIRS and "safetensors" not in removed:
        card(folder, "image" if tower == "text" else "text")  # the other tower needs none of it


@pytest.mark.parametrize(
    "file, values, message",
    [
        ("preprocessor_config.json", {"resample": 1}, "resizes images by lanczos; views are by bilinear or bicubic"),
        ("preprocessor_config.json", {"crop_size": {"height": 32, "width": 16}}, "a teacher's are square"),
        ("preprocessor_config.json", {"crop_size": "big"}, "a teacher's are square"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "by dividing by 255"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, r"has \[0.5\] as image_mean"),
        ("config.json", {"model_type": "siglip2"}, "is SigLIP 2 in NaFlex"),
        ("config.json", {"text_config": 7}, "is damaged: "),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(
    file: str, values: dict[str, Any], message: str, copy: Callable[[str], Path]
) -> None:
    folder = copy("clip")
    change(folder / file, **values)
    with pytest.raises(ValueError, match=message):
        card(folder, "image")


def test_what_open_clip_would_download_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("open_clip_clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}
    change(folder / "open_clip_config.json", **config)
    with pytest.raises(
        ValueError, match="has the text tower 'roberta-base' of transformers, which open_clip looks up"
    ):
        card(folder, "image")


def test_a_pickle_or_code_in_a_folder_is_not_read(copy: Callable[[str], Path]) -> None:
    class Touches:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "sprung",)

    for name, file in (("clip", "pytorch_model.bin"), ("open_clip_clip", "open_clip_pytorch_model.bin")):
        folder = copy(name)
        (folder / file).write_bytes(pickle.dumps(Touches()))
        (folder / "code.py").write_text(f"open({str(folder / 'sprung')!r}, 'w')")
        config = folder / "config.json"
        if config.is_file():
            change(config, auto_map={"AutoModel": "code.Model"})
        teachers.load(card(folder, "image"))
        next(folder.glob("*.safetensors")).unlink()
        with pytest.raises(ValueError, match="is missing. Only safetensors are read"):
            card(folder, "image")
        assert not (folder / "sprung").exists()


def test_outputs_and_options_that_a_tower_does_not_have_are_refused(folders: Path, tmp_path: Path) -> None:
    image, text = teachers.towers(str(folders / "clip"), "both")
    with pytest.raises(ValueError, match="gives its embedding only, no tokens"):
        teachers.load(image, outputs=("embedding", "tokens"))
    with pytest.raises(ValueError, match="gives its embedding only, no logits"):
        teachers.load(image, outputs=("logits",))
    with pytest.raises(ValueError, match="gives its embedding only, no tokens"):
        teachers.token_shape(image)
    with pytest.raises(ValueError, match="is a folder with its weights. Leave out teacher.N.weights"):
        teachers.with_weights(image, "other.safetensors")
    with pytest.raises(ValueError, match="does not take 8-pixel images: .* the teacher's image size is 32"):
        teachers.load(image, 8)
    with pytest.raises(ValueError, match="embeds images; only a text teacher has a tokenizer"):
        teachers.tokenizer(image)
    with pytest.raises(ValueError, match="has no text tower, only that of images"):
        teachers.towers("timm/vit_tiny_patch16_224", "text")
    with pytest.raises(ValueError, match="has no image tower, only that of texts"):
        teachers.towers(str(write_bert(tmp_path / "bert")), "both")
    assert not image.is_timm and not math.isnan(text.temperature)


def recipe_of(shards: Path, folder: Path, *changes: str) -> Recipe:
    tree = tomllib.loads(RECIPE.format(shards=shards)) | {"teacher": [{"name": str(folder), "tower": "both"}]}
    for override in changes:
        apply_override(tree, override)
    return parse(tree)


@pytest.mark.parametrize("name", ["clip", "open_clip_clip"])
def test_both_towers_are_two_teachers_of_one_table(folders: Path, shards: Path, name: str) -> None:
    resolved = resolve(recipe_of(shards, folders / name, "teacher.0.weight=0.3", "teacher.0.cache=none"))
    image, text = resolved.teachers
    assert (image.card.modality, text.card.modality) == ("image", "text") == tuple(f.modality for f in resolved.facts)
    assert image.table is text.table is resolved.recipe.teacher[0] and image.number == text.number == 0
    assert image.name != text.name and image.image_size == 32 and text.image_size == 0
    assert resolved.facts[0].temperature == resolved.facts[1].temperature == image.card.temperature > 0


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("vit", [], "has no text tower, only that of images"),
        ("clip", ["teacher.0.weights=x.safetensors"], "is a folder with its weights"),
        ("clip", ["objective.name=function_matching"], "Choose an image teacher with classes"),
        ("clip", ["teacher.0.tower=text", "teacher.0.image_size=32"], "has no image size"),
        ("clip", ['student.image={arch="teacher"}', "student.width=24"], "none of timm's"),
        ("clip", ["student.image.init=teacher"], "is none of timm's"),
        ("clip", ["teacher.0.tower=middle"], "teacher.0.tower"),
    ],
)
def test_a_recipe_that_asks_for_what_a_folder_does_not_have(
    folders: Path, shards: Path, name: str, changes: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        resolve(recipe_of(shards, folders / name, *changes))


@pytest.mark.parametrize(
    "settings, terms",
    [
        ([], {"fg", "fh", "gh", "tau"}),
        (["objective.name=clip_kd", "train.micro_batch=8"], {"fg", "fd", "crd", "icl", "tau", "tau_1"}),
        (["objective.name=mobileclip", "data.captions=joint"], {"fg", "kl", "tau"}),
        (["objective.name=crd"], {"fg", "kl", "tau"}),
    ],
)
def test_a_run_with_both_towers_of_a_pair_trains(
    folders: Path, shards: Path, tmp_path: Path, settings: list[str], terms: set[str]
) -> None:
    recipe = recipe_of(shards, folders / "clip", "teacher.0.audit=3", f"teacher.0.cache={tmp_path / 'c'}", *settings)
    distill.train(recipe, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {*about["teacher_weights"]} == {"local/clip/image", "local/clip/text"}
    assert {name: audit["rows"] for name, audit in about["teacher_audits"].items()} == {
        "local/clip/image": 3,
        "local/clip/text": 3,
    }
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["image", "text"]
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 6 and terms | {"loss"} <= {*steps[0]} and steps[-1]["loss"] < steps[0]["loss"]


@pytest.mark.parametrize("name", ["clip_kd", "mobileclip"])
def test_pictures_without_captions_are_taught_beside_captioned_ones(
    folders: Path, shards: Path, tmp_path: Path, name: str
) -> None:
    """Of them only the image teacher has rows, cached like those of captioned samples."""
    (tmp_path / "photos").mkdir()
    for number in range(20):
        picture(40, 50 + number).save(tmp_path / "photos" / f"{number}.png")
    settings = [f"objective.name={name}", f"data.pictures={tmp_path / 'photos'}", f"teacher.0.cache={tmp_path / 'c'}"]
    distill.train(recipe_of(shards, folders / "clip", *settings), tmp_path / "run")
    stored = {kind: len([*(tmp_path / "c" / kind).glob("*.safetensors")]) for kind in ("image", "text")}
    assert stored == {"image": 3, "text": 2}
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


def test_several_pairs_teach_together(folders: Path, shards: Path, tmp_path: Path) -> None:
    tree = {"name": str(folders / "open_clip_clip"), "tower": "both", "weight": 0.5, "cache": "none"}
    recipe = recipe_of(shards, folders / "clip", "objective.name=mobileclip", f"teacher.0.cache={tmp_path / 'c'}")
    several = recipe.model_copy(update={"teacher": (*recipe.teacher, TeacherTable(**tree))})
    resolved = resolve(several)
    assert [fact.modality for fact in resolved.facts] == ["image", "text", "image", "text"]
    assert len({fact.temperature for fact in resolved.facts}) == 2
    assert [teacher.number for teacher in resolved.teachers] == [0, 0, 1, 1]
    distill.train(several, tmp_path / "run")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
