"""``distill data pack`` with tables: every row becomes captions of its picture, or is named with the reason."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import distill, encoded, lines_of, picture, write_tar
from PIL import Image
from test_data import photo
from test_shards import by_webdataset

from distill import UserError, pack
from distill.data.captions import Caption, Captions
from distill.data.check import Findings, NearDuplicates, difference_hash
from distill.data.packing.lookalikes import groups
from distill.data.shards import Shards
from distill.evals.retrieval import Relevance
from distill.metrics.ranking import recalls


def pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        photo(i, 24).save(folder / f"{i:03d}.png")
    return sorted(folder.iterdir())


def captions_by_file(paths: list[Path]) -> dict[str, list[Caption]]:
    """The captions, as training reads them, of the pictures in some shards, by the names that their source has."""
    shards = Shards.open(map(str, paths))
    found = {}
    for i in range(len(shards)):
        sample = shards.read(i)
        assert sample.json is not None and sample.image is not None
        found[json.loads(sample.json)["file"]] = Captions().read(sample)
    shards.close()
    return found


def texts_by_file(paths: list[Path]) -> dict[str, list[str]]:
    return {name: [caption.text for caption in captions] for name, captions in captions_by_file(paths).items()}


def left_out(out: Path) -> dict[str, str]:
    """{place of a row, or its picture where it has none: the reason why it was left out}."""
    return {one["where"] or one["image"]: one["reason"] for one in lines_of(out / "left-out.jsonl")}


def pack_text(tmp_path: Path, text: str | bytes, name: str = "t.csv", **options: Any) -> list[Path]:
    """Pack a table with this text, beside the pictures 000.png to 003.png."""
    pictures(tmp_path, 4)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return pack(tmp_path / name, tmp_path / "out", **options)


def table(tmp_path: Path, suffix: str, count: int = 60) -> Path:
    """A table of pictures and captions, some of them unusable."""
    files = pictures(tmp_path / "pictures", count)
    rows = [{"filepath": f"pictures/{file.name}", "title": f"picture {i}, “{i}”"} for i, file in enumerate(files)]
    (tmp_path / "pictures" / "torn.png").write_bytes(b"\x89PNG nothing")
    rows += [{"filepath": "pictures/torn.png", "title": "torn"}, {"filepath": "pictures/none.png", "title": "none"}]
    rows += [{"filepath": "pictures/000.png", "title": ""}]
    path = tmp_path / f"table{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["filepath", "title"], delimiter="," if suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_table_is_packed_into_train_and_test_shards(tmp_path: Path, suffix: str) -> None:
    words = ["data", "pack", table(tmp_path, suffix), "--per-shard", 10, "--test-percent", 20]
    result = distill(*words, "--out", tmp_path / "a")
    for said in ("63 rows, 62 pictures", "60 samples with 60 captions in ", "3 rows were left out: "):
        assert said in result.stderr
    paths = [Path(line) for line in result.stdout.split()]
    found = {
        name: [s for p in paths if p.name.startswith(name) for s in by_webdataset(p)] for name in ("train", "test")
    }
    assert len(found["train"]) + len(found["test"]) == 60 and 4 <= len(found["test"]) <= 22
    for one in found["train"] + found["test"]:
        number = int(one["__key__"])
        assert one["txt"].decode() == f"picture {number}, “{number}”"
        assert one["png"] == (tmp_path / "pictures" / f"{number:03d}.png").read_bytes()
    entries = lines_of(tmp_path / "a" / "left-out.jsonl")
    assert [(one["row"], one["where"]) for one in entries] == [
        (row, f"line {row + (suffix != '.jsonl')}") for row in (61, 62, 63)
    ]
    reasons = {Path(one["image"]).name: one["reason"] for one in entries}
    assert "no format" in reasons["torn.png"] and "cannot be read" in reasons["none.png"]
    assert reasons["000.png"] == "there is no caption"
    again = pack(words[2], tmp_path / "b", per_shard=10, test_percent=20)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    with pytest.raises(UserError, match="holds shards of something else"):
        pack(words[2], tmp_path / "a", per_shard=10, test_percent=30)


def test_pack_continues_after_being_killed(tmp_path: Path) -> None:
    source = table(tmp_path, ".csv", 300)
    whole = pack(source, tmp_path / "whole", per_shard=5)
    code = "from distill.cli.main import main; main()"
    words = ["data", "pack", str(source), "--per-shard", "5", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("train-*.tar")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    complete = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("train-*.tar")}
    assert 0 < len(complete) < len(whole)
    parts = pack(source, tmp_path / "killed", per_shard=5)
    assert [p.read_bytes() for p in parts] == [p.read_bytes() for p in whole]
    assert {p: p.stat().st_mtime_ns for p in complete} == complete


def test_pack_does_not_continue_with_a_source_that_has_changed_but_with_one_that_was_moved(tmp_path: Path) -> None:
    pictures(tmp_path / "source" / "cat", 15)
    pack(tmp_path / "source", tmp_path / "out", per_shard=10)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "source").rename(tmp_path / "elsewhere" / "source")
    pack(tmp_path / "elsewhere" / "source", tmp_path / "out", per_shard=10)
    photo(99).save(tmp_path / "elsewhere" / "source" / "cat" / "007b.png")
    with pytest.raises(UserError, match="holds shards of something else"):
        pack(tmp_path / "elsewhere" / "source", tmp_path / "out", per_shard=10)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_the_format_of_a_picture_is_detected_from_its_content_not_its_file_name(tmp_path: Path) -> None:
    files = {"a": "PNG", "b.txt": "JPEG", "c.jpg": "WEBP", "d": "GIF", "e.png": "BMP", "g.JPG": "MPO", "f.png": "ICO"}
    for number, (name, kind) in enumerate(files.items()):
        photo(number).save(tmp_path / name, kind, **({"save_all": True} if kind == "MPO" else {}))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"image": n, "text": f"x {n}"}) + "\n" for n in files))
    (path,) = pack(tmp_path / "t.jsonl", tmp_path / "out")
    found = {one["txt"].decode(): one for one in by_webdataset(path)}
    kinds = {"x a": "png", "x b.txt": "jpg", "x c.jpg": "webp", "x d": "gif", "x e.png": "bmp", "x g.JPG": "jpg"}
    assert {text: kind for text, one in found.items() for kind in kinds.values() if kind in one} == kinds
    assert all(found[f"x {name}"][kinds[f"x {name}"]] == (tmp_path / name).read_bytes() for name in list(files)[:-1])
    assert left_out(tmp_path / "out") == {"line 7": "it is of a format that shards do not hold"}


def test_a_quotation_mark_in_tsv_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{i % 4:03d}.png\tpicture {i}" for i in range(1500)]
    lines[10] = '002.png\t"picture 10 with one stray quote'
    lines[11] = '003.png\t"quoted"'
    found = texts_by_file(pack_text(tmp_path, "image\tcaption\n" + "\n".join(lines), "t.tsv"))
    expected: dict[str, list[str]] = {}
    for line in lines:
        expected.setdefault(line.split("\t")[0], []).append(line.split("\t")[1])
    assert found == expected and left_out(tmp_path / "out") == {}
    assert "in 1 row a field is enclosed in quotation marks" in capsys.readouterr().err


def test_rows_with_other_numbers_of_fields_are_left_out_by_number_and_never_shifted(tmp_path: Path) -> None:
    text = 'image,caption\n000.png,a dog, running\n001.png\n002.png,fine\n\n003.png,"a, b"\n,\n'
    assert texts_by_file(pack_text(tmp_path, text)) == {"002.png": ["fine"], "003.png": ["a, b"]}
    assert left_out(tmp_path / "out") == {
        "line 2": "it has 3 fields, and the header 2",
        "line 3": "it has 1 field, and the header 2",
        "line 7": "it names no picture",
    }


@pytest.mark.parametrize(
    "rows, lost",
    [
        ('000.png,"stray\n001.png,one\n002.png,two\n', 2),  # not closed at all
        ('000.png,"stray\n001.png,one\n002.png,"two"\n', 2),  # closed by the quotation mark that opens another
        ('000.png,"stray\n001.png,one\n002.png,"t, wo"\n', 2),
        ('000.png,"stray\n001.png,one\n002.png,two 5"\n003.png,three\n', 2),  # closed in the middle of another row
        ('001.png,one\n000.png,"stray" quote\n002.png,two\n', 3),
    ],
)
def test_a_stray_quotation_mark_in_csv_costs_its_own_row_only(tmp_path: Path, rows: str, lost: int) -> None:
    found = texts_by_file(pack_text(tmp_path, "image,caption\n" + rows))
    assert "000.png" not in found and found["001.png"] == ["one"] and len(found) == rows.count("\n") - 1
    assert list(left_out(tmp_path / "out")) == [f"line {lost}"]


def test_line_ends_within_quotation_marks_are_data(tmp_path: Path) -> None:
    text = 'image,caption\r\n000.png,"two\r\nlines, ""quoted"""\r\n001.png,one\r\n \r\n\r\n'
    found = texts_by_file(pack_text(tmp_path, text))
    assert found == {"000.png": ['two\r\nlines, "quoted"'], "001.png": ["one"]}
    assert left_out(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "t"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separators_are_recognised_whatever_the_file_is_called(tmp_path: Path, separator: str, name: str) -> None:
    text = f"File_Name{separator}Caption\n000.png{separator}a\n 001.png {separator} b \n"
    assert texts_by_file(pack_text(tmp_path, text, name)) == {"000.png": ["a"], "001.png": ["b"]}


@pytest.mark.parametrize(
    "text, options, expected",
    [
        ("image\tcaption, english\n000.png\ta, b\n", {"captions": ["caption, english"]}, "a, b"),
        ("image;caption,title\n000.png;a\n", {"separator": ";", "captions": ["caption,title"]}, "a"),
        ("image^caption\n000.png^a\n", {"separator": "^"}, "a"),
        ("image\tcaption\n000.png\ta\n", {"separator": "tab"}, "a"),
        ('image, caption\n000.png, "a, b"\n', {}, "a, b"),
        ('"image"\t"caption"\n"000.png"\t"a ""b"""\n', {}, 'a "b"'),
        ("sep=;\nimage;caption\n000.png;a\n", {}, "a"),
        ("\ufeffimage,caption\r000.png,a\r001.png,b\r", {}, "a"),
        ("image,caption\n000.png,a\n".encode("utf-16"), {}, "a"),
        ("image,caption\n000.png,a\n".encode("utf-8-sig"), {}, "a"),
        (",image,caption,\n7,000.png,a,\n", {}, "a"),
        ("image_name| comment_number| comment\n000.png| 0| a\n", {}, "a"),
        ("IMAGE,Text\n./000.png,a\n", {}, "a"),
        ("url,filepath,caption\nhttps://x.org/1.jpg,000.png,a\n", {}, "a"),
        ("image,caption\n000.png,a\n", {"image": "Image", "captions": ["CAPTION"]}, "a"),
    ],
)
def test_headers_as_people_write_them(tmp_path: Path, text: str | bytes, options: Any, expected: str) -> None:
    assert texts_by_file(pack_text(tmp_path, text, **options))["000.png"] == [expected]


def test_paths_as_people_write_them(tmp_path: Path) -> None:
    pictures(tmp_path / "img", 4)
    names = [r"img\000.png", "./img/001.png", str(tmp_path / "img/002.png"), (tmp_path / "img/003.png").as_uri()]
    names += ["img//000.png", "s3://x/y.png", "img/001.png#1"]
    text = "image,caption\n" + "".join(f"{name},a\n" for name in names)
    found = texts_by_file(pack_text(tmp_path, text))
    assert found == {f"img/{i:03d}.png": ["a"] for i in range(4)}
    assert "web address" in left_out(tmp_path / "out")["line 7"]
    assert str(tmp_path) not in (tmp_path / "out" / "pack.json").read_text()


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("image;caption,title\n000.png;a\n", {}, "The separator of .* could be comma or semicolon"),
        ("image,caption,caption\n000.png,a,b\n", {}, "'caption' as the name of more than one column"),
        ("a,b\n000.png,a\n", {}, "has no column 'image'. Its columns are 'a', 'b'"),
        ("image,words\n000.png,a\n", {}, "has no column 'caption'"),
        ("image,titel\n000.png,a\n", {"captions": ["title"]}, "Did you mean 'titel'"),
        ("000.png,a dog\n001.png,a cat\n", {}, "names no columns but a picture"),
        ("000.png#0\ta dog\n000.png#1\ta cat\n", {}, "names no columns but a picture"),
        ("url,caption\nhttps://example.org/1.jpg,a\n", {}, "img2dataset"),
        ("image,caption\n", {}, "has no rows"),
        ("", {}, "is empty"),
        (
            "image,caption\nnone.png,a\nnothing.png,b\n",
            {},
            r"Nothing of .* 2 × the file cannot be read \(No such file",
        ),
        ("image,caption\n000.png, \n", {}, r"there is no caption \(such as line 2, 000.png\)"),
        ("image,caption\n000.png,a\n", {"template": "{}"}, "recognised as a table, for which there is no --template"),
        ("image,caption\n000.png,a\n", {"separator": ",,"}, "',,' is no separator"),
        ("image,caption\n000.png,a\n", {"split_by": "content"}, "--split-by content splits nothing"),
        ("image,caption\n000.png,a\n", {"test_percent": 100}, "no percentage"),
        (b"PK\x03\x04", {}, "a zip archive or an Excel file"),
        (b"\x1f\x8b\x08", {}, "compressed with gzip"),
        (b"\0\1\2\3", {}, "is no text in UTF-8"),
        ("image,caption\n000.png,a\n".encode("utf-16")[:-1], {}, "cannot be read: .* Save it as UTF-8"),
    ],
)
def test_what_cannot_be_packed_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, text: str | bytes, options: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pack_text(tmp_path, text, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["nothing.csv"], "does not exist"),
        (["pictures"], "have neither captions beside them nor several classes. Make one folder a class"),
        (["."], "name it: table.csv"),
        (["table.csv", "--image", "url"], "has no column 'url'"),
        (["table.csv", "--root", "nowhere"], "Nothing of table.csv can be packed"),
    ],
)
def test_the_command_ends_with_status_2(tmp_path: Path, words: list[str], message: str) -> None:
    table(tmp_path, ".csv", 2)
    result = distill("data", "pack", *words, "--out", "out", cwd=tmp_path, status=2)
    assert message in result.stderr and "Traceback" not in result.stderr and not (tmp_path / "out").exists()


