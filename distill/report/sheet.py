"""A contact sheet: queries and their top answers as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from distill.files import write_whole

CELL, GAP, LABEL, LINE = 96, 12, 250, 18  # pixels
RIGHT, WRONG, INK = "#1a7f37", "#c9c9c9", "#1f2328"


@dataclass(frozen=True)
class ImageAnswers:
    """A text and the images a model finds for it, best first; ``right`` says which are right."""

    query: str
    images: Sequence[Image.Image]
    right: Sequence[bool]


@dataclass(frozen=True)
class TextAnswers:
    """An image and the texts a model finds for it, best first; ``right`` says which are right."""

    query: Image.Image
    texts: Sequence[str]
    right: Sequence[bool]


def write_sheet(path: Path, title: str, searches: Sequence[ImageAnswers], names: Sequence[TextAnswers]) -> None:
    """Write a PNG: texts with their images first, then images with their texts; right answers in green."""
    columns = max((len(s.images) for s in searches), default=0)
    width = max(LABEL + columns * (CELL + GAP), 720) + GAP
    rows = len(searches) + -(-len(names) // 2)
    sheet = Image.new("RGB", (width, 40 + rows * (CELL + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    draw.text((GAP, GAP), title, fill=INK, font=ImageFont.load_default(size=16))
    y = 40
    for search in searches:
        for line, text in enumerate(wrapped(search.query, LABEL - 2 * GAP, font)[:4]):
            draw.text((GAP, y + CELL / 2 - LINE + line * LINE), text, fill=INK, font=font)
        for column, (image, right) in enumerate(zip(search.images, search.right, strict=True)):
            paste(sheet, draw, image, LABEL + column * (CELL + GAP), y, RIGHT if right else WRONG)
        y += CELL + GAP
    for number, name in enumerate(names):
        x = GAP + (number % 2) * (width // 2)
        paste(sheet, draw, name.query, x, y, WRONG)
        for line, (text, right) in enumerate(zip(name.texts, name.right, strict=True)):
            shown = wrapped(text, width // 2 - CELL - 4 * GAP, font)[0]
            draw.text((x + CELL + GAP, y + 4 + line * LINE), shown, fill=RIGHT if right else INK, font=font)
        y += (CELL + GAP) * (number % 2)
    write_whole(path, lambda to: sheet.save(to, "PNG"))


def paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image, x: int, y: int, colour: str) -> None:
    """Put a picture into a cell with a frame."""
    sheet.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y))
    draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), outline=colour, width=3)


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of at most ``width`` pixels, broken at spaces."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
