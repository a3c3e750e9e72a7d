"""Tables with any text in them: no row is lost, and captions are what was written, byte for byte.

The tables are written by Python's ``csv`` and ``json``, or for TSV by hand, so what must come out is known without any
of the code under test.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import lines_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_data import photo
from test_shards import by_webdataset

from distill import UserError, pack

GOOD, BAD = ("0.png", "1.png", "sub/2.png"), ("torn.png", "missing.png", "", " ")
# Without zero bytes: text with these is in another encoding, and not taken for a caption.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
AWKWARD = st.sampled_from(
    [
        '"',
        '""',
        '"a',
        'a"',
        "a,b",
        "a;b|c",
        "a\tb",
        "a\nb",
        "a\r\nb",
        "a\rb",
        "\\",
        "'",
        "\ufeff",
        "\1",
        "\u2028",
        "\x85",
    ]
    + ["=1", "#", "0.png", "", " ", "None", "nan", "[", "{}", "[]", "[1]", "é", "e\u0301", "漢字", "👩‍👩‍👧", "\u200f"]
)
CAPTIONS = st.one_of(TEXT, AWKWARD, st.tuples(AWKWARD, TEXT, AWKWARD).map("".join))
Rows = list[tuple[str, str]]
ROWS = st.lists(st.tuples(st.sampled_from(GOOD + BAD), CAPTIONS), max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures and one that is damaged."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "sub").mkdir()
    for i, name in enumerate(GOOD):
        photo(i, 12).save(folder / name)
    (folder / "torn.png").write_bytes(b"\x89PNG")
    return folder


def by_csv(separator: str, end: str) -> Callable[[Rows], str]:
    def write(rows: Rows) -> str:
        buffer = io.StringIO(newline="")
        # With ends of "\n", Python's csv leaves a lone "\r" unquoted, which no reader of CSV can tell from an end.
        quoting = csv.QUOTE_MINIMAL if end == "\r\n" else csv.QUOTE_ALL
        csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting).writerows(rows)
        return buffer.getvalue()

    return write


def by_hand(rows: Rows) -> str:
    """Tab-separated values, in which nothing can be quoted; captions have neither tabs nor ends of lines."""
    return "".join(f"{name}\t{caption}\n" for name, caption in rows)


def json_lines(ensure_ascii: bool) -> Callable[[Rows], str]:
    return lambda rows: "".join(
        json.dumps(dict(zip(("image", "caption"), row, strict=True)), ensure_ascii=ensure_ascii) + "\n"
        for row in rows[1:]
    )


def json_list(rows: Rows) -> str:
    return json.dumps([{"image": name, "caption": caption} for name, caption in rows[1:]], indent=1)


def without_tabs(caption: str) -> str:
    return caption.translate(str.maketrans("\t\n\r", "   "))


FORMATS: dict[str, tuple[Callable[[Rows], str], Callable[[str], str]]] = {
    "t.csv": (by_csv(",", "\r\n"), str),
    "t.txt": (by_csv(";", "\n"), str),
    "pipe.csv": (by_csv("|", "\r\n"), str),
    "t.tsv": (by_hand, without_tabs),
    "t.jsonl": (json_lines(False), str),
    "ascii.jsonl": (json_lines(True), str),
    "t.json": (json_list, str),
}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_in_are_captions_and_named_leftovers_and_captions_are_as_written(folder: Path, name: str) -> None:
    write, representable = FORMATS[name]

    @given(ROWS)
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def check(rows: Rows) -> None:
        rows = [(image, representable(caption)) for image, caption in rows]
        expected: dict[str, list[str]] = {}
        lost = []
        for number, (image, caption) in enumerate(rows, 1):
            if image in GOOD and caption.strip():
                expected.setdefault(image, []).append(caption.strip())
            else:
                lost.append(number)
        with tempfile.TemporaryDirectory() as scratch:
            (folder / name).write_bytes(write([("image", "caption"), *rows]).encode())
            out = Path(scratch) / "out"
            if not expected:
                with pytest.raises(UserError):
                    pack(folder / name, out)
                assert not out.exists()
                return
            (path,) = pack(folder / name, out)
            found = {json.loads(one["json"])["file"]: one for one in by_webdataset(path)}
            assert {image: json.loads(one["json"])["captions"] for image, one in found.items()} == expected
            assert all(one["txt"] == expected[image][0].encode() for image, one in found.items())
            assert [one["row"] for one in lines_of(out / "left-out.jsonl")] == lost

    check()


GARBAGE = st.text(st.sampled_from("\",'ab .\r\\0png;\t|é"), max_size=15)


@given(st.lists(GARBAGE, max_size=8), st.sampled_from([",", "\t", ";"]))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_lines_of_garbage_cost_no_row_beside_them(folder: Path, garbage: list[str], separator: str) -> None:
    text = f"image{separator}caption\n" + "".join(
        f"{line}\n{GOOD[i % 3]}{separator}good {i}\n" for i, line in enumerate(["x", *garbage])
    )
    (folder / "garbage.csv").write_bytes(text.encode())
    with tempfile.TemporaryDirectory() as scratch:
        paths = pack(folder / "garbage.csv", Path(scratch) / "out")
        captions = [text for one in by_webdataset(paths[0]) for text in json.loads(one["json"])["captions"]]
        kept = {text for text in captions if text.startswith("good")}
        assert kept == {f"good {i}" for i in range(len(garbage) + 1)}
        named = len(lines_of(Path(scratch) / "out" / "left-out.jsonl"))
        blank = sum(not line.strip() and separator not in line for line in garbage)
        assert len(captions) + named == 2 * (len(garbage) + 1) - blank