def test_rows_that_are_not_utf_8_are_left_out_by_number(tmp_path: Path) -> None:
    for name, rows in (
        ("t.csv", b"image,caption\n000.png,caf\xe9\n001.png,fine\n"),
        ("t.jsonl", b'{"image": "000.png", "caption": "caf\xe9"}\n{"image": "001.png", "caption": "fine"}\n'),
    ):
        folder = tmp_path / name
        folder.mkdir()
        assert texts_by_file(pack_text(folder, rows, name)) == {"001.png": ["fine"]}
        assert list(left_out(folder / "out").values()) == ["it is not UTF-8"]


def test_several_rows_of_a_picture_are_one_sample_and_a_perfect_model_scores_1(tmp_path: Path) -> None:
    shapes = [("circle", "red"), ("square", "green"), ("cross", "blue"), ("circle", "blue"), ("square", "red")]
    texts, numbers = {}, {}
    for i, (shape, colour) in enumerate(shapes):
        picture(shape, colour, i).save(tmp_path / f"{i}.png")
        numbers[(tmp_path / f"{i}.png").read_bytes()] = i
        texts |= {f"{words} {colour} {shape} {i}": i for words in ("a", "picture of a", "here is a")}
    order = np.random.default_rng(0).permutation(len(texts))
    rows = [list(texts.items())[k] for k in order]
    (tmp_path / "t.csv").write_text("image,caption\n" + "".join(f"{i}.png,{text}\n" for text, i in rows))
    paths = pack(tmp_path / "t.csv", tmp_path / "out")
    assert texts_by_file(paths) == {f"{k}.png": [text for text, i in rows if i == k] for k in range(5)}
    shards = Shards.open(map(str, paths))
    vectors = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    relevance = Relevance.of([Captions().read(shards.read(i)) for i in range(len(shards))])
    distinct, texts_of_image, images_of_text = relevance.texts, relevance.of_image, relevance.of_text
    of_images = vectors[[numbers[shards.read(i).image or b""] for i in range(5)]]
    of_texts = vectors[[texts[text] for text in distinct]]
    assert recalls(of_images, of_texts, texts_of_image)[1] == 1.0
    assert recalls(of_texts, of_images, images_of_text)[1] == 1.0
    shards.close()


