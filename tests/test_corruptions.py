"""Corruptions of pictures: each against its definition, at all sizes, and determined by name, severity and key."""

from __future__ import annotations

import colorsys
import io
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image
from sklearn.datasets import load_sample_image

from distill.errors import UserError
from distill.metrics import corruptions, effects
from distill.metrics.corruptions import NAMES, SEVERITIES, apply

PICTURE = np.ascontiguousarray(load_sample_image("china.jpg")[100:324, 150:374])
RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog")
PAINTING = ("gaussian_noise", "shot_noise", "impulse_noise", "snow", "frost", "fog", "brightness")
GREY = np.full((224, 224, 3), 128, dtype=np.uint8)


def distance(name: str, severity: int, picture: np.ndarray = PICTURE, key: str = "a") -> float:
    """The mean absolute change of a value, of 255."""
    return float(np.abs(apply(name, picture, severity, key).astype(float) - picture).mean())


def test_there_are_the_fifteen_corruptions_of_the_paper() -> None:
    assert len(NAMES) == 15 and {*RANDOM, "zoom_blur", "elastic_transform"} < set(NAMES)


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (33, 50), (64, 64), (224, 225)])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_keep_their_kind_and_size(name: str, shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(256, size=(*shape, 3), dtype=np.uint8)
    before = picture.copy()
    for severity in SEVERITIES:
        found = apply(name, picture, severity, "key")
        assert found.dtype == np.uint8 and found.shape == picture.shape
        image = apply(name, Image.fromarray(picture), severity, "key")
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), found)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in PAINTING])
def test_what_only_moves_or_mixes_pixels_leaves_black_and_white_pictures_as_they_are(name: str, colour: int) -> None:
    picture = np.full((40, 40, 3), colour, dtype=np.uint8)
    np.testing.assert_array_equal(apply(name, picture, 5), picture)


@pytest.mark.parametrize("name", PAINTING)
def test_what_adds_light_makes_black_pictures_brighter(name: str) -> None:
    """Fog is as bright as the picture's brightest pixel at most, and the noise of counting photons needs some."""
    black = np.zeros((40, 40, 3), dtype=np.uint8)
    assert bool(apply(name, black, 5).any()) is (name not in ("fog", "shot_noise"))


@pytest.mark.parametrize("name", NAMES)
def test_name_severity_and_key_decide_the_result(name: str) -> None:
    found = apply(name, PICTURE, 3, "one")
    np.testing.assert_array_equal(found, apply(name, PICTURE, 3, "one"))
    same = np.array_equal(found, apply(name, PICTURE, 3, "two"))
    assert same is (name not in (*RANDOM, "elastic_transform"))
    assert not np.array_equal(found, apply(name, PICTURE, 4, "one"))
    assert not np.array_equal(found, PICTURE)


def test_random_numbers_are_the_same_in_another_process() -> None:
    """Python's own hashes of strings are not."""
    code = (
        "import numpy as np; from distill.metrics.corruptions import apply; "
        "print(apply('gaussian_noise', np.full((2, 2, 3), 128, np.uint8), 1, 'ключ').ravel().tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == str(apply("gaussian_noise", GREY[:2, :2], 1, "ключ").ravel().tolist())


@pytest.mark.parametrize(
    "name",
    # The other ones have parameters that do not all grow: glass_blur, frost and fog, elastic_transform.
    ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "zoom_blur", "snow"]
    + ["brightness", "contrast", "pixelate", "jpeg_compression"],
)
def test_a_higher_severity_changes_more(name: str) -> None:
    changes = [np.mean([distance(name, severity, key=str(key)) for key in range(3)]) for severity in SEVERITIES]
    assert all(low < high for low, high in pairwise(changes)), changes


@pytest.mark.parametrize("name", ["glass_blur", "frost"])
def test_the_highest_severity_changes_more_than_the_lowest(name: str) -> None:
    assert np.mean([distance(name, 5, key=str(key)) for key in range(3)]) > 1.2 * np.mean(
        [distance(name, 1, key=str(key)) for key in range(3)]
    )


