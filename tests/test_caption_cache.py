"""Caches of text teachers: one row a caption, the same as the live teacher's, and nothing wrong unnoticed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import distill, losses_of, sample, write_tar
from safetensors.torch import load_file
from test_cache import flip_bit
from torch.testing import assert_close
from tower_folders import write_clip_pair

import teachers
from distill import embed_teachers, train
from distill.config import TeacherTable
from distill.data.audit import audit
from distill.data.cache_fill import MissingShards, describe_space, embed
from distill.data.caption_cache import CaptionCache
from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.errors import BadSample, UserError
from distill.lookup import resolve
from distill.recipe import load
from distill.rules import Rules
from distill.training.setup import Networks

MINILM = "packaged/all_minilm_l6_v2"
CARD = teachers.card(MINILM)
CAPTIONS = Captions()


@pytest.fixture(scope="module")
def live() -> teachers.Teacher:
    return teachers.load(CARD)


def members(key: str, captions: Any, txt: str | None = None) -> list[tuple[str, bytes]]:
    """A sample with these captions in its KEY.json, and perhaps a KEY.txt."""
    found = [sample(key, "circle", "red", 0)[0], (f"{key}.json", json.dumps({"captions": captions}).encode())]
    return found + ([(f"{key}.txt", txt.encode())] if txt is not None else [])


def write_data(folder: Path) -> Path:
    """Two shards: samples with one to six captions in three languages, one without any, and damaged ones."""
    folder.mkdir(parents=True)
    first = [
        *members("a", {"en": "a red circle", "de": "ein roter Kreis"}, "a red circle"),
        *members("b", {"en": ["a dog", "a small dog", "a dog on the table"], "fr": "un chien"}),
        *members("c", {}),
        *members("d", {"en": "a dog", "de": "ein Hund"}),
    ]
    second = [
        *members("e", [f"number {n}" for n in range(6)]),
        *members("f", {"en": "a red circle"})[:1],
        ("f.json", b"{not json"),
        *members("g", {"en": "the very last"}),
    ]
    write_tar(folder / "train-000000.tar", first)
    write_tar(folder / "train-000001.tar", second)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Shards:
    return Shards.open([str(write_data(tmp_path / "shards"))], quiet=True)


def cache_in(folder: Path, captions: Captions = CAPTIONS, **values: Any) -> CaptionCache:
    return CaptionCache(TeacherTable(name=MINILM, cache=str(folder), **values), CARD, captions)


def fill(cache: CaptionCache, live: teachers.Teacher, data: Shards, workers: int = 0) -> None:
    embed([cache], lambda k: live, MissingShards.find([cache], data), workers, id)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype, tolerance", [("fp32", 1e-6), ("fp16", 1e-3), ("bf16", 1e-2)])
def test_every_row_is_the_live_teachers_embedding_of_its_caption(
    tmp_path: Path, data: Shards, live: teachers.Teacher, dtype: str, tolerance: float, workers: int
) -> None:
    cache, seen = cache_in(tmp_path / "cache", dtype=dtype), 0
    fill(cache, live, data, workers)
    assert not cache.missing(data)
    for i in range(len(data)):
        try:
            own = [caption.text for caption in CAPTIONS.read(data.read(i))]
        except BadSample:
            continue
        rows = cache.rows(data, i, range(len(own)), own)["embedding"]
        expected = live(teachers.tokenizer(CARD).encode(own))["embedding"]
        assert_close(rows, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
        backwards = cache.rows(data, i, range(len(own) - 1, -1, -1), own[::-1])["embedding"]
        assert torch.equal(backwards, rows.flip(0)) and rows.dtype == torch.float32
        seen += len(own)
    stored = [load_file(cache.file(data.indexes.path(k))) for k in range(2)]
    assert [tensors["ends"].tolist() for tensors in stored] == [[2, 6, 6, 8], [6, 6, 7]]
    assert seen == 15 == sum(len(tensors["embeddings"]) for tensors in stored)
    assert audit(cache, live, data, 8)["rows"] == 8


def test_equal_captions_of_a_shard_are_embedded_once(
    tmp_path: Path, data: Shards, live: teachers.Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, embedded, forward = cache_in(tmp_path / "cache"), [0], live.forward

    def counting(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        embedded[0] += len(tokens)
        return forward(tokens)

    monkeypatch.setattr(live, "forward", counting)
    fill(cache, live, data)
    assert embedded[0] == 14, "of 15 captions 'a dog' is there twice"
    dogs = [cache.rows(data, 1, [0], ["a dog"]), cache.rows(data, 3, [0], ["a dog"])]
    assert torch.equal(dogs[0]["embedding"], dogs[1]["embedding"])


def test_two_teachers_are_filled_from_one_reading(tmp_path: Path, data: Shards, live: teachers.Teacher) -> None:
    folder = write_clip_pair(tmp_path / "clip")
    (card,) = teachers.towers(str(folder), "text")
    other = CaptionCache(TeacherTable(name=str(folder), tower="text", cache=str(tmp_path / "b")), card, CAPTIONS)
    caches, both = [cache_in(tmp_path / "a"), other], [live, teachers.load(card)]
    missing = MissingShards.find(caches, data)
    assert "about 15 captions, 384 × fp16" in describe_space(caches, missing)
    assert missing.steps(caches) == len(data) == 7
    embed(caches, both.__getitem__, missing, 0, id)
    for cache, teacher in zip(caches, both, strict=True):
        assert audit(cache, teacher, data, 10)["min_cosine"] > 0.9999


@pytest.mark.parametrize(
    "captions, values, message",
    [
        (Captions(languages=("en",)), {}, r"languages \[\] instead of \['en'\]"),
        (Captions(keys=("captions", "alt")), {}, "caption_keys"),
        (CAPTIONS, {"dtype": "fp32"}, "dtype fp16 instead of fp32"),
    ],
)
def test_a_cache_of_other_lists_of_captions_is_refused(
    tmp_path: Path, data: Shards, live: teachers.Teacher, captions: Captions, values: dict[str, Any], message: str
) -> None:
    fill(cache_in(tmp_path / "cache"), live, data)
    with pytest.raises(UserError, match=f"does not fit this recipe: .*{message}"):
        cache_in(tmp_path / "cache", captions, **values).missing(data)
    drawn_otherwise = Captions(first_share=0.3, first_only=True)
    assert not cache_in(tmp_path / "cache", drawn_otherwise).missing(data), "which are drawn changes no row"


def test_another_tokenizer_context_or_weights_are_another_cache(
    tmp_path: Path, data: Shards, live: teachers.Teacher
) -> None:
    folder = write_clip_pair(tmp_path / "clip")

    def cache() -> CaptionCache:
        (card,) = teachers.towers(str(folder), "text")
        return CaptionCache(TeacherTable(name=str(folder), tower="text", cache=str(tmp_path / "c")), card, CAPTIONS)

    before = cache()
    embed([before], lambda k: teachers.load(before.card), MissingShards.find([before], data), 0, id)
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    copied = shutil.copytree(folder, tmp_path / "other" / "clip")
    (copied / "tokenizer.json").write_text(json.dumps(tree, indent=3))
    folder = copied
    with pytest.raises(UserError, match="does not fit this recipe: files"):
        cache().missing(data)
    with pytest.raises(UserError, match="was made with other weights of"):
        other = copy.deepcopy(live)
        other.net.embeddings.word_embeddings.weight.data.mul_(1.01)  # type: ignore[union-attr, operator]
        fill(cache_in(tmp_path / "m"), live, data)
        audit(cache_in(tmp_path / "m"), other, data, 2)


def test_a_changed_shard_or_caption_is_found(tmp_path: Path, data: Shards, live: teachers.Teacher) -> None:
    cache = cache_in(tmp_path / "cache")
    fill(cache, live, data)
    for text in ("a dog ", "another", ""):
        with pytest.raises(UserError, match="have none of the caption .* of the sample 'b'"):
            cache.rows(data, 1, [0], [text])
    for i, number in ((1, 4), (2, 0), (5, 0), (3, 2)):
        with pytest.raises(UserError, match="have none of the caption"):
            cache.rows(data, i, [number], ["a dog"])
    write_tar(tmp_path / "shards" / "train-000001.tar", members("e", ["number 0"]))
    changed = Shards.open([str(tmp_path / "shards")], quiet=True)
    with pytest.raises(UserError, match="are those of another train-000001.tar: its content has changed"):
        cache_in(tmp_path / "cache").missing(changed)


def test_a_flipped_bit_anywhere_is_detected(tmp_path: Path, data: Shards, live: teachers.Teacher) -> None:
    """Every 11th bit of the file: it is refused on opening or on reading, or all rows are unchanged."""
    cache = cache_in(tmp_path / "cache", dtype="bf16")
    fill(cache, live, data)
    path = cache.file(data.indexes[0].path)
    own = {i: [caption.text for caption in CAPTIONS.read(data.read(i))] for i in (0, 1, 3)}

    def read(cache: CaptionCache) -> list[torch.Tensor]:
        return [cache.rows(data, i, range(len(texts)), texts)["embedding"] for i, texts in own.items()]

    complete, rows, refused = path.read_bytes(), read(cache), 0
    header = 8 * (8 + int.from_bytes(complete[:8], "little"))
    positions = [*range(0, header, 11), *range(header, 8 * len(complete), 353)]
    positions += range(8 * len(complete) - 8 * 8 * 13, 8 * len(complete), 5)
    for position in positions:
        path.write_bytes(complete)
        flip_bit(path, position)
        fresh = cache_in(tmp_path / "cache", dtype="bf16")
        try:
            fresh.missing(data)
            found = read(fresh)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
        else:  # a bit without a meaning, or the end of the sample without captions
            assert all(torch.equal(a, b) for a, b in zip(found, rows, strict=True)), position
    assert refused > 0.8 * len(positions)


def test_rows_of_other_captions_are_found_by_the_audit(tmp_path: Path, data: Shards, live: teachers.Teacher) -> None:
    cache = cache_in(tmp_path / "cache", dtype="fp32")
    fill(cache, live, data)
    index = data.indexes[1]
    stored = load_file(cache.file(index.path))
    turned = {"embedding": stored["embeddings"].roll(1, 0)}
    cache.write(index, turned, stored["ends"], stored["texts"], live.fingerprint())
    with pytest.raises(UserError, match="The cached embedding of caption . of sample '[eg]' .* cosine 0"):
        audit(cache_in(tmp_path / "cache", dtype="fp32"), live, data, 20)


# In training.

TEACHER = ["teacher.0.name=" + MINILM, "teacher.0.image_size=0", "teacher.0.views=1"]


def trained(recipe: Path, out: Path, *settings: str, options: tuple[object, ...] = ()) -> list[float]:
    words = [part for setting in (*TEACHER, *settings) for part in ("--set", setting)]
    distill("train", recipe, "--out", out, *words, *options)
    return losses_of(out)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["data.captions=joint", "train.batch_size=8"],
        ['data.languages=["de"]', "data.first_share=0.5"],
    ],
)
def test_training_with_a_cache_equals_training_with_the_live_teacher(
    tmp_path: Path, recipe: Path, settings: list[str]
) -> None:
    cached = trained(
        recipe, tmp_path / "cached", *settings, "teacher.0.dtype=fp32", f"teacher.0.cache={tmp_path / 'c'}"
    )
    live = trained(recipe, tmp_path / "live", *settings, "teacher.0.cache=none")
    half = trained(recipe, tmp_path / "half", *settings, f"teacher.0.cache={tmp_path / 'h'}")
    assert cached == pytest.approx(live, rel=1e-5) and half == pytest.approx(live, rel=2e-3) and half != cached
    about = json.loads((tmp_path / "cached" / "run.json").read_text())
    assert about["teacher_audits"][MINILM]["rows"] == 8
    assert about["teacher_weights"] == json.loads((tmp_path / "live" / "run.json").read_text())["teacher_weights"]


def test_teachers_embed_fills_it_with_two_processes(tmp_path: Path, shards: Path, recipe: Path) -> None:
    """Two processes write the same files as one, train as one does, and a stopped run continues as if it had not."""
    folder = write_clip_pair(tmp_path / "clip")
    settings = [f"teacher.0.name={folder}", "teacher.0.tower=text", "teacher.0.image_size=0", "teacher.0.audit=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    for name, processes in (("one", 1), ("two", 2)):
        distill("teachers", "embed", recipe, "--out", tmp_path / name, *options, "--nproc", processes)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["teacher.json", "train-000000.safetensors", "train-000001.safetensors"]
    for name in files[1:]:
        one, two = (load_file(tmp_path / which / name) for which in ("one", "two"))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    options += ["--set", f"teacher.0.cache={tmp_path / 'one'}"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()}
    distill("train", recipe, "--out", tmp_path / "run", *options)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").iterdir()} == stamps
    distill("train", recipe, "--out", tmp_path / "again", *options, "--nproc", 2)
    assert losses_of(tmp_path / "again") == pytest.approx(losses_of(tmp_path / "run"), rel=1e-5)
    # Stopped after three steps and continued.
    shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "step-00000006")
    (tmp_path / "stopped" / "checkpoints" / "latest").write_text("step-00000003")
    distill("train", recipe, "--out", tmp_path / "stopped", *options, "--resume")
    assert losses_of(tmp_path / "stopped") == losses_of(tmp_path / "run")


def test_the_teacher_is_not_loaded_while_training(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*TEACHER, f"teacher.0.cache={tmp_path / 'cache'}", "teacher.0.audit=0"]
    embed_teachers(recipe, overrides=settings)

    def fail(*arguments: object) -> None:
        raise AssertionError("the teacher is loaded")

    monkeypatch.setattr(Networks, "teacher", fail)
    train(recipe, tmp_path / "run", overrides=settings)
    assert len(losses_of(tmp_path / "run")) == 6


def test_a_run_continues_after_a_damaged_row_was_removed(tmp_path: Path, recipe: Path) -> None:
    cache = tmp_path / "cache"
    whole = trained(recipe, tmp_path / "run", f"teacher.0.cache={cache}")
    distill(
        "train",
        recipe,
        "--out",
        tmp_path / "run",
        "--resume",
        *(part for setting in (*TEACHER, f"teacher.0.cache={cache}") for part in ("--set", setting)),
    )
    path = cache / "train-000000.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    offset = json.loads(content[8:header])["embeddings"]["data_offsets"]
    middle = bytes(b ^ 1 for b in content[header + offset[0] : header + offset[1]])
    path.write_bytes(content[: header + offset[0]] + middle + content[header + offset[1] :])
    words = [part for setting in (*TEACHER, f"teacher.0.cache={cache}") for part in ("--set", setting)]
    refused = distill("train", recipe, "--out", tmp_path / "other", *words, status=2)
    assert "are damaged: row" in refused.stderr and "Remove that file" in refused.stderr
    path.unlink()
    assert trained(recipe, tmp_path / "third", f"teacher.0.cache={cache}") == whole


def test_streams_have_no_caption_cache(tmp_path: Path, shards: Path, recipe: Path) -> None:
    words = [part for setting in (*TEACHER, f"data.train=pipe:cat {shards}/*") for part in ("--set", setting)]
    refused = distill("train", recipe, "--out", tmp_path / "run", "--allow-pipe", *words, status=2)
    assert f"'{MINILM}' has a cache, and data.train are streams" in refused.stderr
    assert 'Set teacher.0.cache = "none"' in refused.stderr


def test_a_run_that_began_with_the_live_teacher_goes_on_with_it(recipe: Path) -> None:
    """Before there were caches of captions, "auto" ran a text teacher while training, also on streams."""
    loaded = load(str(recipe), TEACHER)
    earlier, now = Rules.of_run({"rules": {"views": 2, "statistics": 2}}), Rules()
    assert [teacher.online for teacher in resolve(loaded, earlier).teachers] == [True]
    assert [teacher.online for teacher in resolve(loaded, now).teachers] == [False]
    streamed = load(str(recipe), [*TEACHER, "data.train=https://example.org/{0..3}.tar", "train.steps=5"])
    assert resolve(streamed, earlier).teachers[0].online
    with pytest.raises(UserError, match="data.train are streams"):
        resolve(streamed, now)