def test_languages_are_kept(tmp_path: Path) -> None:
    expected = [Caption("a dog", "en"), Caption("ein Hund", "de")]
    tables = {
        "a.csv": "image,caption,language\n000.png,a dog,en\n000.png,ein Hund,de\n",
        "b.csv": "image,caption_en,caption-de,caption_id\n000.png,a dog,ein Hund,17\n",
        "c.jsonl": json.dumps({"image": "000.png", "captions": {"en": "a dog", "de": ["ein Hund"]}}) + "\n",
        "d.json": json.dumps([{"image": "000.png", "caption": [{"text": t, "language": n} for t, n in
                                                               (("a dog", "en"), ("ein Hund", "de"))]}]),
        "e.csv": 'image,caption\n000.png,"{""en"": ""a dog"", ""de"": ""ein Hund""}"\n',
    }  # fmt: skip
    for name, text in tables.items():
        (tmp_path / name[0]).mkdir()
        (path,) = pack_text(tmp_path / name[0], text, name)
        assert captions_by_file([path]) == {"000.png": expected}, name
        assert by_webdataset(path)[0]["txt"] == b"a dog"


@pytest.mark.parametrize(
    "header, values, expected, said",
    [
        ("image,caption_0,caption_1,caption_10,caption_2", "a,b,k,c", ["a", "b", "c", "k"], "'caption_10'"),
        ("image,title,caption,score", "t,c,1", ["c"], "not read: 'title', 'score'"),
        ("image,caption,caption_id", "c,17", ["c"], "not read: 'caption_id'"),
        ("image,caption", '"[""x"", ""y""]"', ["x", "y"], "captions from 'caption'"),
        ("image,caption", "\"['x', 'y']\"", ["x", "y"], "captions from 'caption'"),
        ("image,caption", "[x] and {y}", ["[x] and {y}"], "captions from 'caption'"),
        ("image,caption", "5", ["5"], "captions from 'caption'"),
    ],
)
def test_which_columns_are_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, values: str, expected: list[str], said: str
) -> None:
    assert texts_by_file(pack_text(tmp_path, f"{header}\n000.png,{values}\n")) == {"000.png": expected}
    assert said in capsys.readouterr().err