@pytest.mark.parametrize(
    "name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "fog"]
)
@pytest.mark.parametrize("severity", [1, 5])
def test_lengths_are_scaled_with_the_picture(name: str, severity: int) -> None:
    """An enlarged picture, corrupted, is about as far from the original as the picture itself, corrupted."""
    smooth = scipy.ndimage.gaussian_filter(PICTURE, (2, 2, 0))
    large = np.asarray(Image.fromarray(smooth).resize((448, 448), Image.Resampling.BICUBIC))
    changes = [np.mean([distance(name, severity, x, key=str(key)) for key in range(4)]) for x in (smooth, large)]
    assert changes[1] == pytest.approx(changes[0], rel=0.25)


@pytest.mark.parametrize("severity, deviation", [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_its_standard_deviation(severity: int, deviation: float) -> None:
    noise = apply("gaussian_noise", GREY, severity).astype(float) - 128
    assert noise.mean() == pytest.approx(0, abs=0.5)
    assert noise.std() == pytest.approx(255 * deviation, rel=0.01)


def test_shot_noise_is_poisson_noise() -> None:
    """Its variance is the mean divided by the counts of white: 128 / 255 / 60."""
    noise = apply("shot_noise", GREY, 1).astype(float) / 255
    assert noise.mean() == pytest.approx(128 / 255, rel=0.01)
    assert noise.var() == pytest.approx(128 / 255 / 60, rel=0.03)
    assert set(np.unique(np.rint(apply("shot_noise", GREY, 5) / 255 * 3))) == {0, 1, 2, 3}


def test_impulse_noise_makes_a_share_of_values_black_or_white() -> None:
    found = apply("impulse_noise", GREY, 4)
    assert np.mean(found == 0) == pytest.approx(0.17 / 2, rel=0.03)
    assert np.mean(found == 255) == pytest.approx(0.17 / 2, rel=0.03)
    assert np.mean(found == 128) == pytest.approx(0.83, rel=0.01)


def test_defocus_makes_a_point_a_disk() -> None:
    picture = np.zeros((224, 224, 3), dtype=np.uint8)
    picture[109:116, 109:116] = 255  # a square of 7 × 7, larger than the disk of radius 3 (29 pixels and some in part)
    found = apply("defocus_blur", picture, 1)
    assert found[112, 112].tolist() == [255] * 3
    down, right = np.nonzero(found[:, :, 0])
    assert down.min() == 106 and right.max() == 118
    assert int(found.sum()) == pytest.approx(int(picture.sum()), rel=0.01)
    assert effects.disk(3).sum() == pytest.approx(1) and np.count_nonzero(effects.disk(3)) == 37


@pytest.mark.parametrize("angle, towards", [(0, (0, 1)), (90, (1, 0)), (-90, (-1, 0)), (180, (0, -1))])
def test_motion_makes_a_point_a_line_that_fades(angle: float, towards: tuple[int, int]) -> None:
    kernel = effects.line(radius=5, deviation=4, angle=angle)
    centre = kernel.shape[0] // 2
    along = np.array([kernel[centre + i * towards[0], centre + i * towards[1]] for i in range(11)])
    assert kernel.sum() == pytest.approx(1) and along.sum() > 0.97
    np.testing.assert_allclose(along[2:8] / along[1], np.exp(-(np.arange(2, 8) ** 2 - 1) / 32), rtol=0.05)


def test_blurring_equals_a_plain_convolution() -> None:
    pixels, kernel = np.random.default_rng(2).random((20, 30, 3)), np.random.default_rng(3).random((5, 9))
    expected = scipy.ndimage.convolve(pixels, kernel[..., None], mode="reflect")
    np.testing.assert_allclose(effects.blurred(pixels, kernel), expected, atol=1e-12)


def test_brightness_adds_to_the_value_of_hsv() -> None:
    picture = np.random.default_rng(4).integers(256, size=(30, 30, 3), dtype=np.uint8)
    picture[0] = 0
    found = apply("brightness", picture, 2)
    for row in range(0, 30, 3):
        for before, after in zip(picture[row], found[row], strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
            expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2)))
            np.testing.assert_allclose(after, 255 * expected, atol=0.5 + 1e-9)


