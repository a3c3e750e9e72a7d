"""Augmented views: torchvision's functions with keyed random numbers, the same for teacher, cache and student."""

from __future__ import annotations

import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import distill, noise, write_shards
from PIL import Image
from torchvision.transforms import v2

import teachers
from distill.augment_table import Augment
from distill.data.augmentations import RAND_AUGMENT, Operation, draw, rand_augment_operation
from distill.data.augmented_pixels import FUNCTIONS, TABLES
from distill.data.augmented_pixels import apply as apply_to
from distill.data.batch import Batch
from distill.data.cache_fill import MissingShards, embed
from distill.data.captions import Captions
from distill.data.pairs import Slot
from distill.data.shards import Shards
from distill.data.teacher_inputs import PixelInput
from distill.data.transform import TrainingPair, Transform, TransformOptions
from distill.data.view_cache import ViewCache
from distill.data.views import View, Views, decode
from distill.errors import UserError
from distill.lookup import resolve
from distill.recipe import load, parse
from distill.remarks import remarks
from distill.training import caches, setup
from students import SentencePieceTokenizer

NAME = "packaged/efficientnet_lite0"
ALL = Augment(
    rand_augment=(2, 9),
    color_jitter=(0.4, 0.4, 0.2, 0.1),
    color_jitter_prob=0.8,
    grayscale_prob=0.2,
    gaussian_blur_prob=0.5,
    random_erasing_prob=0.5,
)
KINDS = {
    "rand_augment": [3, 12],
    "color_jitter": [0.4, 0.4, 0.4, 0.2],
    "grayscale_prob": 1.0,
    "gaussian_blur_prob": 1.0,
    "random_erasing_prob": 1.0,
}
NUMBER = 3000  # of draws that are compared with torchvision's


def apply(pixels: torch.Tensor, operations: tuple[Operation, ...]) -> torch.Tensor:
    """A view's pixels after all operations, with statistics of these pixels themselves."""
    return apply_to(pixels, operations, lambda side: pixels)


def picture(side: int = 256) -> Image.Image:
    """A picture with edges, colours and slopes."""
    y, x = np.mgrid[:side, :side] / side
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.06)[..., None]
    pixels = np.where(disc, [220, 60, 40], np.stack([40 + 120 * x, 60 + 150 * y, 200 - 90 * x], -1))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("number", range(len(RAND_AUGMENT)), ids=[name for name, _ in RAND_AUGMENT])
