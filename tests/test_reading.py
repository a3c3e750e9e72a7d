"""What shards hold is read, or counted and named: by the index of a local shard and by a stream alike."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPE, SCRATCH, distill, encoded, picture, sample, write_shards, write_tar
from faulty_server import POLICY
from test_shards import by_webdataset

from distill.data.captions import Caption, Captions
from distill.data.indexes import read_index
from distill.data.members import Leftover
from distill.data.overlap import without
from distill.data.sample import Sample
from distill.data.shard_names import shard_paths
from distill.data.shards import Shards
from distill.data.streams import read_samples
from distill.data.views import decode
from distill.errors import Bad, BadSample, UserError
from distill.lookup import resolve
from distill.recipe import load
from distill.training.shard_set import ShardSet
from distill.wording import counted

FURTHER_DOT = "whose name has a further dot"
Content = tuple[str, bytes | None, bytes | None, bytes | None]


def plain(count: int, first: int = 0, name: str = "{}") -> list[tuple[str, bytes]]:
    """The members of samples with an image and a caption."""
    numbers = range(first, first + count)
    return [m for i in numbers for m in sample(name.format(f"{i:04d}"), "circle", "red", i)[:2]]


def contents(samples: Any) -> list[Content]:
    return [(s.key, s.image, s.txt, s.json) for s in samples]


def local(path: Path) -> list[Content]:
    """The samples of a shard, read through its index."""
    shards = Shards.open([str(path)], strict=False)
    found = contents(shards.read(i) for i in range(len(shards)))
    shards.close()
    return found


def streamed(path: Path) -> tuple[list[Sample], list[str]]:
    """The samples of a shard, read as a stream, and what is said of the shard."""
    bad = list[Bad]()
    samples = list(read_samples(f"pipe:cat '{path}'", POLICY, bad.append))
    assert all(one.key == "" for one in bad)
    return samples, [one.reason for one in bad]


def links(path: Path, members: list[tuple[str, bytes | str]], kind: bytes) -> Path:
    """Write a tar file; members with text in place of bytes are links of this kind to what the text names."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def mixed(tmp_path: Path) -> Path:
    """A shard with 30 samples, 20 pictures and captions with a further dot, and members that nobody reads."""
    members = plain(20, 30, "photo_v1.5_{}")
    for i in range(30):
        further = [(f"{i:04d}.{ending}", b"1") for ending in ("cls", "mask.png", "seg.mask.png")]
        members += further[:2] + plain(1, i) + further[2:]
    members += [("._0001.png", b"x"), ("__MACOSX/0001.png", b"x"), ("a/.ipynb_checkpoints/b-checkpoint.png", b"x")]
    return write_tar(tmp_path / "mixed.tar", [*members, ("readme", b"x"), (".png", b"x")])


def test_members_that_belong_to_no_sample_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mixed(tmp_path)
    shards = Shards.open([str(path)])
    assert len(shards) == 30 and not shards.faults
    found = [(one.members, one.count, one.example, bool(one.remedy)) for one in shards.leftovers]
    assert found == [
        (f"*.png {FURTHER_DOT}", 20, "photo_v1.5_0030.png", True),
        (f"*.txt {FURTHER_DOT}", 20, "photo_v1.5_0030.txt", True),
        ("*.png whose name begins with a dot", 1, ".png", True),
        ("*.cls", 30, "0000.cls", False),
        ("*.mask.png", 30, "0000.mask.png", False),
        ("*.seg.mask.png", 30, "0000.seg.mask.png", False),
        ("files that programs leave beside data", 3, "._0001.png", False),
        ("members without an ending", 1, "readme", False),
    ]
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "41 members belong to no sample: *.png" in line
        and "(20, such as photo" in line
        and "photo_v1.5_0030.png" in line
        and "rename" in line
    )
    assert read_index(path).leftovers == shards.leftovers  # the stored index holds them
    samples, said = streamed(path)
    assert contents(samples) == local(path) and len(said) == 1 and said[0] in line
    capsys.readouterr()
    Shards.open([str(path)], quiet=True)
    assert capsys.readouterr().err == ""


