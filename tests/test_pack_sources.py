"""``distill data pack`` with what is no text table: annotation files, folders, Parquet, and shards themselves."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from conftest import distill, encoded, write_tar
from test_data import photo
from test_pack import captions_by_file, left_out, pictures, texts_by_file
from test_shards import by_webdataset

from distill import UserError, pack
from distill.data.captions import Caption


def by_split(paths: list[Path]) -> dict[str, set[str]]:
    """The names of the pictures by the first part of their shards' names."""
    found: dict[str, set[str]] = {}
    for path in paths:
        found.setdefault(path.name.split("-")[0], set()).update(texts_by_file([path]))
    return found


def coco(images: list[Any], annotations: list[Any]) -> str:
    return json.dumps({"info": {}, "licenses": [], "images": images, "annotations": annotations})


def test_coco_captions(tmp_path: Path) -> None:
    pictures(tmp_path / "train2017", 3)
    images = [{"id": i, "file_name": f"{i:03d}.png"} for i in range(5)] + [{"id": 0, "file_name": "x.png"}, {"id": 9}]
    annotations = [{"id": 10 - n, "image_id": n % 2, "caption": f"caption {n} "} for n in range(10)]
    annotations += [{"image_id": 77, "caption": "no image"}, {"image_id": 3, "caption": "no file"}, {"caption": "x"}]
    annotations += [{"image_id": 0, "caption": 5}, {"image_id": 0, "caption": " "}]
    (tmp_path / "captions.json").write_text(coco(images, annotations))
    with pytest.raises(UserError, match="by --root"):
        pack(tmp_path / "captions.json", tmp_path / "out")
    paths = pack(tmp_path / "captions.json", tmp_path / "out", root=tmp_path / "train2017")
    assert texts_by_file(paths) == {
        "000.png": [f"caption {n}" for n in (0, 2, 4, 6, 8)],
        "001.png": [f"caption {n}" for n in (1, 3, 5, 7, 9)],
    }
    assert left_out(tmp_path / "out") == {
        "image 6": "its id is also that of another image: 000.png",
        "image 7": "it has no id or no file_name",
        "annotation 11": "there is no image of its image_id: 77",
        "annotation 12": "the file cannot be read (No such file or directory)",
        "annotation 13": "it has no image_id",
        "annotation 14": "its caption cannot be read: 5 is no text",
        "annotation 15": "there is no caption",
        "image 3": "there is no caption",
        "image 5": "there is no caption",
    }
    (tmp_path / "instances.json").write_text(coco(images, [{"image_id": 0, "bbox": [0, 0, 1, 1]}]))
    with pytest.raises(UserError, match="are no captions"):
        pack(tmp_path / "instances.json", tmp_path / "out2")


