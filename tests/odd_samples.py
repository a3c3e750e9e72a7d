"""Unusual samples as found on the web, unusable and usable ones. Each function makes the sample of a given key."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Callable

import numpy as np
from conftest import encoded, sample
from PIL import Image

Members = list[tuple[str, bytes]]


def plain(key: str) -> Members:
    return sample(key, "circle", "red", int(key))


def with_image(data: Callable[[], bytes], extension: str = "png") -> Callable[[str], Members]:
    made = functools.cache(data)
    return lambda key: [(f"{key}.{extension}", made()), *plain(key)[1:]]


def with_text(data: bytes) -> Callable[[str], Members]:
    return lambda key: [plain(key)[0], (f"{key}.txt", data)]


def base() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def bomb() -> bytes:
    """A PNG of less than a hundred bytes whose header states 50,000 × 50,000 pixels."""
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def animated() -> bytes:
    out = io.BytesIO()
    base().save(out, "WEBP", save_all=True, append_images=[base().rotate(90)], duration=50)
    return out.getvalue()


def rotated_by_exif() -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    base().save(out, "JPEG", exif=exif)
    return out.getvalue()


UNUSABLE: dict[str, Callable[[str], Members]] = {
    "image cut off": with_image(lambda: encoded(base())[:300]),
    "image empty": with_image(lambda: b""),
    "image of random bytes": with_image(lambda: bytes(range(256)) * 4),
    "text under the name of an image": with_image(lambda: b"a photo of nothing", "jpg"),
    "image under an unknown extension": with_image(lambda: encoded(base()), "heic"),
    "no image": lambda key: plain(key)[1:],
    "no caption": lambda key: plain(key)[:1],
    "caption empty": with_text(b"  \n"),
    "caption of invalid UTF-8": with_text(b"caf\xe9 \xff\xfe"),
    "captions in broken JSON": lambda key: [plain(key)[0], (f"{key}.json", b'{"captions": ["a')],
    "JSON nested 100,000 deep": lambda key: [plain(key)[0], (f"{key}.json", b"[" * 100_000)],
    "decompression bomb, 50,000 × 50,000 claimed": with_image(bomb),
    "picture of 20,000 × 20,000": with_image(lambda: encoded(Image.new("1", (20_000, 20_000)))),
}
USABLE: dict[str, Callable[[str], Members]] = {
    "JPEG under the name of a PNG": with_image(lambda: encoded(base(), "JPEG")),
    "CMYK": with_image(lambda: encoded(base().convert("CMYK"), "JPEG"), "jpg"),
    "16 bits of grey": with_image(lambda: encoded(Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16)))),
    "palette": with_image(lambda: encoded(base().convert("P"))),
    "animation": with_image(animated, "webp"),
    "EXIF rotation": with_image(rotated_by_exif, "jpg"),
    "picture of 1 × 1": with_image(lambda: encoded(Image.new("RGB", (1, 1)))),
    "caption of 1 MB": with_text(b"a red circle " * 80_000),
    "duplicate key": lambda key: [*plain(key), (f"{key}.png", encoded(base()))],
}