def test_shards_of_which_some_members_are_lost_are_added_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ending in (("a", "v2.png"), ("b", "v2.png"), ("c", "cls")):
        write_tar(tmp_path / f"{name}.tar", plain(3) + [(f"photo{i}.{ending}", b"1") for i in range(4)])
    found = Shards.open([str(tmp_path)]).leftovers
    assert [(one.members, one.count, one.example) for one in found] == [
        (f"*.png {FURTHER_DOT}", 8, "photo0.v2.png in a.tar"),
        ("*.cls", 4, "photo0.cls in c.tar"),
    ]
    assert "Warning: in 3 shards, 8 members belong to no sample" in capsys.readouterr().err


def test_ordinary_further_members_are_only_listed_by_check(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", plain(3) + [(f"{i:04d}.{e}", b"1") for i in range(3) for e in ("cls", "a.txt")]
    )
    result = distill("data", "check", path)
    assert "3 samples in 1 shard, all of which can be used" in result.stdout and "3  *.cls, such as" in result.stdout
    assert "belong" not in result.stderr
    listed = json.loads(distill("data", "index", path, "--json").stdout)[0]["leftovers"]
    assert [(one["members"], one["count"], one["remedy"]) for one in listed] == [("*.a.txt", 3, ""), ("*.cls", 3, "")]


def test_check_names_lost_members_and_ends_with_status_1(tmp_path: Path) -> None:
    path = mixed(tmp_path)
    report = distill("data", "check", path, status=1).stdout
    assert "30 samples in 1 shard" in report and f"20  *.png {FURTHER_DOT}, such as photo_v1.5_0030.png" in report
    found = json.loads(distill("data", "check", path, "--json", status=1).stdout)
    assert (found["samples"], found["bad"], found["usable"]) == (30, 0, False)
    assert sum(one["count"] for one in found["leftovers"] if one["remedy"]) == 41


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("photo_v1.5_1.jpg", b"1")], f"it holds *.jpg {FURTHER_DOT} (1, such as photo_v1.5_1.jpg)"),
        (
            [("a.heic", b"1"), ("b.heic", b"1"), ("a.cls", b"1")],
            "it holds *.heic (2, such as a.heic); *.cls (1, such as a.cls)",
        ),
        ([("noending", b"1")], "it holds members without an ending (1, such as noending)"),
        ([], "it holds no files"),
    ],
)
def test_a_shard_without_samples_says_what_it_holds(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError) as opened:
        Shards.open([str(path)], strict=False)
    with pytest.raises(BadSample) as read:
        streamed(path)
    assert words in str(opened.value) and words in read.value.bad.reason and "no member is named" in str(opened.value)


@pytest.mark.parametrize(
    ("compress", "name", "remedy"),
    [
        (gzip.compress, "gzip", "gunzip < a.tar"),
        (bz2.compress, "bzip2", "bunzip2 < a.tar"),
        (lzma.compress, "xz", "unxz < a.tar"),
        # As `pigz` and `cat a.gz b.gz` write them: several members, one after the other.
        (lambda data: gzip.compress(data[:9000]) + gzip.compress(data[9000:]), "gzip", "gunzip"),
    ],
)
def test_a_compressed_shard_is_named_and_its_stream_is_read(
    tmp_path: Path, compress: Callable[[bytes], bytes], name: str, remedy: str
) -> None:
    whole = write_tar(tmp_path / "whole.tar", plain(9))
    path = tmp_path / "a.tar"
    path.write_bytes(compress(whole.read_bytes()))
    with pytest.raises(UserError, match=f"holds no sample: it is compressed with {name}") as error:
        Shards.open([str(path)], strict=False)
    assert remedy in str(error.value)
    samples, said = streamed(path)
    assert contents(samples) == local(whole) and not said
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadSample, match=f"cut off or damaged after . samples?: it is compressed with {name}, and"):
        streamed(path)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
        (b"PK\x03\x04", "ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"PAR1", "Parquet"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, head: bytes, words: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(head + b"x" * 2000)
    with pytest.raises(UserError, match=words):
        Shards.open([str(path)], strict=False)
    with pytest.raises(BadSample, match=words):
        streamed(path)


def test_a_member_named_like_the_beginning_of_another_format_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [*plain(1, name="PAR1"), *plain(1, name="<b>"), *plain(1, name="BZh9")])
    assert [key for key, *_ in local(path)] == ["PAR1", "<b>", "BZh9"]
    assert contents(streamed(path)[0]) == local(path)