def test_captions_in_karpathys_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "images" / "coco", 4)
    images = [
        {
            "filepath": "coco",
            "filename": f"{i:03d}.png",
            "split": split,
            "sentences": [{"raw": f"a {i}"}, {"raw": "b"}],
        }
        for i, split in enumerate(("train", "restval", "val", "test", "other"))
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    paths = pack(tmp_path / "dataset.json", tmp_path / "out", root=tmp_path / "images")
    assert [path.name for path in paths] == ["train-000000.tar", "val-000000.tar", "test-000000.tar"]
    assert texts_by_file(paths) == {f"coco/{i:03d}.png": [f"a {i}", "b"] for i in range(4)}
    assert by_split(paths)["train"] == {"coco/000.png", "coco/001.png"}
    assert left_out(tmp_path / "out") == {"image 5": "its split is not known: other"}


def image_folder(tmp_path: Path, suffix: str) -> Path:
    """An image folder with three splits; each has three pictures, of which the metadata name two."""
    for split in ("train", "validation", "test"):
        pictures(tmp_path / "source" / split / "deep", 3)
        rows = [{"file_name": f"deep/00{i}.png", "text": f"{split} {i}"} for i in (1, 0, 1)]
        path = tmp_path / "source" / split / f"metadata{suffix}"
        if suffix == ".csv":
            path.write_text("file_name,text\n" + "".join(",".join(row.values()) + "\n" for row in rows))
        elif suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return tmp_path / "source"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_image_folder_of_hugging_face_keeps_its_splits(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = image_folder(tmp_path, suffix)
    paths = pack(source, tmp_path / "out")
    assert [path.name for path in paths] == ["train-000000.tar", "val-000000.tar", "test-000000.tar"]
    assert texts_by_file(paths) == {
        f"{split}/deep/00{i}.png": [f"{split} {i}"] for split in ("train", "validation", "test") for i in range(2)
    }
    assert by_split(paths)["val"] == {"validation/deep/000.png", "validation/deep/001.png"}
    assert left_out(tmp_path / "out") == {
        f"{split}/deep/002.png": "no row of the metadata names it" for split in ("train", "validation", "test")
    }
    mixed = pack(source, tmp_path / "mixed", test_percent=50)
    assert {path.name.split("-")[0] for path in mixed} <= {"train", "test"}
    assert "(test, train, val) are not kept" in capsys.readouterr().err


def test_metadata_above_the_splits_of_an_image_folder(tmp_path: Path) -> None:
    pictures(tmp_path / "source" / "train", 2)
    pictures(tmp_path / "source" / "test", 2)
    names = ["train/000.png", "train/001.png", "test/000.png"]
    (tmp_path / "source" / "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},a\n" for name in names))
    paths = pack(tmp_path / "source", tmp_path / "out")
    assert by_split(paths) == {"train": set(names[:2]), "test": {names[2]}}
    assert left_out(tmp_path / "out") == {"test/001.png": "no row of the metadata names it"}


def test_a_folder_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    pictures(source / "hot_dog", 2)
    pictures(source / "elephant" / "young", 1)
    pictures(tmp_path / "elsewhere", 1)
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "hot_dog" / "loop").symlink_to(source)
    photo(3).save(source / "hot_dog" / "CAPITALS.JPG", "JPEG")
    for name in (".ipynb_checkpoints", "__MACOSX", ".git", "hot_dog/.ipynb_checkpoints"):
        pictures(source / name, 1)
    (source / "hot_dog" / "._000.png").write_bytes(b"resource fork")
    (source / "hot_dog" / "notes.md").write_text("words")
    (source / "hot_dog" / "torn.png").write_bytes(b"nothing")
    photo(5).save(source / "above.png")
    (source / "empty").mkdir()
    paths = pack(source, tmp_path / "out")
    assert texts_by_file(paths) == {
        "elephant/young/000.png": ["a photo of an elephant"],
        "hot_dog/000.png": ["a photo of a hot dog"],
        "hot_dog/001.png": ["a photo of a hot dog"],
        "hot_dog/CAPITALS.JPG": ["a photo of a hot dog"],
        "linked/000.png": ["a photo of a linked"],
    }
    about = {json.loads(one["json"])["file"]: json.loads(one["json"]) for one in by_webdataset(paths[0])}
    labels = {name: (entry["class"], entry["label"]) for name, entry in about.items()}
    assert labels["elephant/young/000.png"] == ("elephant", 0) and labels["linked/000.png"] == ("linked", 2)
    reasons = left_out(tmp_path / "out")
    assert set(reasons) == {"above.png", "hot_dog/notes.md", "hot_dog/torn.png"}
    assert reasons["above.png"] == "it lies in no class's folder" and "does not end" in reasons["hot_dog/notes.md"]
    said = capsys.readouterr().err
    assert "3 classes: 'elephant', 'hot_dog', 'linked'" in said and "no classes: 'empty'" in said
    named = pack(source, tmp_path / "named", template="the {}")
    assert texts_by_file(named)["hot_dog/000.png"] == ["the hot dog"]
    with pytest.raises(UserError, match="no place for the class"):
        pack(source, tmp_path / "other", template="a photo")


