"""Searching one's own pictures: the index that is kept beside them, answers, sheets; embedding that goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, RECIPE, SCRATCH, SHAPES, distill, encoded, picture
from PIL import Image

import distill as package
from distill.ship.embed import embed_pictures
from distill.ship.picture_index import PictureIndex
from distill.ship.pictures import Pictures, find_pictures
from distill.ship.search import Collection


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """An export and a folder of 20 pictures."""
    home = tmp_path_factory.mktemp("search")
    (home / "recipe.toml").write_text(RECIPE.format(shards=shards))
    distill("train", "recipe.toml", "--out", "run", *SCRATCH, "--set", "train.steps=1", cwd=home)
    distill("export", "run", "--out", "export", cwd=home)
    (home / "photos" / "more").mkdir(parents=True)
    for number in range(20):
        folder = home / "photos" / ("more" if number % 2 else "")
        image = encoded(picture(SHAPES[number % 4], COLOURS[number % 8], number))
        (folder / f"{number:02d}.png").write_bytes(image)
    return home


@pytest.fixture
def photos(home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(home / "photos", tmp_path / "photos"))


@pytest.fixture(scope="module")
def model(home: Path) -> Any:
    return package.load(home / "export")


def test_only_new_and_changed_pictures_are_embedded(model: Any, photos: Path) -> None:
    first = Collection(model, str(photos))
    assert first.new == 20 and len(list((photos.parent / ".photos.distill").iterdir())) == 1
    again = Collection(model, str(photos))
    assert again.new == 0 and np.array_equal(again.rows, first.rows) and again.names == first.names
    (photos / "new.png").write_bytes(encoded(picture("cross", "pink", 99)))
    (photos / "00.png").write_bytes(encoded(picture("cross", "blue", 98)))
    (photos / "02.png").unlink()
    (photos / "more" / "01.png").rename(photos / "more" / "renamed.png")
    changed = Collection(model, str(photos))
    assert changed.new == 3 and len(changed.names) == 20
    whole = Collection(model, str(photos), keep=False)
    assert whole.new == 20 and whole.names == changed.names
    np.testing.assert_allclose(changed.rows, whole.rows, atol=1e-6)
    assert Collection(model, str(photos)).new == 0


def test_another_model_has_an_index_of_its_own(model: Any, home: Path, photos: Path) -> None:
    Collection(model, str(photos))
    other = package.load(home / "export")
    with torch.no_grad():
        next(other.image.parameters()).add_(1.0)
    assert other.identity() != model.identity() == package.load(home / "export").identity()
    assert Collection(other, str(photos)).new == 20
    assert Collection(model, str(photos)).new == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", "cut"])
def test_a_damaged_index_counts_as_empty(model: Any, photos: Path, content: Any) -> None:
    expected = Collection(model, str(photos))
    (file,) = (photos.parent / ".photos.distill").iterdir()
    file.write_bytes(file.read_bytes()[:-100] if content == "cut" else content)
    found = Collection(model, str(photos))
    assert found.new == 20 and np.array_equal(found.rows, expected.rows)


def test_without_room_for_an_index_it_says_so_and_searches(home: Path, photos: Path) -> None:
    (photos.parent / ".photos.distill").write_text("a file")
    result = distill("search", home / "export", photos, "a red circle", "--top", "3")
    assert "The embeddings are not kept" in result.stderr and len(result.stdout.splitlines()) == 3
    result = distill("search", home / "export", photos, "a red circle", "--no-index")
    assert "not kept" not in result.stderr


def test_a_picture_finds_itself_first_and_the_sheet_shows_what_was_found(home: Path, photos: Path) -> None:
    words = ["--like", photos / "04.png", "--top", "7", "--sheet", photos.parent / "sheet.png"]
    found = json.loads(distill("search", home / "export", photos, *words, "--json").stdout)
    assert found[0]["name"] == "04.png" and found[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(found) == 7 and [one["similarity"] for one in found] == sorted(
        (one["similarity"] for one in found), reverse=True
    )
    with Image.open(photos.parent / "sheet.png") as sheet, Image.open(photos / "04.png") as query:
        cell = sheet.convert("RGB").crop((12, 40, 108, 136))
        expected = query.convert("RGB").resize((96, 96), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(cell, float) - np.asarray(expected, float))[4:-4, 4:-4].max() <= 1
    again = distill("search", home / "export", photos, *words, status=2).stderr
    assert "sheet.png already exists" in again


def test_more_answers_than_pictures_and_other_mistakes(home: Path, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    result = distill("search", home / "export", photos, "a circle", "--top", "100")
    assert len(result.stdout.splitlines()) == 20
    assert "1 picture could not be used; the first: broken.png: it" in result.stderr
    for words in (["photos"], ["photos", "a", "--like", "photos/00.png"]):
        said = distill("search", home / "export", *words, cwd=photos.parent, status=2).stderr
        assert "Exactly one of QUERY and --like" in said
    assert "cannot be read" in distill("search", home / "export", photos, "--like", "nowhere.png", status=2).stderr
    distill("embed", home / "export", "--images", photos, "--out", "rows.npy", cwd=photos.parent)
    drawn = distill("search", home / "export", "rows.npy", "a", "--sheet", "a.png", cwd=photos.parent, status=2).stderr
    assert "holds no pictures to draw" in drawn


class Interrupted(Pictures):
    """Pictures that are interrupted at number 12."""

    def read(self, i: int) -> Image.Image:
        if i == 12:
            raise KeyboardInterrupt
        return super().read(i)


def test_an_interrupted_embedding_goes_on_from_what_is_kept(
    model: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.ship.embed.BATCH", 5)
    found = find_pictures([str(photos)])
    stopped = Interrupted(found.names, found.states, found.places)
    path = tmp_path / ".rows.npy.unfinished"
    with pytest.raises(KeyboardInterrupt):
        embed_pictures(model, stopped, index=PictureIndex(path, model.identity(), 32))
    goes_on = embed_pictures(model, found, index=PictureIndex(path, model.identity(), 32))
    whole = embed_pictures(model, found)
    assert goes_on.new == 10 and whole.new == 20, "two batches of five were kept"
    assert goes_on.names == whole.names
    torch.testing.assert_close(goes_on.rows, whole.rows, rtol=0, atol=1e-6)


def test_the_command_goes_on_and_leaves_nothing_behind(home: Path, model: Any, photos: Path) -> None:
    unfinished = photos.parent / ".rows.npy.unfinished"
    index = PictureIndex(unfinished, model.identity(), 32)
    embed_pictures(model, find_pictures([str(photos / "more")]), index=index)
    rows = np.full((1, 32), 0.5, np.float32)  # what is known of a picture is taken from there
    stat = (photos / "00.png").stat()
    index.write(["00.png"], [f"{stat.st_size} {stat.st_mtime_ns}"], rows)
    distill("embed", home / "export", "--images", "photos", "--out", "rows.npy", cwd=photos.parent)
    found, names = np.load(photos.parent / "rows.npy"), json.loads((photos.parent / "rows.names.json").read_text())
    assert np.array_equal(found[names.index("00.png")], rows[0]) and len(names) == 20
    assert not unfinished.exists()


def test_loader_processes_change_nothing(
    model: Any, photos: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.ship.embed.BATCH", 20)
    (photos / "broken.png").write_bytes(b"no picture")
    specs = [str(photos), str(shards)]
    one, many = (embed_pictures(model, find_pictures(specs), workers=number) for number in (0, 2))
    assert one.names == many.names and one.skipped == many.skipped and len(one.names) == 84
    assert torch.equal(one.rows, many.rows)


def test_samples_of_shards_are_known_by_the_shards_hash(model: Any, shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    assert Collection(model, str(copy)).new == 64
    for path in copy.glob("*.tar"):
        os.utime(path, ns=(1, 1))
    assert Collection(model, str(copy)).new == 0