def test_archives_that_were_joined_are_spoken_of(tmp_path: Path) -> None:
    a, b = write_tar(tmp_path / "a.tar", plain(3)), write_tar(tmp_path / "b.tar", plain(3, 9))
    both = tmp_path / "both.tar"
    both.write_bytes(a.read_bytes() + b.read_bytes())
    (found,) = read_index(both).leftovers
    assert (found.members, found.example) == ("further data after the archive's end", "0009.png")
    samples, (said,) = streamed(both)
    assert contents(samples) == local(a) and "after the archive's end (1, such as 0009.png)" in said
    assert "tar --concatenate" in said
    bad = list[Bad]()
    assert len(list(read_samples(f"pipe:cat {a} /dev/zero", POLICY, bad.append))) == 3
    assert len(list(read_samples(f"pipe:cat {a}; false", POLICY, bad.append))) == 3 and not bad


def test_a_folder_is_read_whole_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_tar(tmp_path / "a.tar", plain(2)), write_tar(tmp_path / "B.TAR", plain(2, 9))
    (tmp_path / "._a.tar").write_bytes(b"of macOS")
    assert shard_paths([str(tmp_path)]) == [b, a] and capsys.readouterr().err == ""
    read_index(a)
    assert shard_paths([str(tmp_path / "*")]) == [b, a]  # not the index
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "c.tar", plain(2, 20))
    assert shard_paths([str(tmp_path)]) == [b, a]
    assert f"only its own shards are read, not those in {tmp_path}/test" in capsys.readouterr().err
    for name in ("c.tar.gz", "c.tgz", "c.tar.zst", "c.TAR.XZ"):
        (tmp_path / name).write_bytes(gzip.compress(a.read_bytes()))
        with pytest.raises(UserError, match=rf"holds compressed shards, .*: {name}\. Decompress"):
            shard_paths([str(tmp_path)])
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="holds no .tar shard. Name the folders that do: .*/in/test"):
        (tmp_path / "in").mkdir()
        (tmp_path / "test").rename(tmp_path / "in" / "test")
        shard_paths([str(tmp_path / "in")])


def test_a_link_to_nothing_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").symlink_to(tmp_path / "nowhere.tar")
    with pytest.raises(UserError, match=r"The shard .*/a.tar cannot be read: No such file"):
        shard_paths([str(tmp_path)])


