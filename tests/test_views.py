"""Views of images of any shape: torchvision's distribution, never squashed; old runs and caches keep their rule."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import distill, write_shards
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from distill.data.identity import identity_of_views
from distill.data.views import Views
from distill.recipe import parse
from distill.rules import NEW_RUNS, Rules
from teachers import card

SIZES = [(256, 256), (320, 240), (640, 360), (480, 240), (1000, 200), (200, 1000), (1000, 100)]
NUMBER = 3000


def shares_and_ratios(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """[n] shares of the area and [n] aspect ratios of boxes [n, 4]."""
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return widths * heights / (size[0] * size[1]), widths / heights


def ours(size: tuple[int, int], crop: tuple[float, float]) -> np.ndarray:
    views = Views(crop, flip=False)
    return np.array([views.draw(f"key {i}", 1, size).box for i in range(NUMBER)])


def torchvision_s(size: tuple[int, int], crop: tuple[float, float]) -> np.ndarray:
    torch.manual_seed(0)
    image, boxes = Image.new("RGB", size), []
    for _ in range(NUMBER):
        top, left, height, width = RandomResizedCrop.get_params(image, list(crop), [3 / 4, 4 / 3])
        boxes.append((left, top, left + width, top + height))
    return np.array(boxes)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", [(0.6, 1.0), (0.08, 1.0)])
def test_views_are_distributed_as_torchvision_draws_them(size: tuple[int, int], crop: tuple[float, float]) -> None:
    a, b = ours(size, crop), torchvision_s(size, crop)
    for mine, theirs in zip(shares_and_ratios(a, size), shares_and_ratios(b, size), strict=True):
        quantiles = np.linspace(0, 1, 21)[1:-1]
        assert np.abs(np.quantile(mine, quantiles) - np.quantile(theirs, quantiles)).max() < 0.05
    assert np.abs(a.mean(0) - b.mean(0)).max() < 0.03 * max(size)


@pytest.mark.parametrize("size", SIZES)
def test_views_show_the_share_asked_for_and_are_never_squashed(size: tuple[int, int]) -> None:
    boxes = ours(size, (0.6, 1.0))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= size).all()
    shares, ratios = shares_and_ratios(boxes, size)
    pixel = 2 / min(size)
    assert ratios.min() > 3 / 4 - pixel and ratios.max() < 4 / 3 + pixel
    # The largest share that an aspect ratio from 3:4 to 4:3 leaves room for.
    most = min(1.0, 4 / 3 * min(size) / max(size))
    assert shares.min() > min(0.6, most) - pixel


def test_a_view_is_a_function_of_key_and_number_alone() -> None:
    views = Views((0.3, 1.0), flip=True)
    first = [views.draw("a", view, (500, 200)) for view in range(50)]
    assert first == [Views((0.3, 1.0), flip=True).draw("a", view, (500, 200)) for view in range(50)]
    assert len(set(first)) > 45
    assert first[0].box == (150, 0, 350, 200) and not first[0].mirrored


def test_a_cache_says_by_which_rule_its_views_were_drawn() -> None:
    """One of the first rule is not taken for one of the second; where no crop is drawn they are the same."""

    def of(rule: int, views: int, crop: list[float]) -> dict[str, object]:
        recipe = parse({"data": {"train": ["x"], "crop": crop}, "teacher": [{"name": NAME, "views": views}]})
        return identity_of_views(
            recipe.teacher[0], card(NAME), Views(recipe.data.crop, False, rule), {"embedding": (1280,)}
        )

    assert of(1, 4, [0.6, 1.0]) != of(2, 4, [0.6, 1.0])
    assert of(1, 1, [0.6, 1.0]) == of(2, 1, [0.6, 1.0])
    assert of(1, 4, [1.0, 1.0]) == of(2, 4, [1.0, 1.0])


NAME = "packaged/efficientnet_lite0"


def test_runs_keep_the_rules_they_were_started_with() -> None:
    assert Rules.of_run({}).views == 1
    assert Rules.of_run({"rules": {"views": 2}}) == Rules(views=2, statistics=1, captions=1), "older"
    assert Rules.of_run({"rules": asdict(NEW_RUNS)}) == NEW_RUNS


def test_crop_with_one_cached_view_is_spoken_of(tmp_path, recipe) -> None:  # type: ignore[no-untyped-def]
    one = ["--set", "teacher.0.views=1", "--set", "data.flip=true"]
    assert "data.crop and data.flip have no effect" in distill("recipe", "check", recipe, *one).stdout
    assert "no effect" not in distill("recipe", "check", recipe).stdout
    live = [*one, "--set", "teacher.0.cache=none"]
    assert "no effect" not in distill("recipe", "check", recipe, *live).stdout
    write_shards(tmp_path / "own", (24,))
    words = ["--set", f"data.train={tmp_path / 'own'}", "--set", "train.steps=1", "--out", tmp_path / "run"]
    assert "data.crop and data.flip have no effect" in distill("train", recipe, *one, *words).stderr
