"""Evaluation data as people have them: the same pictures stored in every way give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, RECIPE, SCRATCH, SHAPES, distill, encoded, picture, write_tar

import distill as package
from distill.errors import UserError

TRAIN, TEST = range(48), range(48, 80)


def image(n: int) -> bytes:
    return encoded(picture(SHAPES[n % 4], COLOURS[n // 4 % 4], n))


def caption(n: int) -> str:
    return f"a {COLOURS[n // 4 % 4]} {SHAPES[n % 4]}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, and folders with the same pictures in every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        members = []
        for n in numbers:
            about = {"class": SHAPES[n % 4], "label": n % 4}
            members += [(f"{n:05d}.png", image(n)), (f"{n:05d}.txt", caption(n).encode())]
            members += [(f"{n:05d}.json", json.dumps(about).encode())]
            for path in (folder / "classes" / split / SHAPES[n % 4], folder / "metadata" / split):
                path.mkdir(parents=True, exist_ok=True)
                (path / f"{n:05d}.png").write_bytes(image(n))
        (folder / "shards").mkdir(exist_ok=True)
        write_tar(folder / "shards" / f"{split}-000000.tar", members)
        rows = [{"file_name": f"{n:05d}.png", "text": caption(n), "label": SHAPES[n % 4]} for n in numbers]
        (folder / "metadata" / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_clip_benchmark(folder)
    (folder / "recipe.toml").write_text(RECIPE.format(shards=folder / "shards" / "train-000000.tar"))
    distill("train", "recipe.toml", "--out", "run", "--set", "train.steps=20", *SCRATCH, cwd=folder)
    distill("export", "run", "--out", "export", cwd=folder)
    return folder


def write_clip_benchmark(folder: Path) -> None:
    """A classification set and a retrieval set, as ``clip_benchmark_export_wds`` writes them."""
    for split, numbers in (("train", TRAIN), ("test", TEST)):
        for name in ("wds", "wds-retrieval"):
            (folder / name / split).mkdir(parents=True)
            (folder / name / split / "nshards.txt").write_text("2")
        for shard, own in ((0, numbers[:20]), (1, numbers[20:])):
            labelled = [m for n in own for m in ((f"s{n}.png", image(n)), (f"s{n}.cls", str(n % 4).encode()))]
            write_tar(folder / "wds" / split / f"{shard}.tar", labelled)
            texts = {n: f"{caption(n)}, {n}\n{SHAPES[n % 4]} number {n}" for n in own}
            captioned = [m for n in own for m in ((f"s{n}.png", image(n)), (f"s{n}.txt", texts[n].encode()))]
            write_tar(folder / "wds-retrieval" / split / f"{shard}.tar", captioned)
    (folder / "wds" / "classnames.txt").write_text("\n".join(SHAPES))
    (folder / "wds" / "zeroshot_classification_templates.txt").write_text("{c}\na red {c}\na {c}")
    (folder / "wds-retrieval" / "dataset_type.txt").write_text("retrieval")


@pytest.mark.parametrize("task, options", [("knn", {"k": 3}), ("linear", {}), ("zero_shot", {"templates": "name"})])
def test_every_layout_gives_the_same_numbers(home: Path, task: str, options: dict[str, Any]) -> None:
    found = {
        name: package.evaluate(home / "export", task, options, data=str(home / name))
        for name in ("shards", "classes", "metadata", "wds")
    }
    classes = [one["class"] for one in found["shards"]["details"].get("by_class", [])]
    for name, result in found.items():
        assert result["metrics"] == found["shards"]["metrics"], name
        assert sorted(one["class"] for one in result["details"].get("by_class", [])) == sorted(classes)


def test_a_table_of_captions_gives_the_numbers_of_the_packed_shards(home: Path) -> None:
    lines = ["file,caption", *(f"classes/test/{SHAPES[n % 4]}/{n:05d}.png,{caption(n)}" for n in TEST)]
    (home / "table.csv").write_text("\n".join(lines) + "\n")
    expected = package.evaluate(home / "export", "retrieval", data=str(home / "shards" / "test-000000.tar"))
    for source in (home / "table.csv", home / "metadata"):
        found = package.evaluate(home / "export", "retrieval", data=str(source))
        assert found["metrics"] == pytest.approx(expected["metrics"]) and found["images"] == 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of open_clip in a folder."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("open_clip")
    torch.manual_seed(0)
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    torch.save(open_clip.CLIP(**model).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def theirs(home: Path, clip: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What CLIP_benchmark itself finds, with its own loader and metrics."""
    import open_clip
    from clip_benchmark.datasets.builder import build_wds_dataset, get_dataset_collate_fn
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
    from torch.utils.data import DataLoader

    # It calls float() on an array of one number, which NumPy 2.4 refuses.
    number = lambda one: one.item() if hasattr(one, "item") else float(one)  # noqa: E731
    monkeypatch.setattr(zeroshot_classification, "float", number, raising=False)
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip}")
    data = build_wds_dataset(name, prepare, "test", str(home / name))
    if data.classes is None:
        loader = DataLoader(data, batch_size=8, collate_fn=get_dataset_collate_fn("mscoco_captions"))
        found = zeroshot_retrieval.evaluate(model.eval(), loader, tokenizer, "cpu", False, [1, 5, 10])
        names = {"image": "t2i", "text": "i2t"}
        return {f"{names[key.split('_')[0]]}_r{key.split('@')[1]}": value for key, value in found.items()}
    loader = DataLoader(data, batch_size=8)
    found = zeroshot_classification.evaluate(
        model.eval(), loader, tokenizer, data.classes, data.templates, "cpu", amp=False
    )
    return {"top1": found["acc1"], "mean_per_class": found["mean_per_class_recall"]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name, task", [("wds", "zero_shot"), ("wds-retrieval", "retrieval")])
def test_clip_benchmark_finds_the_same_on_its_own_layout(
    home: Path, clip: Path, name: str, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = theirs(home, clip, name, monkeypatch)
    options = {"merge": False} if task == "retrieval" else {}
    found = package.evaluate(f"open_clip/local-dir:{clip}", task, options, data=str(home / name))["metrics"]
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert len(expected) == (2 if name == "wds" else 6)


def test_names_of_classes_that_occur_twice_do_no_harm_to_numbers(home: Path, tmp_path: Path) -> None:
    """Two of ImageNet's classes have one name in usual lists."""
    (tmp_path / "names.txt").write_text("circle\nbox\nbox\ncross\n")
    found = package.evaluate(home / "export", "knn", data=str(home / "wds"), classes=str(tmp_path / "names.txt"), k=3)
    assert found["metrics"] == package.evaluate(home / "export", "knn", data=str(home / "wds"), k=3)["metrics"]
    with pytest.raises(UserError, match="Two classes are called 'box'"):
        package.evaluate(
            home / "export", "knn", data=str(home / "classes"), classes=str(tmp_path / "names.txt"), label="class"
        )


def test_bad_samples_of_any_layout_are_refused_or_left_out_and_named(home: Path, tmp_path: Path) -> None:
    for n in range(8):
        path = tmp_path / "own" / SHAPES[n % 4] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(n))
    (tmp_path / "own" / "circle" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png.*--skip-bad"):
        package.evaluate(home / "export", "zero_shot", data=str(tmp_path / "own"))
    found = package.evaluate(home / "export", "zero_shot", data=str(tmp_path / "own"), skip_bad=True)
    assert found["images"] == 8 and found["bad"] == 1 and "broken.png" in found["bad_examples"][0]["key"]


def test_a_set_of_a_kind_that_no_task_measures_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "voc" / "test").mkdir(parents=True)
    write_tar(tmp_path / "voc" / "test" / "0.tar", [("a.png", image(0)), ("a.npy", b"x")])
    (tmp_path / "voc" / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(UserError, match="of the kind 'multilabel'"):
        package.evaluate(home / "export", "zero_shot", data=str(tmp_path / "voc"))


def test_changed_pictures_are_embedded_anew(home: Path, tmp_path: Path) -> None:
    for n in range(8):
        path = tmp_path / "own" / SHAPES[n % 4] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(n))
    options = {"data": str(tmp_path / "own"), "templates": "name", "cache": tmp_path / "kept"}
    before = package.evaluate(home / "export", "zero_shot", **options)
    (tmp_path / "own" / "circle" / "0.png").write_bytes(image(1))
    after = package.evaluate(home / "export", "zero_shot", **options)
    fresh = package.evaluate(home / "export", "zero_shot", **options | {"cache": False})
    assert after == fresh and len(list((tmp_path / "kept").iterdir())) == 3 and before["images"] == 8
