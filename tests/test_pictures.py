"""Pictures without captions: folders as shards, image students alone, and batches with captioned samples beside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import (
    COLOURS,
    RECIPE,
    SHAPES,
    distill,
    lines_of,
    losses_of,
    metrics,
    picture,
    wait_for_step,
    write_shards,
)
from ranks import train_together
from safetensors.torch import load_file

import distill as package
from distill.data.batch import in_sample_order, rows_of_part
from distill.data.pairs import JoinedSchedule, Schedule
from distill.data.picture_lists import picture_lists
from distill.data.shards import Shards
from distill.errors import BadSample, UserError

ALONE = ("student.text=false", 'objective.terms=["fh"]', "data.crop=[1.0,1.0]")


def write_pictures(folder: Path, count: int = 64, first: int = 0) -> Path:
    """A folder of drawings; those of two folders with another ``first`` are different."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(first, first + count):
        picture(SHAPES[n % 4], COLOURS[n // 4 % 8], n).save(folder / f"{n:06d}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A folder with recipe.toml, the pictures of the shards in "same" and "shard", and 40 others in "photos"."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "recipe.toml").write_text(RECIPE.format(shards=shards))
    write_pictures(folder / "same")
    write_shards(folder / "shard", (64,))
    write_pictures(folder / "photos", 40, first=1000)
    return folder


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


# Folders as shards


def test_a_folder_is_read_like_a_shard_without_a_copy(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos" / "a", 3)
    write_pictures(tmp_path / "photos" / "b", 2)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    write_pictures(tmp_path / "photos" / ".hidden", 1)
    write_pictures(tmp_path / "photos" / "__MACOSX", 1)
    opened = Shards.open([str(tmp_path / "photos")])
    names = [f"a/{n:06d}.png" for n in range(3)] + [f"b/{n:06d}.png" for n in range(2)]
    assert [opened.key(i) for i in range(len(opened))] == names
    for i, name in enumerate(names):
        sample = opened.read(i)
        assert sample.image == (tmp_path / "photos" / name).read_bytes() and sample.txt is sample.json is None
    beside = [path for path in (tmp_path / ".photos.distill").rglob("*") if path.is_file()]
    assert len(beside) == 1 and beside[0].stat().st_size < 1000


def test_a_list_that_has_not_changed_stays_when_pictures_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.data.picture_lists.PICTURES", 4)
    folder = write_pictures(tmp_path / "photos", 10)
    first = picture_lists(folder)
    assert len(first) == 3 and picture_lists(folder) == first
    write_pictures(folder, 2, first=100)
    second = picture_lists(folder)
    assert set(first) < set(second) and len(second) == 4
    (folder / "000001.png").unlink()
    third = picture_lists(folder)
    assert len(set(second) & set(third)) == 3 and len(third) == 4
    assert sum(len(Shards.open([str(path)])) for path in third) == 11
    os.utime(folder / "000002.png")  # touched, with the same content
    assert picture_lists(folder) == third
    shutil.move(folder, tmp_path / "moved")  # with what is beside it
    shutil.move(tmp_path / ".photos.distill", tmp_path / ".moved.distill")
    assert [path.name for path in picture_lists(tmp_path / "moved")] == [path.name for path in third]


def test_a_picture_that_changes_later_is_a_bad_sample_and_listed_anew(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos", 4)
    opened = Shards.open([str(folder)])
    picture("cross", "pink", 7).save(folder / "000002.png")
    with pytest.raises(BadSample, match="000002.png.* has changed since its folder was indexed"):
        opened.read(2)
    (folder / "000003.png").unlink()
    with pytest.raises(BadSample, match="No such file"):
        opened.read(3)
    again = Shards.open([str(folder)])
    assert [again.key(i) for i in range(len(again))] == ["000000.png", "000001.png", "000002.png"]
    assert again.read(2).image == (folder / "000002.png").read_bytes()


def test_a_damaged_list_is_made_again_and_named_where_a_run_reads_it(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos", 4)
    (path,) = picture_lists(folder)
    content = path.read_text()
    path.write_text(content[: len(content) // 2])
    with pytest.raises(UserError, match="is damaged"):
        Shards.open([str(path)])
    assert picture_lists(folder) == [path] and path.read_text() == content


def test_lists_go_to_the_users_cache_where_they_cannot_be_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "in" / "photos", 4)
    (tmp_path / "in" / ".photos.distill").write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (path,) = picture_lists(folder)
    assert path.is_relative_to(tmp_path / "cache") and Shards.open([str(folder)]).read(0).image


def test_data_check_does_not_miss_captions_in_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos", 4)
    found = json.loads(distill("data", "check", folder, "--json").stdout)
    assert found["usable"] is True and found["samples"] == 4
    (folder / "torn.png").write_bytes((folder / "000000.png").read_bytes()[:60])
    report = distill("data", "check", folder, status=1)
    assert "torn.png" in report.stdout


# Image students alone


OBJECTIVES = [
    'objective={name="three_towers",terms=["fh"]}',
    'objective={name="three_towers",terms=["fh"],pair="sigmoid",heads="none"}',
    *(f'objective={{name="{name}",terms=["fh"]}}' for name in ("l2", "cosine", "smooth_l1", "relational")),
    'objective={name="function_matching",terms=["fh"]}',
]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pictures_alone_train_like_captioned_ones_whose_captions_are_not_read(home: Path, objective: str) -> None:
    """Folder and shard hold the same pictures in the same order; views are plain, since keys differ by ".png"."""
    name = str(OBJECTIVES.index(objective))
    own = [*ALONE, objective, "train.steps=3"]
    runs = {home / f"{data}-{name}": [*own, f"data.train={home / data}"] for data in ("same", "shard")}
    train_together(home, runs, nproc=1)
    folder, shard = (losses_of(run) for run in runs)
    assert folder == shard and len(folder) == 3 and np.isfinite(folder).all()


def test_an_image_student_of_pictures_alone_ships_to_timm_and_onnx(home: Path, tmp_path: Path) -> None:
    settings = ["data.train=same", "data.image_size=32", "teacher.0.image_size=64", "data.workers=0", "train.steps=2"]
    settings += ['student.image={arch="test_vit",img_size=32}', "train.batch_size=16", "data.crop=[1.0,1.0]"]
    distill("train", "image_only", "--out", tmp_path / "run", *sets(*settings), cwd=home)
    formats = ["--format", "distill", "--format", "timm", "--format", "onnx"]
    distill("export", tmp_path / "run", "--out", tmp_path / "out", *formats, cwd=home)
    net = timm.create_model(f"local-dir:{tmp_path / 'out' / 'timm'}", pretrained=True).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        found = torch.nn.functional.normalize(net((pixels / 255 - mean) / std), dim=1)
    expected = package.load(tmp_path / "out" / "distill").encode_image(pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not (tmp_path / "run" / "tokenizer.model").exists() and (tmp_path / "out" / "onnx" / "image.onnx").exists()


# Both at once

MIXED = ("data.pictures=photos", "train.batch_size=16", "train.steps=4", "data.captions=joint")


def mixed(home: Path, *more: str) -> list[str]:
    return [one.replace("=photos", f"={home / 'photos'}") for one in (*MIXED, *more)]


def test_rows_of_several_batches_have_captioned_samples_first() -> None:
    """Against the definition, row by row; and each batch gets its own rows back."""
    parts = [[f"{name}{k}{i}" for i in range(3)] + [f"pic{k}{i}" for i in range(2)] for k, name in enumerate("abcd")]
    codes = {row: number for number, row in enumerate(sum(parts, []))}
    tensors = [torch.tensor([codes[row] for row in part]) for part in parts]
    whole = in_sample_order(tensors, 5, 3)
    expected = [row for part in parts for row in part[:3]] + [row for part in parts for row in part[3:]]
    assert whole.tolist() == [codes[row] for row in expected]
    for k, part in enumerate(tensors):
        assert torch.equal(rows_of_part(whole, k, 4, 5, 3), part)
    texts = in_sample_order([part[:3] for part in tensors], 5, 3)
    assert texts.tolist() == [codes[row] for part in parts for row in part[:3]]
    assert torch.equal(rows_of_part(texts, 2, 4, 5, 3), tensors[2][:3])


def test_an_epoch_of_each_set_has_every_sample_once_whatever_the_processes(home: Path, shards: Path) -> None:
    sets_of = [Shards.open([str(shards)]), Shards.open([str(home / "photos")])]
    orders, sizes = [one.order_of(0) for one in sets_of], (8, 4)

    def slots(world: int, pieces: int) -> list[tuple[int, int, int]]:
        found = []
        for rank in range(world):
            parts = [Schedule(o, n, rank, world, 0, 20, pieces=pieces) for o, n in zip(orders, sizes, strict=True)]
            for slots in JoinedSchedule(parts):
                assert [slot.dataset for slot in slots] == sorted(slot.dataset for slot in slots)
                found += [(slot.dataset, slot.position, slot.sample) for slot in slots]
        return sorted(found)

    alone = slots(1, 1)
    assert alone == slots(2, 1) == slots(2, 2) == slots(4, 1)
    for dataset, (opened, size) in enumerate(zip(sets_of, sizes, strict=True)):
        samples = [sample for number, _, sample in alone if number == dataset]
        assert len(samples) == 20 * size
        assert sorted(samples[: len(opened)]) == list(range(len(opened)))


def test_mixed_batches_are_exact_over_processes_pieces_and_stages(home: Path) -> None:
    ways = {"alone": (1, ()), "pieces": (1, ("train.micro_batch=4",))}
    ways |= {"two": (2, ()), "two-3": (2, ("zero.stage=3", "train.micro_batch=4"))}
    for name, (nproc, more) in ways.items():
        train_together(home, {home / f"mixed-{name}": mixed(home, *more)}, nproc)
    expected = losses_of(home / "mixed-alone")
    for name in ways:
        np.testing.assert_allclose(losses_of(home / f"mixed-{name}"), expected, rtol=2e-4)
    lines = metrics(home / "mixed-alone")
    assert lines[-1]["examples"] == 64
    samples = [[line["samples"] for line in metrics(home / f"mixed-{n}")] for n in ways]
    assert all(one == samples[0] for one in samples)


def test_a_killed_mixed_run_goes_on_bit_for_bit(home: Path) -> None:
    options = sets(*mixed(home, "train.steps=30", "checkpoint.every_steps=3"))
    distill("train", "recipe.toml", "--out", "whole", *options, cwd=home)
    script = Path(sys.executable).with_name("distill")
    command = [str(script), "train", "recipe.toml", "--out", "killed", *options]
    with subprocess.Popen(command, cwd=home, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        wait_for_step(home / "killed", 5, process)
        process.send_signal(signal.SIGKILL)
    assert len(losses_of(home / "killed")) < 30
    moved = home / "elsewhere"
    shutil.copytree(home / "photos", moved)
    options = [option.replace(str(home / "photos"), str(moved)) for option in options]
    distill("train", "recipe.toml", "--out", "killed", "--resume", *options, cwd=home)
    assert losses_of(home / "killed") == losses_of(home / "whole")
    last = "checkpoints/step-00000030/students.safetensors"
    one, other = (load_file(home / run / last) for run in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    (moved / "001000.png").unlink()
    refused = distill("train", "recipe.toml", "--out", "killed", "--resume", *options, cwd=home, status=2)
    assert "The training data has changed since the run was started" in refused.stderr


def test_bad_pictures_are_counted_and_replaced_by_other_pictures(home: Path, tmp_path: Path) -> None:
    photos = write_pictures(tmp_path / "photos", 40, first=1000)
    (photos / "001003.png").write_bytes((photos / "001003.png").read_bytes()[:70])
    options = sets(f"data.pictures={photos}", "train.steps=8", "data.bad_samples=1")
    distill("train", "recipe.toml", "--out", tmp_path / "run", *options, cwd=home)
    (line,) = lines_of(tmp_path / "run" / "bad-samples.jsonl")
    assert line["key"] == "001003.png" and len(losses_of(tmp_path / "run")) == 8
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (about["samples"], about["pictures"]) == (64, 40)
    options = sets(f"data.pictures={photos}", "train.steps=8", "data.bad_samples=0")
    refused = distill("train", "recipe.toml", "--out", tmp_path / "strict", *options, cwd=home, status=2)
    assert "001003.png" in refused.stderr


def test_epochs_count_captioned_images(home: Path, tmp_path: Path) -> None:
    options = sets(f"data.pictures={home / 'photos'}", "data.pictures_share=0.25", "train.epochs=1")
    recipe = (home / "recipe.toml").read_text().replace("steps = 6\n", "")
    (home / "epochs.toml").write_text(recipe)
    distill("train", "epochs.toml", "--out", tmp_path / "run", *options, cwd=home)
    assert len(losses_of(tmp_path / "run")) == 6  # 64 samples, 12 in a batch of 16


def test_all_captioned_images_of_a_mixed_batch_are_those_of_a_run_without_pictures(home: Path, tmp_path: Path) -> None:
    """Step by step, f↔g of batches of 8 + 8 at first equals that of batches of 8 captioned samples alone."""
    both = sets(f"data.pictures={home / 'photos'}", "train.steps=1")
    alone = sets("train.batch_size=8", "train.steps=1")
    for name, options in (("both", both), ("alone", alone)):
        distill("train", "recipe.toml", "--out", tmp_path / name, *options, cwd=home)
    first = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("both", "alone")]
    assert first[0]["fg"] == pytest.approx(first[1]["fg"], rel=1e-5)
    assert first[0]["gh"] == pytest.approx(first[1]["gh"], rel=1e-5)
    assert first[0]["fh"] != pytest.approx(first[1]["fh"], rel=1e-3)
