"""From image files to RGB pictures: the one way in, for shards, streams, folders, tables and the Python API."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # of an image; decoded, this many take 300 MB
EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})
# By Pillow's name of a file's format. MPO is a JPEG file with further pictures behind the first one.
EXTENSION_OF = {
    **{"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"},
    **{"TIFF": "tiff", "AVIF": "avif"},
}
IGNORED_FOLDERS = frozenset({".ipynb_checkpoints", "__MACOSX"})


def decode(data: bytes) -> Image.Image:
    """An image file's bytes as RGB: rotated as its EXIF data say, transparent parts on white, of several frames the
    first.

    Raises:
        ValueError: if it does not decode or is too large; the message continues a sentence that begins "the image".
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of unusual files that it decodes all the same
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MAX_PIXELS:
                # A file of a few kilobytes can declare any size, and decoding it could use up all memory.
                raise ValueError(f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
            return as_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError("is of no format that is known") from error
    except Exception as error:  # Pillow's decoders raise many kinds on damaged files
        raise error if str(error).startswith("has ") else ValueError(f"does not decode: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image that Pillow has opened or made, as RGB: see :func:`decode`.

    Raises:
        ValueError: if its pixels are floating-point numbers, whose range is not known; as for :func:`decode`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode == "F":
        raise ValueError("has pixels that are floating-point numbers; 8 or 16 bits are read")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def extension_of(data: bytes) -> str:
    """The usual extension of an image file by its contents, whatever its name is: "jpg", "png" and so on; "" if it is
    of a format that is not in ``EXTENSION_OF``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return EXTENSION_OF.get(str(Image.open(io.BytesIO(data)).format), "")
    except Exception:  # see decode()
        return ""


def is_ignored(name: str | PurePath) -> bool:
    """Whether a path is one of the files and folders that programs leave beside data, which are never data themselves.

    These are the "._NAME" files and the folder "__MACOSX" of macOS, and Jupyter's ".ipynb_checkpoints".
    """
    return any(part.startswith("._") or part in IGNORED_FOLDERS for part in PurePath(name).parts)


def is_image_name(name: str | PurePath) -> bool:
    """Whether a path has an image file's extension and is not one of the ignored ones; capitals do not matter."""
    return PurePath(name).suffix.lower().removeprefix(".") in EXTENSIONS and not is_ignored(name)


def image_files(folder: Path) -> Iterator[Path]:
    """All image files in a folder and its subfolders, sorted by path."""
    return (path for path in files(folder) if is_image_name(path.relative_to(folder)))


def files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """All files in a folder and its subfolders that are not ignored ones, sorted by path.

    Links are followed, also to folders, but for those that lead back to a folder that they lie in.

    Args:
        folder: where to look.
        above: the real paths of the folders that it lies in, as far as they were looked at.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if is_ignored(path.name):
            continue
        if path.is_dir():
            yield from files(path, above | {real})
        elif path.is_file():
            yield path