def test_indexing_shards_without_any_sample_fails(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.cls", b"1")])
    result = distill("data", "index", path, status=2)
    assert (
        "None of the shards holds a sample" in result.stderr and "it holds *.cls (1, such as a.cls)" in result.stdout
    )


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_shard_under_two_names_is_refused(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    path = write_tar(tmp_path / "a.tar", plain(2))
    link(path, tmp_path / "b.tar")
    with pytest.raises(UserError, match="are one file"):
        shard_paths([str(tmp_path)])


def test_an_unsorted_stream_says_so(tmp_path: Path) -> None:
    members = plain(40)
    path = write_tar(tmp_path / "a.tar", members[::2] + members[1::2])
    whole = write_tar(tmp_path / "b.tar", members)
    assert local(path) == local(whole)  # a local shard may have its members in any order
    samples, (said,) = streamed(path)
    assert len(samples) == 80 and "the members of 40 samples, such as '0000', do not follow each other" in said
    assert "tar --sort=name" in said
    for one in samples:  # each part says why it cannot be used
        with pytest.raises(BadSample, match="there is no (caption|image).*have to follow each other.*--sort=name"):
            decode(one) and Captions().read(one)
    (first,) = streamed(write_tar(tmp_path / "c.tar", [*members[:70], members[72], *members[73:], members[71]]))[1:]
    assert not first  # a complete sample is none that lacks its members
    part = write_tar(tmp_path / "d.tar", [*members[:70], *members[70::2], *members[71::2]])
    assert "the members of 5 samples, such as '0035'" in streamed(part)[1][0]
    assert streamed(whole)[1] == []


def test_training_on_an_unsorted_stream_fails_with_that_sentence(tmp_path: Path) -> None:
    members = plain(40)
    path = write_tar(tmp_path / "a.tar", members[::2] + members[1::2])
    (tmp_path / "r.toml").write_text(RECIPE.format(shards=f"pipe:cat {path}"))
    words = ("train", tmp_path / "r.toml", "--out", tmp_path / "run", "--allow-pipe", *SCRATCH)
    error = distill(*words, status=2).stderr
    assert "do not follow each other" in error and "--sort=name" in error and "Traceback" not in error


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_links_are_followed(tmp_path: Path, kind: bytes) -> None:
    data = encoded(picture("circle", "red", 1))
    members: list[tuple[str, bytes | str]] = [
        ("1.png", data),
        ("1.txt", b"one"),
        ("2.png", "1.png"),
        ("2.txt", b"two"),
    ]
    members += [("3.png", "2.png"), ("3.txt", "./1.txt")]
    path = links(tmp_path / "a.tar", members, kind)
    expected = [("1", data, b"one", None), ("2", data, b"two", None), ("3", data, b"one", None)]
    assert local(path) == expected == contents(streamed(path)[0])
    # The target may have any name, and in a local shard any place.
    target, start = "files/sha256-01", "" if kind == tarfile.LNKTYPE else "../"
    path = links(tmp_path / "b.tar", [("x/1.png", start + target), ("x/1.txt", b"one"), (target, data)], kind)
    assert local(path) == [("x/1", data, b"one", None)]
    assert [one.count for one in read_index(path).leftovers] == [1]
    (found,), _ = streamed(path)
    with pytest.raises(BadSample, match="there is no image.*its x/1.png is a link .*--dereference"):
        decode(found)


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | str]] = [("1.png", "../pool/1.png"), ("1.txt", b"one"), ("2.png", "3.png")]
    path = links(tmp_path / "a.tar", [*members, ("3.png", "2.png"), ("x.cls", "y.cls")], tarfile.SYMTYPE)
    index = read_index(path)
    assert index.keys == ("1",)
    assert [(one.members, one.count, one.example) for one in index.leftovers] == [
        ("*.png that are links to nothing in the shard", 3, "1.png"),
        ("*.cls", 1, "x.cls"),
    ]


def test_names_of_every_kind_are_grouped_as_by_webdataset(tmp_path: Path) -> None:
    data, long = encoded(picture("circle", "red", 1)), "x" * 300
    keys = ["./a", "b/1", "c/1", "v1.5/1", "UPPER", f"{long}/{long}", "ünï", "with space", "1-2_3"]
    members = [(f"{key}.{ending}", content) for key in keys for ending, content in (("png", data), ("txt", b"x"))]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form, pax_headers={"comment": "global"}) as tar:
            for folder in ("b", "c"):
                info = tarfile.TarInfo(folder)
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            for name, content in [*members, ("X.JPG", data), ("X.Txt", b"x")]:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), 1.5  # PAX stores the fraction in a header of its own
                if form == tarfile.GNU_FORMAT:
                    info.mtime = 1
                tar.addfile(info, io.BytesIO(content))
        found = local(tmp_path / "a.tar")
        assert found == [(key, data, b"x", None) for key in [*keys, "X"]] == contents(streamed(tmp_path / "a.tar")[0])
        assert [one["__key__"] for one in by_webdataset(tmp_path / "a.tar")] == [*keys, "X"]
        assert read_index(tmp_path / "a.tar").leftovers == ()