def test_the_shards_may_lie_beside_the_classes(tmp_path: Path) -> None:
    pictures(tmp_path / "cat", 2)
    first = pack(tmp_path, tmp_path / "out")
    assert pack(tmp_path, tmp_path / "out") == first and left_out(tmp_path / "out") == {}
    assert len(texts_by_file(first)) == 2


def test_folders_of_classes_below_train_val_and_test(tmp_path: Path) -> None:
    for split, names in {"train": "bc", "Val": "ab", "test": "c"}.items():
        for name in names:
            pictures(tmp_path / "source" / split / name, 2)
    paths = pack(tmp_path / "source", tmp_path / "out")
    assert by_split(paths) == {
        "train": {f"{name}/00{i}.png" for name in "bc" for i in range(2)},
        "val": {f"{name}/00{i}.png" for name in "ab" for i in range(2)},
        "test": {f"c/00{i}.png" for i in range(2)},
    }
    about = [json.loads(one["json"]) for path in paths for one in by_webdataset(path)]
    assert {(one["class"], one["label"]) for one in about} == {("a", 0), ("b", 1), ("c", 2)}


@pytest.mark.parametrize(
    "folders, splits",
    [
        ({"train", "car", "bus"}, None),  # "train" is a class here
        ({"train", "test"}, {"train", "test"}),
        ({"train2017", "val2017", "test_images"}, {"train", "val", "test"}),
        ({"train"}, {"train"}),
        ({"train", "test", "masks"}, ValueError),
        ({"val", "validation"}, ValueError),
    ],
)
def test_what_is_a_split_and_what_a_class(tmp_path: Path, folders: set[str], splits: Any) -> None:
    for name in folders:
        inside = tmp_path / "source" / name / "x" if splits else tmp_path / "source" / name
        pictures(inside, 1)
    if splits is ValueError:
        with pytest.raises(UserError, match="name splits, and 'masks'|name the same split"):
            pack(tmp_path / "source", tmp_path / "out")
        return
    paths = pack(tmp_path / "source", tmp_path / "out")
    assert {path.name.split("-")[0] for path in paths} == (splits or {"train"})
    if splits is None:
        assert texts_by_file(paths)["train/000.png"] == ["a photo of a train"]


def test_a_folder_with_captions_beside_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "10_dog"
    pictures(source / "deep", 5)
    (source / "deep" / "000.txt").write_bytes("\ufeffa dog, running\n".encode())
    (source / "deep" / "001.txt").write_bytes(b"one\r\n\r\ntwo\r\n")
    (source / "deep" / "002.caption").write_text("sks dog")
    (source / "deep" / "002.json").write_text(json.dumps({"url": "https://x.org", "width": 3}))
    (source / "deep" / "000.json").write_text(json.dumps({"captions": {"de": "Hund"}}))
    (source / "deep" / "003.txt").write_bytes(b"caf\xe9")
    (source / "deep" / "orphan.txt").write_text("no picture")
    (source / "readme.md").write_text("words")
    (path,) = paths = pack(source, tmp_path / "out")
    assert texts_by_file(paths) == {
        "deep/000.png": ["a dog, running", "Hund"],
        "deep/001.png": ["one\r\n\r\ntwo"],
        "deep/002.png": ["sks dog"],
    }
    about = next(entry for one in by_webdataset(path) if "url" in (entry := json.loads(one["json"])))
    assert about == {"captions": ["sks dog"], "file": "deep/002.png", "url": "https://x.org", "width": 3}
    reasons = left_out(tmp_path / "out")
    assert set(reasons) == {"deep/003.png", "deep/004.png", "deep/orphan.txt", "readme.md"}
    assert "cannot be read" in reasons["deep/003.png"]
    assert reasons["deep/004.png"] == "there is no .txt of this name beside it"
    assert "in 1 file are several lines" in capsys.readouterr().err


