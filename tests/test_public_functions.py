"""Encoding through Python and the command: every form of a picture gives the same row, anything else a sentence."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RECIPE, distill, encoded, lines_of, picture, write_shards, write_tar
from PIL import Image
from safetensors import safe_open

import distill as package
from distill import UserError
from distill.ship import embedding_files

WORDS = ["--set", "train.steps=2", "--set", "teacher.0.cache=cache"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export, a photo that its EXIF data rotate, in a folder and in a shard, and other pictures."""
    home = tmp_path_factory.mktemp("home")
    write_shards(home / "shards", (24,))
    (home / "recipe.toml").write_text(RECIPE.format(shards=home / "shards"))
    distill("train", "recipe.toml", "--out", "run", *WORDS, cwd=home)
    distill("export", "run", "--out", "export", cwd=home)
    photo, exif = picture("triangle", "red", 3, 60).resize((60, 44)), Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    (home / "photos" / "below").mkdir(parents=True)
    photo.save(home / "photos" / "phone.jpg", quality=95, exif=exif)
    picture("square", "blue", 2).convert("RGBA").save(home / "photos" / "below" / "b.webp", lossless=True)
    data = (home / "photos" / "phone.jpg").read_bytes()
    write_tar(home / "one.tar", [("phone.jpg", data), ("phone.txt", b"a red triangle")])
    return home


@pytest.fixture(scope="module")
def model(home: Path) -> Any:
    return package.load(home / "export")


def embedded(path: Path) -> tuple[np.ndarray, list[str]]:
    return embedding_files.read(path)


def test_a_picture_has_the_same_embedding_in_every_form(home: Path, model: Any) -> None:
    path = home / "photos" / "phone.jpg"
    with Image.open(path) as opened:
        turned = Image.fromarray(np.asarray(opened))  # without the EXIF data
    upright = turned.transpose(Image.Transpose.ROTATE_270)
    expected = model.encode_image([upright])
    assert (expected - model.encode_image([turned])).abs().max() > 1e-3
    forms = (path, str(path), path.read_bytes(), Image.open(path), np.asarray(upright), model.pixels(path))
    for form in forms:
        for argument in (form, [form], (one for one in (form,))):
            torch.testing.assert_close(model.encode_image(argument), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.encode_image(list(forms)), expected.expand(6, -1), rtol=0, atol=1e-6)
    batch = np.stack([np.asarray(upright)] * 2)
    torch.testing.assert_close(model.encode_image(batch), expected.expand(2, -1), rtol=0, atol=1e-6)
    for number, images in enumerate((path, "one.tar", "photos/phone.jpg", "list.txt", "photos")):
        (home / "list.txt").write_text("photos/phone.jpg\n")
        out = home / f"same-{number}.npy"
        distill("embed", "export", "--images", images, "--out", out, cwd=home)
        rows, names = embedded(out)
        row = next(i for i, name in enumerate(names) if "phone" in name)
        torch.testing.assert_close(torch.from_numpy(rows[row : row + 1]), expected, rtol=0, atol=1e-6)