def test_lines_and_entries_of_json_that_are_not_understood_are_named(tmp_path: Path) -> None:
    good = [{"image": "000.png", "caption": "a"}, {"image": "001.png", "texts": "no"}]
    lines = [
        json.dumps(one) for one in (*good, ["x"], {"image": 5, "caption": "x"}, {"image": "002.png", "caption": 7})
    ]
    lines += ['{"image": "003.png"', '{"image": "003.png", "caption": "a", "caption": "b"}', "", '{"caption": "x"}']
    assert texts_by_file(pack_text(tmp_path, "\n".join(lines), "t.jsonl")) == {"000.png": ["a"]}
    reasons = left_out(tmp_path / "out")
    assert list(reasons) == [f"line {i}" for i in (2, 3, 4, 5, 6, 7, 9)]
    expected = ("there is no caption", "no object with columns", "'image' is no path: 5", "7 is no text")
    expected += ("it is not JSON", "it has 'caption' twice", "it names no picture")
    assert all(part in reason for part, reason in zip(expected, reasons.values(), strict=True)), reasons


@pytest.mark.parametrize(
    "value",
    [
        [{"image": "000.png", "caption": "a"}, {"image": "001.png", "caption": ["b", "c"]}],
        {"data": [{"image": "000.png", "caption": "a"}, {"image": "001.png", "caption": ["b", "c"]}]},
        {"image": ["000.png", "001.png"], "caption": ["a", ["b", "c"]]},
        {"image": {"0": "000.png", "1": "001.png"}, "caption": {"0": "a", "1": ["b", "c"]}},
        {"000.png": "a", "001.png": ["b", "c"]},
        {"000.png": {"caption": "a", "tags": "x"}, "001.png": {"caption": ["b", "c"]}},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_tables_in_one_json_value(tmp_path: Path, value: Any, indent: int | None) -> None:
    found = texts_by_file(pack_text(tmp_path, json.dumps(value, indent=indent), "t.json"))
    assert found == {"000.png": ["a"], "001.png": ["b", "c"]} and left_out(tmp_path / "out") == {}


def test_json_that_is_no_table_is_refused(tmp_path: Path) -> None:
    for text, message in (('{"a": 1}', "no table of pictures"), ('{"a": ', "must be JSON"), ("[1, 2]", "no object")):
        with pytest.raises(UserError, match=message):
            pack_text(tmp_path, text, "t.json")


def hashes_of(paths: list[Path]) -> Findings:
    """The difference hashes of the pictures in some shards."""
    found = Findings()
    for path in paths:
        for one in by_webdataset(path):
            data = one["png"] if "png" in one else one["jpg"]
            (tmp := path.parent.parent / "look").write_bytes(data)
            found.hashes.append(difference_hash(Image.open(tmp).convert("RGB")))
            found.names.append(one["__key__"])
    return found


def test_no_test_picture_looks_like_a_training_picture_if_they_are_split_by_content(tmp_path: Path) -> None:
    """60 scenes, each five times: sharp, small, compressed, brighter, and as the same file."""
    folder = tmp_path / "source" / "scene"
    folder.mkdir(parents=True)
    for i in range(60):
        plain = photo(i, 64)
        plain.save(folder / f"{i}-a.png")
        plain.save(folder / f"{i}-b.png")
        plain.resize((40, 40)).save(folder / f"{i}-c.png")
        plain.save(folder / f"{i}-d.jpg", quality=30)
        plain.point(lambda x: min(255, x + 9)).save(folder / f"{i}-e.png")
    shared = {}
    for split_by in ("file", "content"):
        paths = pack(tmp_path / "source", tmp_path / split_by, test_percent=30, split_by=split_by)
        train, test = (hashes_of([p for p in paths if p.name.startswith(name)]) for name in ("train", "test"))
        assert len(train.names) + len(test.names) == 300 and 40 <= len(test.names) <= 140
        shared[split_by] = len(NearDuplicates(train).pairs(test, same_set=False))
    assert shared["file"] > 20 and shared["content"] == 0


def test_groups_of_lookalikes_are_those_of_all_pairs_joined() -> None:
    rng = np.random.default_rng(0)
    hashes = [int(x) for x in rng.integers(0, 2**63, 60)]
    for _ in range(240):  # chains of small changes
        hashes.append(hashes[rng.integers(len(hashes))] ^ sum(1 << int(bit) for bit in rng.choice(64, 4)))
    label = list(range(len(hashes)))
    for i, a in enumerate(hashes):
        for j, b in enumerate(hashes[:i]):
            if (a ^ b).bit_count() <= 4:
                label = [label[j] if one == label[i] else one for one in label]
    found = groups(np.array(hashes, dtype=np.uint64)).tolist()
    assert len(set(label)) == len(set(zip(label, found, strict=True))) == len(set(found)) < 100


def test_duplicates_within_a_source_are_dropped_and_named(tmp_path: Path) -> None:
    names = [file.name for file in pictures(tmp_path, 3)]
    photo(1, 60).resize((30, 30)).save(tmp_path / "small.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "002.png").read_bytes())
    rows = [("copy.png", "a"), *((name, name) for name in names), ("small.png", "s"), ("small.png", "t")]
    text = "image,caption\n" + "".join(f"{name},{caption}\n" for name, caption in rows)
    (tmp_path / "t.csv").write_text(text)
    found = texts_by_file(pack(tmp_path / "t.csv", tmp_path / "out", drop_duplicates=True))
    assert set(found) == {"copy.png", "000.png", "001.png"}
    assert left_out(tmp_path / "out") == {
        "line 5": "it looks like: copy.png",
        "line 6": "it looks like: 001.png",
        "line 7": "it looks like: 001.png",
    }


def test_dedup_against_compares_with_pictures_without_captions_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "source" / "cat", 3)
    members = [("x.jpg", encoded(photo(1).resize((50, 50)), "JPEG")), ("torn.png", b"nothing")]
    write_tar(tmp_path / "eval.tar", members)
    pack(tmp_path / "source", tmp_path / "out", dedup_against=[tmp_path / "eval.tar"])
    assert left_out(tmp_path / "out") == {"cat/001.png": f"it looks like: {tmp_path}/eval.tar:x"}
    said = capsys.readouterr().err
    assert "1 picture of --dedup-against cannot be compared with, such as torn" in said
    assert "1 row was left out" in said


def test_samples_are_in_a_hashed_order_that_mixes_classes(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cow", "dog"):
        pictures(tmp_path / "source" / name, 25)
    paths = pack(tmp_path / "source", tmp_path / "out", per_shard=20)
    labels = [json.loads(one["json"])["label"] for path in paths for one in by_webdataset(path)]
    assert [labels.count(label) for label in range(4)] == [25] * 4
    changes = sum(a != b for a, b in zip(labels, labels[1:], strict=False))
    assert changes > 60, "a full shuffle changes the class about 75 times in 99, the folder's order 3 times"
    keys = [one["__key__"] for path in paths for one in by_webdataset(path)]
    assert len(set(keys)) == 100


def test_a_test_split_without_pictures_is_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack_text(tmp_path, "image,caption\n000.png,a\n", test_percent=1)
    assert "no picture is in test-*.tar" in capsys.readouterr().err