def parquet_rows() -> list[dict[str, Any]]:
    """Rows with pictures inside, two of them the same one."""
    data = [encoded(photo(i)) for i in range(3)]
    numbers = [0, 1, 0, 2]
    rows = [{"image": {"bytes": data[i], "path": f"{i}.png"}, "caption": f"words {n}"} for n, i in enumerate(numbers)]
    return [*rows, {"image": {"bytes": b"torn", "path": "x"}, "caption": "torn"}, {"image": None, "caption": "none"}]


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "{}-0.parquet", "default/{}/0000.parquet"])
def test_parquet_with_pictures_in_it(tmp_path: Path, layout: str) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = parquet_rows()
    for split in ("train", "test"):
        file = tmp_path / "set" / layout.format(split)
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    paths = pack(tmp_path / "set", tmp_path / "out")
    assert [path.name for path in paths] == ["train-000000.tar", "test-000000.tar"]
    for path in paths:
        assert texts_by_file([path]) == {"0.png": ["words 0", "words 2"], "1.png": ["words 1"], "2.png": ["words 3"]}
        assert {one["png"] for one in by_webdataset(path)} == {row["image"]["bytes"] for row in rows[:4]}
    reasons = left_out(tmp_path / "out")
    train = layout.format("train")
    assert len(reasons) == 4 and "is of no format" in reasons[f"row 5 of {train}"]
    assert reasons[f"row 6 of {train}"] == "it names no picture"