def test_contrast_keeps_a_share_of_the_distance_from_the_mean() -> None:
    mean = PICTURE.mean(axis=(0, 1))
    np.testing.assert_allclose(apply("contrast", PICTURE, 4), mean + 0.1 * (PICTURE - mean), atol=0.5 + 1e-9)


def test_pixelation_and_jpeg_are_those_of_pillow() -> None:
    image = Image.fromarray(PICTURE)
    small = image.resize((56, 56), Image.Resampling.BOX).resize((224, 224), Image.Resampling.BOX)
    np.testing.assert_array_equal(apply("pixelate", PICTURE, 5), np.asarray(small))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=15)
    np.testing.assert_array_equal(apply("jpeg_compression", PICTURE, 3), np.asarray(Image.open(file)))


def test_zooming_enlarges_the_middle() -> None:
    places = np.indices((41, 61))[..., None] / 100.0
    found = effects.zoomed(places[0], 2)
    np.testing.assert_allclose(found[:, :, 0], (0.2 + (places[0] - 0.2) / 2)[:, :, 0], atol=1e-12)


def test_the_affine_map_moves_corners_where_it_is_told_to() -> None:
    """A ramp shows from which place each pixel was taken."""
    ramp = np.moveaxis(np.indices((61, 61)).astype(float), 0, 2)  # [H, W, (row, column)]
    corners = np.array([[3.0, -2.0], [1.0, 4.0], [-2.0, 0.0]])
    found = effects.moved(ramp, np.zeros((2, 61, 61)), corners)
    for was, by in zip(30 + 61 / 3 * np.array([[1, 1], [1, -1], [-1, -1]]), corners, strict=True):
        now = scipy.ndimage.map_coordinates(found[..., 0], (was + by)[:, None], order=1)[0]
        assert now == pytest.approx(was[0], abs=1e-6)
        now = scipy.ndimage.map_coordinates(found[..., 1], (was + by)[:, None], order=1)[0]
        assert now == pytest.approx(was[1], abs=1e-6)
    unmoved = effects.moved(ramp, np.ones((2, 61, 61)), np.zeros((3, 2)))
    np.testing.assert_allclose(unmoved[:-1, :-1], ramp[:-1, :-1] + 1, atol=1e-9)


def test_fog_never_makes_a_picture_brighter_than_it_was() -> None:
    for severity in SEVERITIES:
        found = apply("fog", PICTURE // 2, severity)
        assert found.max() <= (PICTURE // 2).max()
        assert found.std() < (PICTURE // 2).std()


@pytest.mark.parametrize("decline", [1.0, 2.0, 3.0])
def test_fractal_noise_is_from_0_to_1_and_has_the_amplitudes_asked_for(decline: float) -> None:
    noise = effects.fractal((256, 256), np.random.default_rng(5), decline)
    assert noise.min() == 0 and noise.max() == 1
    assert effects.fractal((50, 80), np.random.default_rng(5), decline).shape == (50, 80)
    periods = np.hypot(*np.meshgrid(np.fft.fftfreq(256, 1 / 256), np.fft.fftfreq(256, 1 / 256)))
    some = (periods >= 4) & (periods <= 100)
    slope = np.polyfit(np.log(periods[some]), np.log(np.abs(np.fft.fft2(noise))[some]), 1)[0]
    assert slope == pytest.approx(-decline, abs=0.05)


def test_what_cannot_be_applied_is_refused() -> None:
    with pytest.raises(UserError, match="There is no corruption 'fogg'. Did you mean 'fog'?"):
        apply("fogg", PICTURE, 1)
    for severity in (0, 6):
        with pytest.raises(UserError, match="It must be 1, 2, 3, 4 or 5"):
            apply("fog", PICTURE, severity)
    for refused in (PICTURE / 255, PICTURE[..., 0], PICTURE[..., :2], PICTURE[:0]):
        with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
            apply("fog", refused, 1)


def test_without_scipy_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.signal", None)  # importing it is an ImportError now
    with pytest.raises(UserError, match=r"need SciPy. Run: pip install 'distill\[evals\]'"):
        apply("defocus_blur", PICTURE, 1)


def test_every_corruption_has_five_severities() -> None:
    assert {len(values) for values in corruptions.CORRUPTIONS.values()} == {5}
