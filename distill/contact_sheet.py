"""Contact sheets: queries and the best results of a model for them, as one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from distill.files import write_whole

CELL, GAP, LABEL, LINE = 96, 12, 250, 18  # pixels
ACROSS = 5  # pictures in a row of the answers to one query
RIGHT, WRONG, INK = "#1a7f37", "#c9c9c9", "#1f2328"


@dataclass(frozen=True)
class ImageAnswers:
    """A text and the images that a model finds for it, best first.

    Attributes:
        query: the text.
        images: the results.
        right: for each result, whether it is correct.
    """

    query: str
    images: Sequence[Image.Image]
    right: Sequence[bool]


@dataclass(frozen=True)
class TextAnswers:
    """An image and the texts that a model finds for it, best first.

    Attributes:
        query: the image.
        texts: the results.
        right: for each result, whether it is correct.
    """

    query: Image.Image
    texts: Sequence[str]
    right: Sequence[bool]


def write_sheet(path: Path, title: str, searches: Sequence[ImageAnswers], names: Sequence[TextAnswers]) -> None:
    """Write the sheet as a PNG.

    Args:
        path: where to.
        title: the sheet's first line.
        searches: texts with the images found for them, one in each row.
        names: images with the texts found for them, two in each row, below the searches. Correct results are green.
    """
    columns = max((len(s.images) for s in searches), default=0)
    width = max(LABEL + columns * (CELL + GAP), 720) + GAP
    rows = len(searches) + -(-len(names) // 2)
    sheet = Image.new("RGB", (width, 40 + rows * (CELL + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    draw.text((GAP, GAP), title, fill=INK, font=ImageFont.load_default(size=16))
    y = 40
    for search in searches:
        for line, text in enumerate(wrap(search.query, LABEL - 2 * GAP, font)[:4]):
            draw.text((GAP, y + CELL / 2 - LINE + line * LINE), text, fill=INK, font=font)
        for column, (image, right) in enumerate(zip(search.images, search.right, strict=True)):
            paste_framed(sheet, draw, image, LABEL + column * (CELL + GAP), y, RIGHT if right else WRONG)
        y += CELL + GAP
    for number, name in enumerate(names):
        x = GAP + (number % 2) * (width // 2)
        paste_framed(sheet, draw, name.query, x, y, WRONG)
        for line, (text, right) in enumerate(zip(name.texts, name.right, strict=True)):
            first_line = wrap(text, width // 2 - CELL - 4 * GAP, font)[0]
            draw.text((x + CELL + GAP, y + 4 + line * LINE), first_line, fill=RIGHT if right else INK, font=font)
        y += (CELL + GAP) * (number % 2)
    write_whole(path, lambda to: sheet.save(to, "PNG"))


def write_answers(path: Path, title: str, pictures: Sequence[Image.Image], names: Sequence[str]) -> None:
    """Write the pictures that were found for one query as a PNG, best first, each with the end of its name.

    Args:
        path: where to.
        title: the sheet's first line.
        pictures: five in a row.
        names: of the pictures.
    """
    rows = -(-len(pictures) // ACROSS)
    step = CELL + GAP + LINE
    font = ImageFont.load_default(size=11)
    sheet = Image.new("RGB", (ACROSS * (CELL + GAP) + GAP, 40 + rows * step + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, fill=INK, font=ImageFont.load_default(size=16))
    for number, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x, y = GAP + number % ACROSS * (CELL + GAP), 40 + number // ACROSS * step
        paste_framed(sheet, draw, picture, x, y, WRONG)
        short = name
        while font.getlength(short) > CELL:
            short = short[1:]
        draw.text((x, y + CELL + 3), short, fill=INK, font=font)
    write_whole(path, lambda to: sheet.save(to, "PNG"))


def paste_framed(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image, x: int, y: int, colour: str
) -> None:
    """Draw an image of ``CELL`` pixels with a frame, its upper left corner at (x, y)."""
    sheet.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (x, y))
    draw.rectangle((x - 3, y - 3, x + CELL + 2, y + CELL + 2), outline=colour, width=3)


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The text in lines of at most ``width`` pixels, broken at spaces; a longer word is a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