def test_images_of_other_modes_are_what_the_files_would_be(model: Any, tmp_path: Path) -> None:
    plain = picture("cross", "green", 5)
    grey16 = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    for number, image in enumerate((plain.convert("LA"), plain.convert("P"), grey16, plain.convert("CMYK"))):
        path = tmp_path / f"{number}.{'tiff' if image.mode == 'CMYK' else 'png'}"
        image.save(path)
        torch.testing.assert_close(model.encode_image(image), model.encode_image(path), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "value, words",
    [
        (torch.zeros(2, 3, 32, 32), "of type float32, where uint8"),
        (torch.zeros(3, 32, 33, dtype=torch.uint8), r"the image tower reads \[n, 3, 32, 32\]"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"shape \[2, 1, 32, 32\]"),
        (np.zeros((9, 9, 3), dtype=np.float64), "pixels of type float64"),
        (np.zeros((9, 9, 5), dtype=np.uint8), r"has the shape \[9, 9, 5\]"),
        (np.zeros((0, 9, 3), dtype=np.uint8), r"has the shape \[0, 9, 3\]"),
        (Image.new("F", (9, 9)), "floating-point"),
        ("nowhere.jpg", "nowhere.jpg cannot be read: No such file"),
        (b"no image", "is of no format that is known"),
        (None, "A NoneType is no image"),
        (7, "A int is no image"),
        ([None], "A NoneType is no image"),
        ({"a": 1}, "A dict is no image"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_with_a_sentence(model: Any, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        model.encode_image(value)


def test_texts_are_texts(model: Any) -> None:
    one = model.encode_text("a dog")
    assert one.shape == (1, 32) and torch.equal(one, model.encode_text(["a dog"]))
    assert model.encode_text([]).shape == model.encode_image([]).shape == (0, 32)
    assert model.encode_text(text for text in ("a", "b")).shape == (2, 32)
    assert model.encode_text("\ud800").shape == (1, 32)
    for wrong in (None, 7, [None], ["a", 7], [b"a"], [["a"]]):
        with pytest.raises(UserError, match="no text"):
            model.encode_text(wrong)
    for size in (0, -1, 2.5):
        with pytest.raises(UserError, match="batch_size must be"):
            model.encode_text("a", batch_size=size)
        with pytest.raises(UserError, match="batch_size must be"):
            model.encode_image([], batch_size=size)


def test_zero_shot_takes_a_caption_or_several_a_class(model: Any) -> None:
    image = Image.new("RGB", (20, 20), "red")
    assert model.zero_shot(image, "cat").tolist() == [[1.0]]
    expected = model.zero_shot([image], ["a cat", "a dog"])
    assert expected.shape == (1, 2) and torch.equal(model.zero_shot(image, [["a cat"], ["a dog"]]), expected)
    for labels, words in (
        ([["a"], []], "Class 1 has no caption"),
        ([], "no labels"),
        (None, "no label"),
        ([3], "no text"),
    ):
        with pytest.raises(UserError, match=words):
            model.zero_shot(image, labels)


def test_a_line_is_a_line_and_rows_match_lines(home: Path, model: Any) -> None:
    lines = ["a\u2028b", "\x0c", "c\x0bd\x85e", "", "ein Bär", "last"]
    (home / "texts.txt").write_bytes("\ufeff".encode() + "\n".join(lines).replace("last", "last\r\n").encode())
    log = distill("embed", "export", "--texts", "texts.txt", "--out", "texts.npy", cwd=home)
    rows, names = embedded(home / "texts.npy")
    assert names == lines and "2 lines without text" in log.stderr
    torch.testing.assert_close(torch.from_numpy(rows), model.encode_text(lines), rtol=0, atol=1e-5)
    (home / "latin.txt").write_bytes("fine\nBär\n".encode("latin-1"))
    refused = distill("embed", "export", "--texts", "latin.txt", "--out", "no.npy", cwd=home, status=2)
    assert "Line 2 of latin.txt is not UTF-8" in refused.stderr


def test_pictures_that_cannot_be_used_are_skipped_and_listed(home: Path) -> None:
    (home / "mixed").mkdir()
    for name in ("a.png", "c.PNG"):
        picture("circle", "red", 1).save(home / "mixed" / name, "PNG")
    (home / "mixed" / "b.jpg").write_bytes(b"broken")
    (home / "mixed" / "._a.png").write_bytes(b"of a Mac")
    log = distill("embed", "export", "--images", "mixed", "--out", "mixed.safetensors", cwd=home)
    with safe_open(home / "mixed.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["names"]) == ["a.png", "c.PNG"]
        assert file.get_tensor("embeddings").shape == (2, 32)
    (skipped,) = lines_of(home / "mixed.safetensors.skipped.jsonl")
    assert skipped["name"] == "b.jpg" and "no format that is known" in skipped["reason"]
    assert "Skipped: b.jpg" in log.stderr and "1 picture could not be used" in log.stderr
    strict = distill("embed", "export", "--images", "mixed", "--out", "no.npy", "--strict", cwd=home, status=2)
    assert "b.jpg" in strict.stderr
    good = encoded(picture("circle", "red", 1))
    write_tar(home / "bad.tar", [("x.png", b"broken"), ("y.png", good), ("z.txt", b"alone")])
    distill("embed", "export", "--images", "bad.tar", "--images", "mixed/a.png", "--out", "two.parquet", cwd=home)
    rows, names = embedded(home / "two.parquet")
    assert names == ["y", "mixed/a.png"] and np.abs(rows[0] - rows[1]).max() < 1e-6
    assert [one["name"] for one in lines_of(home / "two.parquet.skipped.jsonl")] == ["x", "z"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--images", "photos", "--out", "x.pt"], "names no format of embeddings"),
        (["--images", "photos", "--out", "x.saftensors"], "Did you mean '.safetensors'?"),
        (["--images", "photos", "--out", "x"], "names no format of embeddings"),
        (["--images", "empty", "--out", "x.npy"], "There is no picture in empty"),
        (["--images", "nowhere*.jpg", "--out", "x.npy"], "does not exist"),
        (["--images", "https://a/b.tar", "--out", "x.npy"], "is a stream"),
        (["--images", "both", "--out", "x.npy"], "holds shards and pictures (b.png)"),
        (["--images", "photos", "--texts", "recipe.toml", "--out", "x.npy"], "Exactly one"),
        (["--images", "photos", "--out", "recipe.toml"], "names no format"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_embed_refuses_before_it_works(home: Path, arguments: list[str], words: str) -> None:
    (home / "empty").mkdir(exist_ok=True)
    (home / "both").mkdir(exist_ok=True)
    write_tar(home / "both" / "a.tar", [("a.txt", b"a")])
    picture("circle", "red", 1).save(home / "both" / "b.png")
    assert words in distill("embed", "export", *arguments, cwd=home, status=2).stderr
    assert not list(home.glob("x*"))


def test_evaluate_can_leave_out_bad_samples_and_names_them(home: Path) -> None:
    write_shards(home / "good", (12,), first=40)
    good = (home / "good" / "train-000000.tar").read_bytes()
    odd = [("bad.png", b"broken"), ("bad.txt", b"a"), ("mute.png", encoded(picture("circle", "red", 1)))]
    (home / "worse").mkdir()
    (home / "worse" / "a.tar").write_bytes(good)
    write_tar(home / "worse" / "b.tar", odd)
    words = ["evaluate", "export", "--task", "retrieval", "--json", "-", "--data"]
    expected = json.loads(distill(*words, "good", cwd=home).stdout)["results"][0]
    refused = distill(*words, "worse", cwd=home, status=2).stderr
    assert "--skip-bad" in refused and re.search("'(bad|mute)'", refused)
    result = distill(*words, "worse", "--skip-bad", cwd=home)
    found = json.loads(result.stdout)["results"][0]
    assert found.pop("bad") == 2 and [one["key"] for one in found.pop("bad_examples")] == ["bad", "mute"]
    assert found.pop("data") == "worse" and expected.pop("data") == "good"
    assert found == expected and "2 samples left out" in result.stderr
    again = package.evaluate(home / "export", "retrieval", data=str(home / "worse"), skip_bad=True)
    assert again["bad"] == 2 and again["metrics"] == expected["metrics"]
    nothing = distill(*words, "worse/b.tar", "--skip-bad", cwd=home, status=2).stderr
    assert "No sample of the evaluation data can be used" in nothing


def test_an_export_holds_nothing_of_the_machine_that_made_it(home: Path, tmp_path: Path) -> None:
    """With a recipe that names every kind of path."""
    write_shards(home / "eval", (4,), first=90)
    words = ["--set", f"data.eval={home / 'eval'}", "--set", f"teacher.0.cache={tmp_path / 'secret-cache'}"]
    words += ["--set", f"student.tokenizer.file={home / 'run' / 'tokenizer.model'}"]
    words += ["--set", f"student.text.init={home / 'export'}", "--set", "train.steps=1"]
    distill("train", home / "recipe.toml", *words, "--out", tmp_path / "run")
    distill("export", tmp_path / "run", "--out", tmp_path / "out")
    about = json.loads((tmp_path / "out" / "config.json").read_text())["provenance"]
    assert about["shards"]["number"] == 1 and about["shards"]["first"] == "train-000000.tar"
    assert re.fullmatch("[0-9a-f]{64}", about["shards"]["sha256"]) and about["samples"] == 24
    assert about["recipe"]["student"]["text"]["init"] == "export"
    for path in (tmp_path / "out").iterdir():
        for word in (str(tmp_path), str(home), f"{Path.home()}/"):
            assert word.encode() not in path.read_bytes(), f"{path.name} holds {word}"
    for path in (tmp_path / "out" / "config.json", tmp_path / "out" / "README.md"):
        for word in (socket.gethostname(), getpass.getuser()):
            assert not re.search(rf"\b{re.escape(word)}\b", path.read_text()), f"{path.name} holds {word}"


def test_the_model_card_says_what_the_network_is(home: Path) -> None:
    card = (home / "export" / "README.md").read_text()
    assert "timm's `vit_tiny_patch16_224` changed to" in card and "depth = 2" in card and "embed_dim = 48" in card


def test_a_log_holds_no_warnings_of_libraries(home: Path) -> None:
    words = ["--set", "teacher.0.cache=cache", "--set", "train.steps=2", "--nproc", "2", "--set"]
    for stage in (0, 3):
        log = distill("train", "recipe.toml", *words, f"zero.stage={stage}", "--out", f"two-{stage}", cwd=home).stderr
        assert "Warning" not in log and "site-packages" not in log, log


def test_a_full_disk_is_the_user_s_error(home: Path) -> None:
    """Files of at most a kilobyte may be written; the system's error for that takes the same way to the user."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)); "
        "from distill.cli.main import main; sys.argv = ['distill', *sys.argv[1:]]; main()"
    )
    for words in (
        ["export", "run", "--out", "full"],
        ["embed", "export", "--images", "shards", "--out", "full.safetensors"],
    ):
        result = subprocess.run(
            [sys.executable, "-c", program, *words], cwd=home, capture_output=True, text=True, env=os.environ.copy()
        )
        assert result.returncode == 2, result.stderr
        assert "File too large" in result.stderr and "bug" not in result.stderr and "Traceback" not in result.stderr
        assert not (home / words[-1]).exists()


def test_one_string_where_a_list_is_expected_is_a_list_of_one(home: Path, tmp_path: Path) -> None:
    package.train(home / "recipe.toml", tmp_path / "run", overrides="train.steps=1")
    assert len(lines_of(tmp_path / "run" / "metrics.jsonl")) == 1


def test_a_buffer_is_as_good_as_a_file(model: Any) -> None:
    buffer = io.BytesIO()
    picture("circle", "red", 1).save(buffer, "PNG")
    assert torch.equal(model.encode_image(Image.open(buffer)), model.encode_image(buffer.getvalue()))


def test_search_ranks_pictures_by_their_similarity(home: Path, model: Any) -> None:
    distill("embed", "export", "--images", "shards", "--out", "search.npy", cwd=home)
    rows, names = embedded(home / "search.npy")
    similarities = rows @ model.encode_text("a red circle")[0].numpy()
    expected = [names[i] for i in np.argsort(-similarities)[:4]]
    for pictures in ("search.npy", "shards"):
        found = json.loads(
            distill("search", "export", pictures, "a red circle", "--top", "4", "--json", cwd=home).stdout
        )
        assert [one["name"] for one in found] == expected
        assert [one["similarity"] for one in found] == pytest.approx(
            np.sort(similarities)[::-1][:4].tolist(), abs=1e-5
        )
    assert expected[0] in distill("search", "export", "search.npy", "a red circle", cwd=home).stdout.splitlines()[0]
    np.save(home / "wide.npy", np.zeros((2, 5), np.float32))
    (home / "wide.names.json").write_text('["a", "b"]')
    refused = distill("search", "export", "wide.npy", "a", cwd=home, status=2).stderr
    assert "embeddings of width 5; those of the model have 32" in refused
