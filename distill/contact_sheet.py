"""Contact sheets: queries and the best results of models for them, as one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from distill.files import write_whole

CELL, GAP, LABEL, LINE = 96, 12, 190, 18  # pixels
SMALL = 72  # side of a picture where two models' answers stand beside each other
HEADING = 52  # height of a section's title and of the names of its columns
ACROSS = 5  # pictures in a row of the answers to one query
RIGHT, WRONG, INK = "#1a7f37", "#c9c9c9", "#1f2328"


@dataclass(frozen=True)
class Answers:
    """The images that a model finds for a text, best first.

    Attributes:
        images: the results.
        right: for each result, whether it is correct.
    """

    images: Sequence[Image.Image]
    right: Sequence[bool]


@dataclass(frozen=True)
class Section:
    """Queries of one kind.

    Attributes:
        title: what they are.
        models: the names of the models.
        rows: each query with the answers of every model.
    """

    title: str
    models: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Answers]]]


def write_sheet(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the sheet as a PNG: a query in each row, and beside it the answers of every model, correct ones in green.

    Args:
        path: where to.
        title: the sheet's first line.
        sections: one below the other.
    """
    step, font = SMALL + GAP, ImageFont.load_default(size=14)
    answers = max((len(one.images) for part in sections for _, row in part.rows for one in row), default=0)
    block = answers * step + 2 * GAP
    width = LABEL + max((len(part.models) for part in sections), default=0) * block + GAP
    height = 40 + sum(HEADING + len(part.rows) * step for part in sections) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, fill=INK, font=ImageFont.load_default(size=16))
    y = 40
    for part in sections:
        draw.text((GAP, y + 4), part.title, fill=INK, font=font)
        for column, model in enumerate(part.models):
            draw.text((LABEL + column * block, y + 4 + LINE + 4), model, fill=INK, font=font)
        y += HEADING
        for query, row in part.rows:
            for line, text in enumerate(wrap(query, LABEL - 2 * GAP, font)[:4]):
                draw.text((GAP, y + SMALL / 2 - LINE + line * LINE), text, fill=INK, font=font)
            for column, found in enumerate(row):
                for number, (image, right) in enumerate(zip(found.images, found.right, strict=True)):
                    place = LABEL + column * block + number * step
                    paste_framed(sheet, draw, image, place, y, RIGHT if right else WRONG, SMALL)
            y += step
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
    sheet: Image.Image, draw: ImageDraw.ImageDraw, image: Image.Image, x: int, y: int, colour: str, side: int = CELL
) -> None:
    """Draw an image of ``side`` pixels with a frame, its upper left corner at (x, y)."""
    sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (x, y))
    draw.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), outline=colour, width=3)


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
