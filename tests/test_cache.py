"""The teacher cache: its rows are the live teacher's embeddings, and a cache that does not match is refused."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import distill, write_shards
from safetensors.torch import load_file

import teachers
from distill.config import TeacherTable
from distill.data.audit import audit
from distill.data.cache_fill import MissingShards, check_space, describe_space, embed
from distill.data.pairs import Slot
from distill.data.shards import Shards
from distill.data.view_cache import ViewCache
from distill.data.views import Views, decode
from distill.errors import BadSample, UserError
from distill.lookup import resolve
from distill.recipe import load
from distill.training import caches, setup
from students import SentencePieceTokenizer

VIEWS = Views((0.5, 0.9), True)
CARD = teachers.card("packaged/efficientnet_lite0")


def table(folder: Path, **changes: object) -> TeacherTable:
    return TeacherTable.model_validate(
        {"name": CARD.name, "cache": str(folder), "views": 3, "image_size": 64, "dtype": "fp32"} | changes
    )


def fill(
    cache: ViewCache,
    teacher: teachers.Teacher,
    data: Shards,
    workers: int = 0,
    tick: Callable[[int], object] = lambda n: n,
) -> None:
    """Embed the missing shards of one cache."""
    embed([cache], lambda k: teacher, MissingShards.find([cache], data), workers, tick)


@pytest.fixture(scope="module")
def teacher() -> teachers.Teacher:
    return teachers.load(CARD)


@pytest.fixture
def data(tmp_path: Path) -> Shards:
    write_shards(tmp_path / "shards", (5, 4))
    return Shards.open([str(tmp_path / "shards")])


def test_every_row_and_view_equals_the_live_teachers_embedding(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    done: list[int] = []
    cache = ViewCache(table(tmp_path / "cache"), CARD, VIEWS)
    assert [len(index) for index in cache.missing(data)] == [5, 4]
    fill(cache, teacher, data, workers=1, tick=done.append)
    assert sum(done) == 9 and cache.missing(data) == []
    for i in range(9):
        image = decode(data.read(i))
        for view in range(3):
            pixels = VIEWS.draw(data.key(i), view, image.size).render(image, 64, "bicubic")
            assert torch.allclose(
                cache.row(data, i, view)["embedding"], teacher(pixels[None])["embedding"][0], rtol=1e-4, atol=1e-4
            )
    data.close()


@pytest.mark.parametrize(("dtype", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_smaller_dtypes_stay_close_to_float32(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher, dtype: str, error: float
) -> None:
    exact = ViewCache(table(tmp_path / "exact", views=1), CARD, VIEWS)
    small = ViewCache(table(tmp_path / "small", views=1, dtype=dtype), CARD, VIEWS)
    for cache in (exact, small):
        fill(cache, teacher, data)
    a, b = (torch.stack([c.row(data, i, 0)["embedding"] for i in range(9)]) for c in (exact, small))
    assert (a - b).norm() / a.norm() < error
    assert (torch.nn.functional.cosine_similarity(a, b) >= 0.999).all()
    file = small.file(data.indexes[0].path)
    assert file.stat().st_size < exact.file(data.indexes[0].path).stat().st_size
    data.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 2}, "views 3 instead of 2"),
        ({"image_size": 96}, "image_size 64 instead of 96"),
        ({"dtype": "fp16"}, "dtype fp32 instead of fp16"),
    ],
)
def test_a_cache_with_other_settings_is_refused_and_the_error_names_the_difference(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher, change: dict[str, object], message: str
) -> None:
    fill(ViewCache(table(tmp_path / "cache"), CARD, VIEWS), teacher, data)
    with pytest.raises(UserError, match=message):
        ViewCache(table(tmp_path / "cache", **change), CARD, VIEWS).missing(data)
    with pytest.raises(UserError, match="crop"):
        ViewCache(table(tmp_path / "cache"), CARD, Views((0.1, 0.9), True)).missing(data)
    data.close()


def test_changed_shards_other_weights_and_damaged_files_are_refused(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    cache = ViewCache(table(tmp_path / "cache"), CARD, VIEWS)
    fill(cache, teacher, data)
    first = cache.file(data.indexes[0].path)
    complete = first.read_bytes()
    first.write_bytes(complete[:-100])
    with pytest.raises(UserError, match="damaged"):
        ViewCache(table(tmp_path / "cache"), CARD, VIEWS).missing(data)
    first.write_bytes(complete)

    write_shards(tmp_path / "shards", (5, 4), first=100)
    changed = Shards.open([str(tmp_path / "shards")])
    with pytest.raises(UserError, match="its content has changed"):
        ViewCache(table(tmp_path / "cache"), CARD, VIEWS).missing(changed)

    write_shards(tmp_path / "shards", (5, 4))
    restored = Shards.open([str(tmp_path / "shards")])
    assert not ViewCache(table(tmp_path / "cache"), CARD, VIEWS).missing(restored)
    description = first.parent / "teacher.json"
    original = description.read_text()
    for other, reason in {
        json.dumps(json.loads(original) | {"weights": "others"}): "were not made with what .*teacher.json says",
        json.dumps(json.loads(original) | {"flip": False}): "flip False instead of True",
        "{}": "teacher.json is missing or damaged: it names no weights",
    }.items():
        description.write_text(other)
        with pytest.raises(UserError, match=reason):
            ViewCache(table(tmp_path / "cache"), CARD, VIEWS).missing(restored)
    # A file of another cache with the same shards and shapes.
    description.write_text(original)
    another = ViewCache(table(tmp_path / "another"), CARD, Views((0.1, 0.9), True))
    fill(another, teacher, restored)
    shutil.copy(another.file(restored.indexes[0].path), first)
    with pytest.raises(UserError, match="were not made with what"):
        ViewCache(table(tmp_path / "cache"), CARD, VIEWS).missing(restored)
    for file in first.parent.glob("*.safetensors"):
        file.unlink()
    description.write_text(json.dumps(json.loads(original) | {"weights": "others"}))
    with pytest.raises(UserError, match="other weights"):
        fill(ViewCache(table(tmp_path / "cache"), CARD, VIEWS), teacher, restored)
    for shards in (data, restored):
        shards.close()


def test_training_uses_a_cache_filled_by_teachers_embed_without_changing_it(
    tmp_path: Path, recipe: Path, shards: Path
) -> None:
    result = distill("teachers", "embed", recipe, "--out", tmp_path / "cache", "--set", "teacher.0.views=1")
    assert result.stdout.split() == [str(tmp_path / "cache")]
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    assert len(stamps) == 3
    settings = [f"teacher.0.cache={tmp_path / 'cache'}", "teacher.0.views=1", "train.steps=1"]
    distill("train", recipe, "--out", tmp_path / "run", *(part for s in settings for part in ("--set", s)))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == stamps
    shutil.rmtree(tmp_path / "run")
    refused = distill(
        *("train", recipe, "--out", tmp_path / "run", "--set", settings[0], "--set", "teacher.0.views=2"), status=2
    )
    assert "views 1 instead of 2" in refused.stderr and not (tmp_path / "run").exists()


# Damaged files, and rows that are not the teacher's.


def flip_bit(path: Path, position: int) -> None:
    """Flip one bit of a file, as a failing disk does."""
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_is_detected(tmp_path: Path, data: Shards, teacher: teachers.Teacher) -> None:
    """Every 7th bit of the header, every bit of the checksums, and 60 of the rest: the file is refused on opening or
    on reading, or all rows are unchanged, including the one marked as having no embedding."""
    cache = ViewCache(table(tmp_path / "cache", views=1, dtype="bf16"), CARD, VIEWS)
    fill(cache, teacher, data)
    path = cache.file(data.indexes[0].path)
    present = load_file(path)["embeddings"]
    present[:, 3] = 0
    cache.write(data.indexes[0], {"embedding": present}, teacher.fingerprint(), absent=[3])
    cache = ViewCache(table(tmp_path / "cache", views=1, dtype="bf16"), CARD, VIEWS)

    def read(cache: ViewCache, i: int) -> torch.Tensor | None:
        try:
            return cache.row(data, i, 0)["embedding"]
        except BadSample:
            return None

    complete, rows = path.read_bytes(), [read(cache, i) for i in range(5)]
    assert [row is None for row in rows] == [False, False, False, True, False]
    header = 8 + int.from_bytes(complete[:8], "little")
    sums = json.loads(complete[8:header])["crc32"]["data_offsets"]
    positions = [*range(0, 8 * header, 7), *range(8 * (header + sums[0]), 8 * (header + sums[1]))]
    positions += range(8 * header, 8 * len(complete), (8 * (len(complete) - header)) // 60)
    refused = 0
    for position in positions:
        path.write_bytes(complete)
        flip_bit(path, position)
        fresh = ViewCache(table(tmp_path / "cache", views=1, dtype="bf16"), CARD, VIEWS)
        try:
            fresh.missing(data)
            found = [read(fresh, i) for i in range(5)]
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
        else:  # a bit without a meaning, such as one of padding, may go undetected; a changed value may not
            same = (a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(found, rows, strict=True))
            assert all(same), position
    assert refused > 0.9 * len(positions)
    data.close()


def test_the_audit_detects_rows_that_are_not_the_live_teachers(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    cache = ViewCache(table(tmp_path / "cache", dtype="bf16"), CARD, VIEWS)
    fill(cache, teacher, data)
    found = audit(cache, teacher, data, rows=12)
    assert found["rows"] == 12 and 0.999 < found["min_cosine"] < 1
    other = copy.deepcopy(teacher)
    other.net.conv_stem.weight.data.mul_(1.001)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="was made with other weights of 'packaged/efficientnet_lite0'"):
        audit(cache, other, data, rows=1)
    # Rows of other images, in an undamaged file with valid checksums.
    index = data.indexes[0]
    order = (1, 2, 3, 4, 0)
    rows = torch.stack([torch.stack([cache.row(data, i, view)["embedding"] for i in order]) for view in range(3)])
    cache.write(index, {"embedding": rows.bfloat16()}, teacher.fingerprint())
    with pytest.raises(UserError, match="is not what 'packaged/efficientnet_lite0' gives: cosine 0"):
        audit(ViewCache(table(tmp_path / "cache", dtype="bf16"), CARD, VIEWS), teacher, data, rows=12)
    data.close()


def test_every_cached_embedding_in_a_batch_is_of_the_students_own_crop_and_flip(
    tmp_path: Path, shards: Path, recipe: Path, teacher: teachers.Teacher
) -> None:
    """In batches as training gets them: the teacher's embedding of the student's own view is the cached embedding.

    Its embedding of the mirrored view is not. An online teacher's embedding is the same as the cached one.
    """
    settings = ["data.flip=true", "data.crop=[0.5,0.8]", "teacher.0.views=3", "teacher.0.dtype=fp32"]
    online = f'[[teacher]]\nname = "{CARD.name}"\ncache = "none"\nimage_size = 96\n\n[student]'
    recipe.write_text(recipe.read_text().replace("[student]", online, 1))
    checked = load(str(recipe), [*settings, f"teacher.0.cache={tmp_path / 'cache'}", "teacher.0.image_size=96"])
    resolved, data = resolve(checked), Shards.open(checked.data.train)
    (cache,) = caches.caches_of(resolved)
    fill(cache, teacher, data)
    tokenizer = SentencePieceTokenizer.train(["a red circle", "ein Kreis, rot"] * 50, 40, 8)
    pairs = setup.pairs_of(resolved, data, tokenizer)
    mirrored = 0
    for epoch in range(3):
        batch = pairs.__getitems__([Slot(epoch, i, i) for i in range(0, 64, 3)])
        assert not isinstance(batch, UserError)
        for n, i in enumerate(range(0, 64, 3)):
            image = decode(data.read(i))
            view = cache.views.draw(data.key(i), pairs.transform.view_number(epoch, i), image.size)
            assert torch.equal(batch.inputs["image"][n], view.render(image, 32))
            wrong = dataclasses.replace(view, mirrored=not view.mirrored)
            own, other = (teacher(v.render(image, 96)[None])["embedding"][0] for v in (view, wrong))
            cached = batch.teachers[0]["embedding"][n, 0]
            assert torch.cosine_similarity(own, cached, dim=0) > 0.9999
            # An online teacher gets exactly the pixels that were embedded.
            assert torch.equal(teacher(batch.teachers[1]["image"][n])["embedding"][0], own)
            assert torch.equal(own, other) or (cached - own).norm() < 0.1 * (cached - other).norm()
            mirrored += view.mirrored
    assert 10 < mirrored < 56
    data.close()


def test_two_teachers_with_the_same_cache_folder_are_refused(recipe: Path, tmp_path: Path) -> None:
    second = f'[[teacher]]\nname = "{CARD.name}"\nviews = 2\nimage_size = 96\n\n[student]'
    recipe.write_text(recipe.read_text().replace("[student]", second, 1))
    shared = [f"teacher.{k}.cache={tmp_path / 'cache'}" for k in (0, 1)]
    with pytest.raises(UserError, match="Two teachers name the same cache folder, .*cache"):
        resolve(load(str(recipe), shared))
    resolve(load(str(recipe), shared[:1]))


def test_a_folder_that_another_command_has_meanwhile_filled_is_refused(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    cache = ViewCache(table(tmp_path / "cache"), CARD, VIEWS)
    missing = MissingShards.find([cache], data)
    fill(ViewCache(table(tmp_path / "cache", image_size=96), CARD, VIEWS), teacher, data)
    with pytest.raises(UserError, match="image_size 96 instead of 64"):
        embed([cache], lambda k: teacher, missing, 0, id)


def test_a_cache_made_with_other_network_options_is_refused(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    """Options such as the activation or the pooling change the embedding, but not the hash of the weights."""
    fill(ViewCache(table(tmp_path / "cache"), CARD, VIEWS), teacher, data)
    quick = dataclasses.replace(CARD, options={"act_layer": "quick_gelu"})
    with pytest.raises(UserError, match=r'options \{\} instead of \{"act_layer": "quick_gelu"\}'):
        ViewCache(table(tmp_path / "cache"), quick, VIEWS).missing(data)


def test_weights_with_a_wrong_hash_are_refused_even_if_they_are_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    card = teachers.with_weights(CARD, str(file))
    assert (
        ViewCache(table(tmp_path, weights=str(file), sha256=right[:9].upper()), card, VIEWS).identity["file"] == right
    )
    with pytest.raises(UserError, match="has the SHA-256 [0-9a-f]{64}, where dead is expected"):
        ViewCache(table(tmp_path, weights=str(file), sha256="dead"), card, VIEWS)


def test_the_error_about_nan_embeddings_says_that_the_weights_are_damaged(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    broken = copy.deepcopy(teacher)
    broken.net.conv_stem.weight.data.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="are no numbers: its weights are damaged"):
        fill(ViewCache(table(tmp_path / "cache"), CARD, VIEWS), broken, data)
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_a_file_at_the_path_of_the_cache_folder_is_refused(tmp_path: Path, data: Shards) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(UserError, match="cache is a file. Name a folder"):
        ViewCache(table(tmp_path / "cache"), CARD, VIEWS).missing(data)


def test_the_audit_compares_only_rows_that_have_an_embedding(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    cache = ViewCache(table(tmp_path / "cache"), CARD, VIEWS)
    fill(cache, teacher, data)
    for index, absent in zip(data.indexes, ([0, 1, 2, 3, 4], [0, 2]), strict=True):
        rows = load_file(cache.file(index.path))["embeddings"]
        cache.write(index, {"embedding": rows}, teacher.fingerprint(), absent)
    cache = ViewCache(table(tmp_path / "cache"), CARD, VIEWS)
    assert audit(cache, teacher, data, rows=5)["rows"] == 5, "other rows are compared instead"
    assert audit(cache, teacher, data, rows=50)["rows"] == 6, "two samples, three views"


def test_cache_files_have_the_permissions_of_the_umask(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    """Although they are first written to a temporary file."""
    cache = ViewCache(table(tmp_path / "cache"), CARD, VIEWS)
    (tmp_path / "usual").touch()
    fill(cache, teacher, data)
    assert cache.file(data.indexes[0].path).stat().st_mode == (tmp_path / "usual").stat().st_mode


# Filling a cache.


def test_two_teachers_embedded_in_one_pass_get_the_same_rows_as_separately(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    """In one pass, each separately, and with one cache already half filled: the rows are the same."""
    second = teachers.card("packaged/efficientnet_lite1")
    live = [teacher, teachers.load(second)]
    together = [
        ViewCache(table(tmp_path / "a0"), CARD, VIEWS),
        ViewCache(other_table(second, tmp_path / "a1"), second, VIEWS),
    ]
    separate = [
        ViewCache(table(tmp_path / "b0"), CARD, VIEWS),
        ViewCache(other_table(second, tmp_path / "b1"), second, VIEWS),
    ]
    embed(together, live.__getitem__, MissingShards.find(together, data), 0, id)
    fill(separate[0], live[0], data)
    embed(separate[1:], lambda k: live[1], MissingShards.find(separate[1:], data).part(1, 2), 0, id)
    stamp = separate[1].file(data.indexes[1].path).stat().st_mtime_ns
    missing = MissingShards.find(separate, data)
    assert missing.missing_in == ((1,),) and missing.samples(0) == 0 and missing.samples(1) == 5
    assert "packaged/efficientnet_lite1 76.9 kB (5 images, 3 views, 1280 × fp32)" in describe_space(separate, missing)
    embed(separate, live.__getitem__, missing, 1, id)
    assert separate[1].file(data.indexes[1].path).stat().st_mtime_ns == stamp, "files that exist are not rewritten"
    for a, b in zip(together, separate, strict=True):
        for index in data.indexes:
            x, y = (load_file(cache.file(index.path)) for cache in (a, b))
            torch.testing.assert_close(x["embeddings"], y["embeddings"], rtol=1e-5, atol=1e-5)
    data.close()


def other_table(card: teachers.Card, folder: Path) -> TeacherTable:
    return table(folder, name=card.name)


def test_too_little_disk_space_is_an_error_and_partial_files_are_removed(
    tmp_path: Path, data: Shards, teacher: teachers.Teacher
) -> None:
    huge = ViewCache(table(tmp_path / "cache", views=10**12), CARD, VIEWS)
    with pytest.raises(UserError, match=r"takes .* TB, and .* has .* left. Name another folder as teacher.N.cache"):
        check_space([huge], MissingShards.find([huge], data))
    cache = ViewCache(table(tmp_path / "real"), CARD, VIEWS)
    fill(cache, teacher, data)
    path = cache.file(data.indexes[0].path)
    path.unlink()
    torn = path.with_name(f".{path.name}.{socket.gethostname()}~999999999~.tmp")  # no process has this id
    others = path.with_name(f".{path.name}.another.host~1~.tmp")  # may still be in use
    for partial in (torn, others):
        partial.write_bytes(b"half")
    fill(cache, teacher, data)
    assert path.is_file() and not torn.exists() and others.exists()
    data.close()


def test_teachers_with_the_same_name_have_separate_caches_and_distinct_names(tmp_path: Path, recipe: Path) -> None:
    """Two folders of one name are two teachers, each with a cache; the same teacher twice has two names in a run."""
    cache_folders = set()
    for letter in "ab":
        folder = tmp_path / letter / "enc"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"architecture": "resnet18"}')
        (folder / "model.safetensors").write_bytes(letter.encode())
        card = teachers.card(str(folder))
        cache_folders.add(
            ViewCache(table(folder, name=str(folder), cache="auto"), card, VIEWS).folder(tmp_path / "x.tar")
        )
    assert len(cache_folders) == 2
    twice = recipe.read_text().replace("[student]", f'[[teacher]]\nname = "{CARD.name}"\nviews = 2\n\n[student]', 1)
    recipe.write_text(twice)
    checked = load(str(recipe))
    resolved = resolve(checked)
    assert [teacher.name for teacher in resolved.teachers] == [CARD.name, f"{CARD.name} (2)"]
    assert [teacher.name for teacher in resolved.cached] == [CARD.name, f"{CARD.name} (2)"]