def test_operations_of_rand_augment_are_torchvisions(number: int) -> None:
    """At all signs and some magnitudes; on a side of 331 pixels torchvision's translations are whole pixels, too."""
    theirs = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=[128.0] * 3)
    name, (magnitudes, is_signed) = list(theirs._AUGMENTATION_SPACE.items())[number]
    pixels = torch.cat([noise(1, 331)[0][:2], 70 + noise(1, 331)[0][2:] // 2])  # one channel with less contrast
    for magnitude, sign in ((0, 1), (9, 1), (9, -1), (17, 1), (30, -1), (30, 1)):
        values = magnitudes(31, 331, 331)
        value = 0.0 if values is None else float(values[magnitude]) * (sign if is_signed else 1)
        expected = theirs._apply_image_or_video_transform(pixels, name, value, theirs.interpolation, theirs._fill)
        found = apply(pixels, rand_augment_operation(number, magnitude, sign))
        assert found.dtype == torch.uint8 and (found.int() - expected.int()).abs().max() <= 1, (magnitude, sign)
        assert (found != expected).float().mean() < 0.02, (magnitude, sign)  # a float32 magnitude, and truncation
        changes = name not in ("Identity", "AutoContrast", "Equalize") and magnitude > 8
        assert not changes or not torch.equal(found, pixels)


def test_rand_augment_draws_all_operations_and_signs_equally_often() -> None:
    drawn = [operation for i in range(NUMBER) for operation in draw(Augment(rand_augment=(2, 9)), f"1 key {i}")]
    counts = {name: sum(operation.name == name for operation in drawn) for name, _ in RAND_AUGMENT}
    identity = 2 * NUMBER - len(drawn)
    share = 2 * NUMBER / len(RAND_AUGMENT)
    assert counts.pop("identity") == 0
    assert all(abs(count - share) < 5 * math.sqrt(share) for count in (identity, *counts.values()))
    signs = [operation.values[0] > 0 for operation in drawn if operation.name == "rotate"]
    assert 0.4 < np.mean(signs) < 0.6


def test_color_jitter_is_torchvisions_for_the_same_factors_and_order() -> None:
    theirs, pixels = v2.ColorJitter(0.4, 0.4, 0.2, 0.1), noise(1, 32)[0]
    names = ("brightness", "contrast", "saturation", "hue")
    ours: dict[str, list[float]] = {name: [] for name in names}
    orders = set()
    for i in range(NUMBER):
        operations = draw(Augment(color_jitter=(0.4, 0.4, 0.2, 0.1)), f"1 key {i}")
        factors = {operation.name: operation.values[0] for operation in operations}
        orders.add(tuple(factors))
        for name in names:
            ours[name].append(factors[name])
        if i < 50:
            params: dict[str, Any] = {f"{name}_factor": factors[name] for name in names}
            params["fn_idx"] = torch.tensor([names.index(operation.name) for operation in operations])
            assert torch.equal(apply(pixels, operations), theirs.transform(pixels, params))
    assert len(orders) == 24
    torch.manual_seed(0)
    drawn = [theirs.make_params([pixels]) for _ in range(NUMBER)]
    quantiles = np.linspace(0, 1, 21)
    for name in names:
        expected = [params[f"{name}_factor"] for params in drawn]
        assert np.abs(np.quantile(ours[name], quantiles) - np.quantile(expected, quantiles)).max() < 0.03, name
    some = [bool(draw(Augment(color_jitter=(0.4, 0, 0, 0), color_jitter_prob=0.3), str(i))) for i in range(NUMBER)]
    assert 0.25 < np.mean(some) < 0.35


def test_erased_rectangles_are_distributed_as_torchvision_draws_them() -> None:
    boxes = [draw(Augment(random_erasing_prob=1.0), f"1 key {i}")[0].values for i in range(NUMBER)]
    left, top, right, bottom = np.array(boxes).T
    ours = [left, top, (right - left) * (bottom - top), (bottom - top) / (right - left)]
    torch.manual_seed(0)
    drawn = [v2.RandomErasing().make_params([torch.zeros(3, 1000, 1000)]) for _ in range(NUMBER)]
    i, j, h, w = np.array([[params[key] for key in "ijhw"] for params in drawn]).T
    quantiles = np.linspace(0, 1, 21)[1:-1]
    for mine, theirs in zip(ours, [j / 1000, i / 1000, h * w / 1e6, h / w], strict=True):
        a, b = np.quantile(mine, quantiles), np.quantile(theirs, quantiles)
        assert (np.abs(a - b) < 0.02 + 0.06 * b).all()
    pixels = noise(1, 40)[0]
    expected = pixels.clone()
    expected[:, 8:20, 4:30] = 128
    assert torch.equal(apply(pixels, (Operation("erase", (0.1, 0.2, 0.75, 0.5)),)), expected)


def test_grey_and_blur_are_torchvisions_and_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    pixels = torch.from_numpy(np.array(picture(112))).permute(2, 0, 1).contiguous()
    assert draw(Augment(grayscale_prob=1.0), "1 key") == (Operation("grayscale"),)
    assert torch.equal(apply(pixels, (Operation("grayscale"),)), v2.RandomGrayscale(p=1.0)(pixels))
    sigmas = [draw(Augment(gaussian_blur_prob=1.0), f"1 key {i}")[0].values[0] * 224 for i in range(NUMBER)]
    assert 0.1 <= min(sigmas) < 0.12 and 1.98 < max(sigmas) <= 2 and 1 < np.mean(sigmas) < 1.1
    for sigma in (0.3, 1.0, 2.0):
        found = apply(pixels, (Operation("gaussian_blur", (sigma / 112,)),))
        expected = ndimage.gaussian_filter(pixels.double().numpy(), (0, sigma, sigma), mode="mirror")
        assert np.abs(found.numpy() - expected).max() < 1.5 and not torch.equal(found, pixels)
    for side in (1, 2, 3):
        assert apply(noise(1, side)[0], (Operation("gaussian_blur", (0.4,)),)).shape == (3, side, side)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_torchvisions_functions_also_of_plain_and_nearly_plain_pictures(name: str) -> None:
    theirs = getattr(v2.functional, name)
    pictures = [torch.full((3, 20, 20), value, dtype=torch.uint8) for value in (0, 7, 255)]
    pictures += [torch.from_numpy(np.array(picture(side))).permute(2, 0, 1) for side in (12, 40, 100)]
    pictures += [noise(1, side)[0] // 3 + 60 for side in (2, 15, 16, 64)]
    for pixels in pictures:
        assert torch.equal(apply(pixels, (Operation(name),)), theirs(pixels))


SAME = {  # an operation, and by how many grey levels it may on average differ between resolutions
    "brightness": ((1.4,), 1.0),
    "contrast": ((1.4,), 1.0),
    "saturation": ((1.6,), 1.0),
    "hue": ((0.2,), 1.0),
    "grayscale": ((), 1.0),
    "gaussian_blur": ((2 / 224,), 1.0),
    "erase": ((0.1, 0.2, 0.7, 0.5), 1.0),
    "shear_x": ((0.3,), 1.0),
    "shear_y": ((-0.2,), 1.0),
    "translate_x": ((0.23,), 1.0),
    "translate_y": ((-0.11,), 1.0),
    "rotate": ((20.0,), 1.5),
    "sharpness": ((1.9,), 1.5),
    "posterize": ((5.0,), 1.0),
    "solarize": ((0.6,), 1.5),
    "autocontrast": ((), 1.0),
    "equalize": ((), 1.5),
}


def test_an_augmented_view_is_the_same_at_every_resolution() -> None:
    """Of every operation: at 64 pixels it shows what it shows at 256, resized; other parameters would show less."""
    assert SAME.keys() == FUNCTIONS.keys() | TABLES.keys()
    image = picture()
    for name, (values, limit) in SAME.items():
        view = View((0, 0, 256, 256), False, (Operation(name, values),))
        small, large = view.render(image, 64), view.render(image, 256)
        resized = View((0, 0, 256, 256), False).render(Image.fromarray(large.permute(1, 2, 0).numpy()), 64)
        plain = View((0, 0, 256, 256), False).render(image, 64)
        difference = float((small.float() - resized.float()).abs().mean())
        change = float((small.float() - plain.float()).abs().mean())
        assert difference < limit, (name, difference)
        assert name in ("gaussian_blur", "sharpness") or change > 2 * difference, (name, change, difference)


def test_augmentation_is_a_function_of_key_and_view_alone() -> None:
    """Not of global generators, and it leaves those alone; view 0 is plain, and crops stay what they were."""
    views, plain = Views((0.5, 1.0), True, augment=ALL), Views((0.5, 1.0), True)
    image = picture()
    torch.manual_seed(1)
    first = [views.draw("a", number, image.size).render(image, 48) for number in range(20)]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = [views.draw("a", number, image.size).render(image, 48) for number in range(20)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(not torch.equal(a, b) for a, b in pairwise(first))
    assert views.draw("a", 0, image.size) == plain.draw("a", 0, image.size)
    for number in range(20):
        drawn, crop = views.draw("a", number, image.size), plain.draw("a", number, image.size)
        assert (drawn.box, drawn.mirrored) == (crop.box, crop.mirrored)
    assert len({views.draw(f"key {i}", 1, image.size).operations for i in range(100)}) > 95


def filled(cache: ViewCache, teacher: teachers.Teacher, data: Shards) -> None:
    embed([cache], lambda k: teacher, MissingShards.find([cache], data), 0, lambda n: n)


def batch_of(pairs: Any, epoch: int, samples: range) -> Batch:
    batch = pairs.__getitems__([Slot(epoch, i, i) for i in samples])
    assert isinstance(batch, Batch), batch
    return batch


@pytest.fixture(scope="module")
def teacher() -> teachers.Teacher:
    return teachers.load(teachers.card(NAME))


TOKENIZER = SentencePieceTokenizer.train(["a red circle", "ein Kreis, rot"] * 50, 40, 8)


def two_teachers(recipe: Path, cache: Path, *settings: str) -> tuple[Any, Shards]:
    """A recipe with a cached teacher and the same one live, and its shards."""
    live = f'[[teacher]]\nname = "{NAME}"\ncache = "none"\nimage_size = 96\n\n[student]'
    if 'cache = "none"' not in recipe.read_text():
        recipe.write_text(recipe.read_text().replace("[student]", live, 1))
    cached = ["teacher.0.views=3", "teacher.0.dtype=fp32", "teacher.0.image_size=96", f"teacher.0.cache={cache}"]
    checked = load(str(recipe), [*cached, *settings])
    return resolve(checked), Shards.open(checked.data.train)


@pytest.mark.parametrize("key", KINDS)
def test_cached_rows_of_augmented_views_are_the_live_teachers(
    tmp_path: Path, recipe: Path, teacher: teachers.Teacher, key: str
) -> None:
    """In batches as training gets them, beside the student's own picture of the same view."""
    write_shards(tmp_path / "own", (12,))
    settings = [f"data.train={tmp_path / 'own'}", "data.flip=true", f"data.augment.{key}={KINDS[key]}"]
    resolved, data = two_teachers(recipe, tmp_path / "cache", *settings)
    (cache,) = caches.caches_of(resolved)
    filled(cache, teacher, data)
    pairs, closer = setup.pairs_of(resolved, data, TOKENIZER), 0
    for epoch in range(3):
        batch = batch_of(pairs, epoch, range(12))
        for i in range(12):
            image, number = decode(data.read(i)), pairs.transform.view_number(epoch, i)
            view = cache.views.draw(data.key(i), number, image.size)
            assert torch.equal(batch.inputs["image"][i], view.render(image, 32))
            own = teacher(batch.teachers[1]["image"][i])["embedding"][0]
            cached = batch.teachers[0]["embedding"][i, 0]
            assert torch.cosine_similarity(own, cached, dim=0) > 0.9999
            without = teacher(View(view.box, view.mirrored).render(image, 96)[None])["embedding"][0]
            assert number or not view.operations
            closer += (cached - own).norm() < 0.2 * (cached - without).norm()
    assert closer >= 12  # of the 24 rows of views 1 and 2; blur with a small radius changes little
    data.close()


def test_what_only_the_student_sees_leaves_teachers_and_caches_as_they_are(
    tmp_path: Path, recipe: Path, teacher: teachers.Teacher
) -> None:
    further = ["data.student_augment.rand_augment=[2, 9]", "data.student_augment.random_erasing_prob=1.0"]
    plain, data = two_teachers(recipe, tmp_path / "cache")
    strong, _ = two_teachers(recipe, tmp_path / "cache", *further)
    other_seed, _ = two_teachers(recipe, tmp_path / "cache", *further, "train.seed=7")
    (cache,) = caches.caches_of(plain)
    assert cache.identity == caches.caches_of(strong)[0].identity
    filled(cache, teacher, data)
    samples = range(0, 64, 4)
    pairs = {name: setup.pairs_of(r, data, TOKENIZER) for name, r in (("plain", plain), ("strong", strong))}
    pairs["seed"] = setup.pairs_of(other_seed, data, TOKENIZER)
    seen: dict[int, list[torch.Tensor]] = {}
    for epoch in (0, 1, 2, 3):  # epoch 3 shows the views of epoch 0 again
        batches = {name: batch_of(one, epoch, samples) for name, one in pairs.items()}
        for mine, theirs in zip(batches["plain"].teachers, batches["strong"].teachers, strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        images = {name: batch.inputs["image"] for name, batch in batches.items()}
        for n in range(len(samples)):
            assert not torch.equal(images["plain"][n], images["strong"][n])
            assert not torch.equal(images["seed"][n], images["strong"][n])
        assert torch.equal(images["strong"], batch_of(pairs["strong"], epoch, samples).inputs["image"])
        seen[epoch] = [images["plain"], images["strong"]]
    assert torch.equal(seen[0][0], seen[3][0])
    assert all(not torch.equal(a, b) for a, b in zip(seen[0][1], seen[3][1], strict=True))
    data.close()


def test_the_student_sees_its_own_changes_after_those_it_shares(shards: Path) -> None:
    data = Shards.open([str(shards)])
    drawing = TransformOptions(Captions(), Views((0.5, 1.0), True, augment=ALL), 32, seed=3, student_augment=ALL)
    transform = Transform(TOKENIZER, [PixelInput(32, "bicubic")], drawing)
    compared = 0
    for i in range(20):
        sample = data.read(i)
        pair, image = transform.pair(sample, 4, i), decode(sample)
        further = draw(ALL, f"student 3 4 {sample.key}")
        view = drawing.views.draw(sample.key, 5, image.size)
        assert pair.image is not None
        assert torch.equal(pair.teachers[0]["image"][0], view.render(image, 32))
        assert torch.equal(pair.image, view.followed_by(further).render(image, 32))
        if not {operation.name for operation in further} & TABLES.keys():
            assert torch.equal(pair.image, apply(pair.teachers[0]["image"][0], further))
            compared += len(further) > 1
    assert compared > 5
    data.close()


def test_mixup_mixes_augmented_pictures_by_the_same_share(shards: Path) -> None:
    """Teacher's pixels with the neighbour's, and the student's own pictures, augmented further, with theirs."""
    data = Shards.open([str(shards)])
    views = Views((0.5, 1.0), True, augment=ALL)
    drawing = TransformOptions(Captions(), views, 32, seed=3, mixup=0.6, student_augment=Augment(grayscale_prob=0.5))
    transform = Transform(TOKENIZER, [PixelInput(24, "bicubic")], drawing)
    pairs: list[TrainingPair] = [transform.pair(data.read(i), 2, i) for i in range(9)]
    batch = transform.collate(pairs, [])
    assert torch.equal(batch.inputs["image"], torch.stack([p.image for p in pairs[:-1] if p.image is not None]))
    shares = []
    of_teacher = batch.teachers[0]["image"][:, 0], torch.stack([pair.teachers[0]["image"][0] for pair in pairs])
    of_student = batch.inputs["mixed"], torch.stack([pair.image for pair in pairs if pair.image is not None])
    for mixed, own in (of_teacher, of_student):
        a, b, c = mixed.double(), own[:-1].double(), own[1:].double()
        share = ((a - b) * (c - b)).flatten(1).sum(1) / (c - b).square().flatten(1).sum(1)
        assert (a - torch.lerp(b, c, share.view(-1, 1, 1, 1))).abs().max() < 1
        shares.append(share)
    assert torch.allclose(*shares, atol=2e-3) and shares[0].std() > 0.05
    data.close()


def test_a_cache_knows_the_augmentation_of_its_views(tmp_path: Path, teacher: teachers.Teacher) -> None:
    def cache(views: int, augment: Augment) -> ViewCache:
        tables = {"data": {"train": ["x"]}, "teacher": [{"name": NAME, "views": views, "cache": str(tmp_path / "c")}]}
        return ViewCache(parse(tables).teacher[0], teachers.card(NAME), Views((0.5, 1.0), True, augment=augment))

    assert "augment" not in cache(3, Augment()).identity and "augment" not in cache(1, ALL).identity
    grey = Augment(grayscale_prob=0.5)
    assert cache(3, grey).identity == cache(3, Augment()).identity | {"augment": {"grayscale_prob": 0.5}}
    write_shards(tmp_path / "own", (3,))
    data = Shards.open([str(tmp_path / "own")])
    filled(cache(2, grey), teacher, data)
    assert cache(2, grey).missing(data) == []
    with pytest.raises(UserError, match=r"augment \{'grayscale_prob': 0.5\} instead of None"):
        cache(2, Augment()).missing(data)
    with pytest.raises(UserError, match="'grayscale_prob': 0.5"):
        cache(2, Augment(grayscale_prob=0.6)).missing(data)
    data.close()


@pytest.mark.parametrize(
    "setting, message",
    [
        ("augment.color_jitter=[0.4, 0.4, 0.4, 0.6]", "hue at most 0.5"),
        ("augment.color_jitter=[-0.4, 0.4, 0.4, 0.1]", "from 0 on"),
        ("augment.color_jitter=[0.4, 0.4]", "data.augment.color_jitter"),
        ("student_augment.rand_augment=[2, 31]", "magnitude from 0 to 30"),
        ("student_augment.rand_augment=[0, 9]", "such as [2, 9]"),
        ("augment.color_jitter_prob=0.5", "set that, too"),
        ("augment.grayscale_prob=1.5", "grayscale_prob"),
        ("augment.re_prob=0.5", "Write data.augment.random_erasing_prob"),
    ],
)
def test_settings_that_cannot_be_are_refused(recipe: Path, setting: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load(str(recipe), [f"data.{setting}"])
    assert message in str(error.value)


def test_augmentation_without_effect_is_spoken_of(recipe: Path) -> None:
    def said(*settings: str) -> str:
        return " ".join(remarks(resolve(load(str(recipe), list(settings)))))

    grey, own = "data.augment.grayscale_prob=0.5", "data.student_augment.grayscale_prob=0.5"
    assert said(grey) == said(own) == ""
    assert "data.crop and data.augment have no effect" in said(grey, "teacher.0.views=1")
    assert "data.augment has no effect" in said(grey, "teacher.0.views=1", "data.crop=[1.0, 1.0]")
    three = said(grey, "teacher.0.views=1", "data.flip=true")
    assert "data.crop, data.flip and data.augment have no effect" in three
    assert said(grey, "teacher.0.views=1", 'teacher.0.cache="none"') == ""
    lit = ['student.image={arch="teacher"}', "student.width=1280", "objective.name=contrastive"]
    assert "data.student_augment has no effect" in said(own, *lit)


def test_training_with_augmented_views_fills_a_cache_and_continues_with_the_same_settings(
    tmp_path: Path, recipe: Path
) -> None:
    """By the command, with a loader process; the recipe in the run says what was augmented."""
    write_shards(tmp_path / "own", (24,))
    changes = ("data.augment.rand_augment=[2, 9]", "data.student_augment.color_jitter=[0.4, 0.4, 0.2, 0.1]")
    settings = (f"data.train={tmp_path / 'own'}", "data.workers=1", "train.steps=2", *changes)
    words = [word for setting in settings for word in ("--set", setting)]
    said = distill("train", recipe, *words, "--out", tmp_path / "run")
    assert "no effect" not in said.stderr
    kept = load(str(tmp_path / "run" / "recipe.toml")).data
    assert kept.augment == Augment(rand_augment=(2, 9))
    assert kept.student_augment == Augment(color_jitter=(0.4, 0.4, 0.2, 0.1))
    other = distill(
        *("train", recipe, *words, "--set", "data.augment.rand_augment=[1, 9]", "--resume"),
        *("--out", tmp_path / "run"),
        status=2,
    )
    assert "data.augment" in other.stderr


def test_the_example_of_the_documentation_is_a_recipe() -> None:
    page = (Path(__file__).parent.parent / ".github" / "docs" / "data.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(\[data\.augment\].*?)```", page, re.S)
    data = parse(tomllib.loads(text) | {"data": {"train": ["x"]} | tomllib.loads(text)["data"]}).data
    assert data.augment == ALL.model_copy(update={"random_erasing_prob": 0.25})
    assert data.student_augment == Augment(rand_augment=(2, 9))
