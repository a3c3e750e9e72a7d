"""Exports in the formats of other libraries: opened by those alone, they give the rows of the students."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip_text
import pytest
import timm
import torch
from conftest import RECIPE, SCRATCH, distill, picture, write_shards
from PIL import Image

import distill as package
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.errors import UserError
from distill.ship.build import image_tower
from distill.ship.config_file import Config, ImageConfig, TextConfig
from distill.ship.contents import Shipped
from distill.ship.examples import Examples
from distill.ship.export import compared
from distill.ship.export_format import Numbers, Opened
from distill.ship.formats.distill import FORMAT as OWN

STUDENTS = {
    "vit": SCRATCH,
    "mobilenet": [
        *SCRATCH,
        *("--set", 'student.image={arch="mobilenetv4_conv_small_050"}', "--set", "data.image_size=64"),
    ],
    "lit": [
        *("--set", 'objective={name="contrastive"}', "--set", 'student.image={arch="teacher"}'),
        *("--set", "student.width=1280"),
    ],
}
EVERYWHERE = ("distill", "onnx", "timm", "torch")
FORMATS = {"vit": EVERYWHERE, "mobilenet": EVERYWHERE, "lit": ("distill", "timm")}
OPENED = [(name, form) for name, forms in FORMATS.items() for form in forms if form != "distill"]

# Each program is given a folder, and a file with "pixels" [n, 3, S, S] uint8 and "ids" [m, context], and writes rows.
BEGIN = """
import sys
import numpy as np
folder, inputs, out = sys.argv[1:]
given = np.load(inputs)
"""
END = """
assert not {'distill', 'students', 'teachers'} & set(sys.modules), 'distill was imported'
np.savez(out, **rows)
"""
OTHERS = {
    "timm": """