def test_members_that_a_stream_does_not_give_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second member of a kind, which the index of a local shard names too, and one that is too large."""
    path = write_tar(tmp_path / "a.tar", [*plain(1), ("0000.jpg", b"second"), ("0000.txt", b"second"), *plain(1, 1)])
    samples, (said,) = streamed(path)
    assert contents(samples) == local(path) and len(samples) == 2
    assert "image members of a sample that has one (1, such as 0000.jpg); txt members" in said
    assert [key for key, _ in read_index(path).faults] == ["0000", "0000"]
    monkeypatch.setattr("distill.data.tar_stream.MAX_MEMBER_BYTES", 100)
    with pytest.raises(BadSample, match=r"there is no image: .*; its 0001.png has \d+ bytes, more than the 100"):
        decode(streamed(path)[0][1])


def one(txt: bytes | None = None, tree: object = None) -> Sample:
    return Sample(
        "key", "a.tar", None, txt, tree if tree is None or isinstance(tree, bytes) else json.dumps(tree).encode()
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (one(b"\xef\xbb\xbfa dog\r\n"), ["a dog"]),
        (one(b"a dog\r\non grass\n"), ["a dog\r\non grass"]),  # one file, one caption
        (one(None, ["a dog", "a hound"]), ["a dog", "a hound"]),
        (one(None, "a dog"), ["a dog"]),
        (one(None, [{"caption": "a dog", "id": 5}, {"caption": "a hound", "id": 6}]), ["a dog", "a hound"]),
        (one(None, [{"text": "a dog", "language": "en"}, {"id": 5}]), ["a dog"]),
        (one(b"a dog", {"width": 5}), ["a dog"]),
        (
            one(None, {"captions": [{"id": "1", "caption": "a dog"}, {"id": "2", "raw": "a hound"}]}),
            ["a dog", "a hound"],
        ),
        (one(None, {"captions": {"en": {"caption": ["a dog"], "caption/tokenized": ["a", "dog"]}}}), ["a dog"]),
        (one(b"a dog", [5.5] * 0), ["a dog"]),
        (one(None, b'\xef\xbb\xbf{"caption": "a dog"}'), ["a dog"]),
        (one(None, '{"caption": "ein Hündchen"}'.encode("utf-16")), ["ein Hündchen"]),
        (
            one(None, {"caption": {"text": "a dog", "language": None}, "captions": [None, "", "a hound"]}),
            ["a hound", "a dog"],
        ),
    ],
)
def test_captions_in_every_form_are_read(given: Sample, expected: list[str]) -> None:
    assert [caption.text for caption in Captions().read(given)] == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (one(), "there is no caption: no KEY.txt and no KEY.json with one"),
        (one(b" \n"), "there is no caption: its KEY.txt is empty"),
        (
            one(None, {"text": "a dog", "url": "x"}),
            "no caption under captions, caption in its KEY.json, whose keys are text, url",
        ),
        (one(None, {}), "whose keys are none"),
        (one("a dog".encode("utf-16")), "its KEY.txt is in UTF-16: save it as UTF-8"),
        (one("a dog".encode("utf-16-le")), "zero bytes"),
        (one(b"caf\xe9"), "its KEY.txt is not in UTF-8"),
        (one(None, {"caption": "a\0b"}), "zero bytes"),
        (one(None, 5), "5 is no text"),
        (one(None, {"caption": 5}), "5 is no text"),
        (one(b"a dog", ["a hound", 5]), "5 is no text"),
    ],
)
def test_why_there_is_no_caption_is_said(given: Sample, words: str) -> None:
    with pytest.raises(BadSample) as error:
        Captions().read(given)
    assert words in error.value.bad.reason


def test_a_sample_without_a_caption_of_the_languages_says_which_it_has() -> None:
    given = one(None, {"captions": {"fr": "un chien", "en-US": "a dog"}})
    with pytest.raises(BadSample, match=r"no caption in de, en, only in fr, en-US \(see data.languages\)"):
        Captions(languages=("de", "en")).read(given)
    assert Captions(languages=("fr",)).read(given) == [Caption("un chien", "fr")]


def test_a_caption_that_is_the_same_in_two_languages_is_in_both() -> None:
    given = one(b"Taxi", {"captions": {"en": ["Taxi", "a cab"], "de": ["Taxi", "Taxe"]}})
    for languages, expected in (
        ((), [("Taxi", "en"), ("a cab", "en"), ("Taxe", "de")]),
        (("de",), [("Taxi", "de"), ("Taxe", "de")]),
        (("en",), [("Taxi", "en"), ("a cab", "en")]),
        (("de", "en"), [("Taxi", "en"), ("a cab", "en"), ("Taxe", "de")]),
    ):
        found = Captions(languages=languages).read(given)
        assert [(caption.text, caption.language) for caption in found] == expected


def opened(tmp_path: Path, train: str, evaluation: str) -> ShardSet:
    (tmp_path / "r.toml").write_text(RECIPE.format(shards=train))
    words = [*SCRATCH[1::2], f"data.eval={evaluation}"]
    return ShardSet.open(resolve(load(str(tmp_path / "r.toml"), words)))


def test_a_folder_or_wildcard_with_the_evaluation_shards_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, (20, 20))
    test = write_tar(folder / "test-0.tar", plain(20, 500))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.tar").symlink_to(test)
    (tmp_path / "elsewhere" / "copy.tar").write_bytes(test.read_bytes())
    for train in (folder, folder / "*.tar", f"{folder}/{{train-000000,test-0}}.tar"):
        for evaluation in ("shards/test-0.tar", "shards/test-*.tar", "elsewhere/link.tar", "elsewhere/copy.tar"):
            with pytest.raises(UserError, match=r"data.train also holds 1 evaluation shard: .*\.tar\. Name"):
                opened(tmp_path, str(train), str(tmp_path / evaluation))
    with pytest.raises(UserError, match="3 evaluation shards"):
        opened(tmp_path, str(folder), str(folder))
    assert opened(tmp_path, str(folder / "train-*.tar"), str(test)).samples == 40
    assert opened(tmp_path, str(folder), str(tmp_path / "nowhere.tar")).samples == 60
    assert capsys.readouterr().err == ""
    assert opened(tmp_path, str(test), str(test)).samples == 20  # named itself: meant so
    assert f"data.eval names shards that are trained on ({test})" in capsys.readouterr().err


def test_check_leaves_out_the_shards_to_compare_with(tmp_path: Path) -> None:
    write_shards(tmp_path, (3, 2))
    test = write_tar(tmp_path / "test-0.tar", plain(4, 500))
    paths = [str(tmp_path / f"train-00000{i}.tar") for i in range(2)]
    assert without([str(tmp_path)], [f"{tmp_path}/test*"]) == (paths, [test])
    assert without([str(tmp_path)], []) == ([*sorted([*paths, str(test)])], [])
    result = distill("data", "check", tmp_path, "--against", f"{tmp_path}/test*", "--json")
    found = json.loads(result.stdout)
    assert (found["shards"], found["samples"], found["left_out"]) == (2, 5, [str(test)])
    assert f"Left out, because --against names them: {test}" in result.stderr
    error = distill("data", "check", test, "--against", tmp_path, status=2).stderr
    assert "All shards are also those to compare with" in error


def test_bad_evaluation_samples_are_reported_too(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", plain(3))
    other = write_tar(tmp_path / "b.tar", [*plain(2, 9), ("x.png", b"torn"), ("x.txt", b"words")])
    result = distill("data", "check", path, "--against", other, status=1).stdout
    assert (
        "3 samples in 1 shard, all of which can be used" in result and "1 evaluation sample cannot be used" in result
    )
    assert f"{other} x" in result


def test_numbers_and_their_nouns_agree() -> None:
    assert [counted(n, "shard") for n in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]
    assert counted(1, "member belongs", "members belong") == "1 member belongs"
    assert counted(3, "member belongs", "members belong") == "3 members belong"
    assert str(Leftover("*.cls", 2, "a.cls")) == "*.cls (2, such as a.cls)"