def test_parquet_with_paths_or_with_bytes_alone(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    files = pictures(tmp_path, 2)
    tables = [
        [{"path": file.name, "text": {"en": f"a {file.stem}", "de": None}} for file in files],
        [{"Image": file.read_bytes(), "text": [f"a {file.stem}"]} for file in files],
    ]
    for number, rows in enumerate(tables):
        table = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        found = captions_by_file(pack(table, tmp_path / f"out{number}"))
        language = "" if number else "en"
        assert sorted(map(str, found.values())) == [str([Caption(f"a {file.stem}", language)]) for file in files]


def make_shards(tmp_path: Path) -> Path:
    """Shards with every member that people have, and with faults."""
    members: list[tuple[str, bytes]] = []
    for i in range(6):
        members += [(f"k{i}.jpeg", encoded(photo(i), "JPEG")), (f"k{i}.txt", f"text {i} ".encode())]
        members += [(f"k{i}.cls", b"7"), (f"k{i}.seg.png", b"mask"), (f"k{i}.npy.gz", b"\x1f\x8b data")]
    members[1] = ("k0.json", json.dumps({"captions": {"en": "a", "de": "b"}, "score": 0.25}).encode())
    folder = tmp_path / "old"
    folder.mkdir()
    write_tar(folder / "train-000000.tar", members)
    write_tar(folder / "test-000000.tar", [
        ("small.jpg", encoded(photo(4).resize((50, 50)), "JPEG")), ("small.txt", b"small"),
        ("torn.jpg", b"nothing"), ("torn.txt", b"torn"),
        ("mute.jpg", encoded(photo(8), "JPEG")), ("blind.txt", b"words"),
    ])  # fmt: skip
    return folder


def contents(paths: list[Path]) -> dict[str, bytes]:
    """Every member of some shards."""
    found = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name.replace(".jpeg", ".jpg")] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def test_shards_are_packed_again_without_what_cannot_be_used(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    before = contents(sorted(folder.glob("*.tar")))
    paths = pack(folder, tmp_path / "out", drop_duplicates=True, per_shard=2)
    assert [path.name for path in paths] == [f"train-00000{i}.tar" for i in range(3)] + ["test-000000.tar"]
    dropped = ("k4.", "torn.", "mute.", "blind.")
    assert contents(paths) == {name: data for name, data in before.items() if not name.startswith(dropped)}
    reasons = {name: reason.split(" (see")[0].split(": no")[0] for name, reason in left_out(tmp_path / "out").items()}
    assert reasons == {
        "train-000000.tar:k4": "it looks like: test-000000.tar:small",
        "test-000000.tar:torn": "the image is of no format that is known",
        "test-000000.tar:mute": "there is no caption",
        "test-000000.tar:blind": "it has no image",
    }


def test_pictures_with_further_dots_in_their_names_become_samples(tmp_path: Path) -> None:
    members: list[tuple[str, bytes]] = []
    for i in range(3):
        name = f"deep/photo_v1.5_{i:04d}"
        members += [(f"{name}.JPG", encoded(photo(i), "JPEG")), (f"{name}.txt", f"text {i}".encode())]
        members += [(f"{name}.cls", b"7")]
    members += [(".hidden.png", b"x"), ("no.caption.png", encoded(photo(7))), ("README", b"words"), ("._a.jpg", b"")]
    paths = pack(write_tar(tmp_path / "a.tar", members), tmp_path / "out")
    assert contents(paths) == {
        name.replace("v1.5", "v1_5").replace("JPG", "jpg"): data for name, data in members if "photo" in name
    }
    lost = {f"a.tar:{name}": "it belongs to no sample" for name in (".hidden.png", "no.caption.png", "README")}
    assert left_out(tmp_path / "out") == lost


def test_shards_are_split_anew(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    pattern = str(folder / "{train,test}-*.tar")
    paths = pack(pattern, tmp_path / "out", test_percent=40, split_by="content")
    names = {path.name.split("-")[0]: set(contents([path])) for path in paths}
    assert {name.split(".")[0] for part in names.values() for name in part} == {*(f"k{i}" for i in range(6)), "small"}
    assert sum("k4.txt" in part and "small.txt" in part for part in names.values()) == 1, "they look alike"


def test_keys_that_occur_in_two_shards_are_told_apart(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "old" / str(number)).mkdir(parents=True)
        write_tar(
            tmp_path / "old" / str(number) / "a.tar", [("k.png", encoded(photo(number))), ("k.txt", b"%d" % number)]
        )
    (path,) = pack(str(tmp_path / "old" / "*" / "a.tar"), tmp_path / "out")
    assert {one["__key__"]: one["txt"] for one in by_webdataset(path)} == {"00000/k": b"0", "00001/k": b"1"}


def test_a_shard_that_is_cut_off_gives_what_it_still_has(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    whole = (folder / "train-000000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    paths = pack(tmp_path / "cut.tar", tmp_path / "out")
    kept = {name.split(".")[0] for name in contents(paths)}
    assert kept and kept < {f"k{i}" for i in range(6)}
    assert "cut off or damaged" in left_out(tmp_path / "out")["cut.tar"]


def test_packing_again_what_was_packed_keeps_every_sample(tmp_path: Path) -> None:
    pictures(tmp_path / "source" / "cat", 9)
    first = pack(tmp_path / "source", tmp_path / "a")
    again = pack(tmp_path / "a", tmp_path / "b")
    assert contents(again) == contents(first)


def test_a_folder_that_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in (("empty", "nothing that can be packed"), ("x-{0..3}.tar", "does not exist")):
        with pytest.raises(UserError, match=message):
            pack(tmp_path / source, tmp_path / "out")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="nothing that can be packed"):
        pack(tmp_path / "fifo", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    pictures(tmp_path / "source" / "cat", 1)
    for out, message in (
        ("source/cat/out", "lies in"),
        ("out/mine", "is no folder"),
        ("out/mine/x", "or written: Not"),
    ):
        with pytest.raises(UserError, match=message):
            pack(tmp_path / "source", tmp_path / out)
    result = distill("data", "pack", tmp_path / "source", "--out", tmp_path / "out", status=2)
    assert "is no empty folder" in result.stderr