import timm, torch
net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
about = timm.data.resolve_model_data_config(net)
assert tuple(about["input_size"]) == given["pixels"].shape[1:] and about["crop_pct"] == 1.0
mean, std = (torch.tensor(about[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
with torch.no_grad():
    images = net((torch.from_numpy(given["pixels"]) / 255 - mean) / std)
rows = {"images": torch.nn.functional.normalize(images, dim=1).numpy()}
""",
    "onnx": """
import onnxruntime
def run(name, inputs):
    return onnxruntime.InferenceSession(f"{folder}/{name}.onnx").run(None, inputs)[0]
rows = {"images": run("image", {"pixels": given["pixels"]}), "texts": run("text", {"ids": given["ids"]})}
assert 'torch' not in sys.modules
""",
    "torch": """
import torch
def run(name, inputs):
    return torch.export.load(f"{folder}/{name}.pt2").module()(torch.from_numpy(inputs)).detach().numpy()
rows = {"images": run("image", given["pixels"]), "texts": run("text", given["ids"])}
""",
    "open_clip": """
import torch, open_clip
model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
ids = open_clip.get_tokenizer(f"local-dir:{folder}")([str(text) for text in given["texts"]])
model.eval()
with torch.no_grad():
    pixels = prepare.transforms[-1](torch.from_numpy(given["pixels"]) / 255)
    images, texts = model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)
rows = {"images": images.numpy(), "texts": texts.numpy(), "scale": model.logit_scale.exp().detach().numpy()}
""",
}


def opened_elsewhere(name: str, folder: Path, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The rows that another library gives in a process of its own, which may not import distill."""
    given, out = folder.parent / f"{folder.name}-in.npz", folder.parent / f"{folder.name}-out.npz"
    np.savez(given, **inputs)
    code = BEGIN + OTHERS[name] + END
    words = [sys.executable, "-W", "ignore", "-c", code, str(folder), str(given), str(out)]
    found = subprocess.run(words, env=os.environ, capture_output=True, text=True, cwd=folder.parent)
    assert found.returncode == 0, found.stderr
    return dict(np.load(out))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, and for each student a run NAME and its exports to NAME-out."""
    home = tmp_path_factory.mktemp("home")
    write_shards(home / "shards")
    (home / "recipe.toml").write_text(RECIPE.format(shards=home / "shards"))
    for name, settings in STUDENTS.items():
        distill("train", "recipe.toml", "--out", name, *settings, cwd=home)
        formats = [word for one in FORMATS[name] for word in ("--format", one)]
        measured = ("--eval", "shards") if name != "lit" else ()
        table = distill("export", name, "--out", f"{name}-out", *formats, *measured, cwd=home).stdout
        (home / f"{name}.txt").write_text(table)
    return home


@pytest.mark.parametrize("name, form", OPENED)
def test_another_library_gives_the_rows_of_the_run(home: Path, name: str, form: str) -> None:
    model = package.load(home / name, "cpu")
    shards = Shards.open([str(home / "shards")])
    samples = [shards.read(i) for i in range(0, 64, 5)]
    texts = [caption.text for sample in samples for caption in Captions().read(sample)]
    pixels = torch.stack([model.pixels(sample.image) for sample in samples])
    assert model.tokenizer is not None
    inputs = {"pixels": pixels.numpy(), "ids": model.tokenizer.encode(texts).numpy()}
    for count in (len(samples), 1):
        part = {key: value[:count] for key, value in inputs.items()}
        found = opened_elsewhere(form, home / f"{name}-out" / form, part)
        np.testing.assert_allclose(found["images"], model.encode_image(pixels[:count]).numpy(), rtol=0, atol=1e-5)
        if form != "timm":
            rows = model.encode_text(texts)[: len(part["ids"])].numpy()
            np.testing.assert_allclose(found["texts"], rows, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "mobilenet"])
def test_the_table_has_the_same_retrieval_for_all_formats(home: Path, name: str) -> None:
    """The ranks are the same: recall is the same as the run's own, measured by ``distill evaluate``."""
    lines = [line for line in (home / f"{name}.txt").read_text().splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == ["run", *EVERYWHERE]
    scores = package.evaluate(home / name, "retrieval", data=str(home / "shards"))["metrics"]
    mean = 50 * (scores["i2t_r10"] + scores["t2i_r10"])
    assert {row[header.index("mean R@10")] for row in rows} == {f"{mean:.1f}"}
    assert all(float(row[header.index("largest difference")]) <= 1e-5 for row in rows[1:])
    for form in EVERYWHERE:
        assert "\n".join(lines) in (home / f"{name}-out" / form / "README.md").read_text()


def test_lit_is_the_teacher_itself_in_timm(home: Path) -> None:
    about = json.loads((home / "lit-out" / "timm" / "config.json").read_text())
    assert about["architecture"] == "tf_efficientnet_lite0" and about["num_classes"] == 0


def test_timm_prepares_pictures_nearly_as_distill_does(home: Path) -> None:
    """Of a square picture to rounding; of a long one timm resizes before it cuts, and edges at the cut differ."""
    net = timm.create_model(f"local-dir:{home / 'vit-out' / 'timm'}", pretrained=True).eval()
    about = timm.data.resolve_model_data_config(net)
    prepare, model = timm.data.create_transform(**about), package.load(home / "vit", "cpu")
    mean, std = (torch.tensor(about[key]).view(3, 1, 1) for key in ("mean", "std"))
    for size, levels in (((32, 32), 0.01), ((64, 64), 2.01), ((96, 64), 12)):
        drawn = picture("circle", "red", 3).resize(size, Image.Resampling.BICUBIC)
        theirs, ours = (prepare(drawn) * std + mean) * 255, model.pixels(drawn).float()
        assert (theirs - ours).abs().max() <= levels and (theirs - ours).abs().mean() < 0.2, size


@pytest.mark.parametrize("dtype, bound", [("fp16", 1e-2), ("bf16", 5e-2)])
def test_weights_of_two_bytes_take_half_the_space(home: Path, tmp_path: Path, dtype: str, bound: float) -> None:
    formats = [word for one in EVERYWHERE for word in ("--format", one)]
    distill("export", home / "mobilenet", "--out", tmp_path / "out", *formats, "--dtype", dtype)
    files = {"distill": "image.safetensors", "timm": "model.safetensors", "onnx": "image.onnx", "torch": "image.pt2"}
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = package.load(home / "mobilenet", "cpu").encode_image(pixels).numpy()
    for form, file in files.items():
        half, whole = (folder / form / file for folder in (tmp_path / "out", home / "mobilenet-out"))
        assert half.stat().st_size < 0.7 * whole.stat().st_size, form
        if form == "distill":
            rows = package.load(tmp_path / "out" / "distill", "cpu").encode_image(pixels).numpy()
        else:
            ids = np.ones((1, 8), np.int64)
            rows = opened_elsewhere(form, tmp_path / "out" / form, {"pixels": pixels.numpy(), "ids": ids})["images"]
        assert 0 < np.abs(rows - expected).max() < bound, form


def test_8_bit_integers_in_onnx(home: Path, tmp_path: Path) -> None:
    distill("export", home / "mobilenet", "--out", tmp_path / "out", "--format", "onnx", "--int8")
    import onnx

    image, text = (onnx.load(str(tmp_path / "out" / f"{name}.onnx")) for name in ("image", "text"))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in image.graph.node}
    assert "DynamicQuantizeLinear" in {node.op_type for node in text.graph.node}
    model = package.load(home / "mobilenet", "cpu")
    shards = Shards.open([str(home / "shards")])
    pixels = torch.stack([model.pixels(shards.read(i).image) for i in range(0, 64, 8)])
    assert model.tokenizer is not None
    inputs = {"pixels": pixels.numpy(), "ids": model.tokenizer.encode(["a red circle"]).numpy()}
    found = opened_elsewhere("onnx", tmp_path / "out", inputs)
    similarity = (torch.from_numpy(found["images"]) * model.encode_image(pixels)).sum(dim=1)
    assert similarity.min() > 0.9


def test_an_export_is_converted_to_another_format(home: Path, tmp_path: Path) -> None:
    distill("export", home / "vit-out" / "distill", "--out", tmp_path / "out", "--format", "timm")
    first, second = (folder / "model.safetensors" for folder in (home / "vit-out" / "timm", tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()


def test_what_gives_other_rows_is_refused(home: Path) -> None:
    model = package.load(home / "vit", "cpu")
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = Examples(pixels, ["a red circle", "a cross"], "noise")
    assert compared("x", "fp32", model, Opened(model.encode_image, model.encode_text), inputs) == 0
    mirrored = Opened(lambda given: model.encode_image(given.flip(-1)))
    with pytest.raises(UserError, match=r"written as x \(fp32\) gives other embeddings of images"):
        compared("x", "fp32", model, mirrored, inputs)
    nothing = Opened(model.encode_image, lambda texts: model.encode_text(texts) * torch.nan)
    with pytest.raises(UserError, match="gives other embeddings of texts"):
        compared("x", "fp32", model, nothing, inputs)


@pytest.mark.parametrize(
    "arch, options, width, side",
    [("test_vit", {}, 16, 160), ("mobilenetv4_conv_small_050", {"drop_rate": 0.1}, 16, 64)]
    + [("tf_efficientnet_lite0", {}, 0, 64)],
)
def test_open_clip_gives_the_rows_of_the_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, options: dict[str, Any], width: int, side: int
) -> None:
    """Also for LiT, where the network has no projection."""
    open_clip_text.install(tmp_path / "package")
    monkeypatch.syspath_prepend(tmp_path / "package")
    own = write_pair(tmp_path / "own", arch, options, width, side)
    package.export(own, tmp_path / "out", "open_clip")
    model = package.load(own, "cpu")
    pixels = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["a red apple", "", "Zwei Hunde, nachts"]
    found = opened_elsewhere("open_clip", tmp_path / "out", {"pixels": pixels.numpy(), "texts": texts})
    np.testing.assert_allclose(found["images"], model.encode_image(pixels).numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["texts"], model.encode_text(texts).numpy(), rtol=0, atol=1e-5)
    assert found["scale"] == pytest.approx(1 / 0.05, rel=1e-5)


def write_pair(folder: Path, arch: str, options: dict[str, Any], width: int, side: int) -> Path:
    """An export of random towers, the text tower of open_clip's."""
    torch.manual_seed(0)
    image = ImageConfig(
        **{"arch": arch, "options": options, "width": width, "image_size": side, "interpolation": "bicubic"},
        **{"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)},
    )
    text = TextConfig(spec={"arch": "open_clip_of_tests", "context": 12}, vocab=49408)
    embedding = width or 1280
    net = image_tower(image, embedding).net
    tower = text.tower_class()(text.options(), text.vocab, embedding)
    tensors = {f"image.{key}": value for key, value in net.state_dict().items()}
    tensors |= {f"text.{key}": value for key, value in tower.state_dict().items()}
    about = {"objective": "contrastive", "checkpoint": "step-1", "teachers": [], "samples": 3}
    about |= {
        "versions": {"distill": "0.1.0"},
        "recipe": {"data": {"train": []}},
        "parameters": {"image": 1, "text": 1},
    }
    config = Config(width=embedding, temperature=0.05, image=image, text=text, provenance=about)
    folder.mkdir()
    OWN.write(Shipped(config, tensors, open_clip_text.Bpe(12)), folder, Numbers())
    return folder
