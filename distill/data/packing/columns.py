"""The columns of a table: which hold pictures and captions, and the row that a table's line gives."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.data.captions import Caption, captions_in
from distill.data.packing.row import ADDRESS, Row, file_row
from distill.data.packing.source import Options, listed, say
from distill.errors import UserError, did_you_mean

# Usual names, which are looked for in this order; capitals do not matter.
IMAGE_COLUMNS = (
    *("image", "filepath", "file_name", "filename", "file", "path", "file_path", "image_path", "image_file"),
    *("image_name", "image_filename", "img", "img_path", "picture", "photo", "local_path", "url", "image_url", "uri"),
)
CAPTION_COLUMNS = (
    *("caption", "captions", "title", "text", "texts", "description", "sentence", "sentences", "comment"),
    *("alt_text", "alt", "prompt", "raw"),
)
LANGUAGE_COLUMNS = ("language", "lang")
CLASS_COLUMNS = ("label", "class", "cls")  # kept for evaluations
LANGUAGES = frozenset(
    "aa ab af am ar as az ba be bg bn bo br bs ca co cs cy da de dv dz el en eo es et eu fa fi fil fj fo fr fy ga "
    "gd gl gn gu ha haw he hi hr ht hu hy id ig is it iw ja jv ka kk km kn ko ku ky la lb ln lo lt lv mg mi mk ml "
    "mn mr ms mt my nb ne nl nn no oc om or pa pl ps pt qu quz rm ro ru rw sa sd se si sk sl sm sn so sq sr st su "
    "sv sw ta te tg th ti tk tl tn to tr tt ug uk ur uz vi vo wo xh yi yo yue zh zu".split()
)
# Languages' codes that more often mean something else: caption_id, caption_no.
DOUBTFUL = frozenset({"id", "no", "is", "or", "to", "so"})


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        image: of pictures.
        captions: of captions, each with the language that its name says, or "".
        language: of the captions' language; "" if there is none.
        kept: whose values become entries of the sample's JSON.
    """

    image: str
    captions: tuple[tuple[str, str], ...]
    language: str = ""
    kept: tuple[str, ...] = ()

    @classmethod
    def find(cls, table: Path, names: Sequence[str], options: Options, example: Mapping[str, Any]) -> Columns:
        """The columns of a table, by the options or by usual names. What is read and what is not is said to the user.

        Args:
            table: for messages.
            names: of its columns.
            options: may name columns.
            example: its first line.

        Raises:
            UserError: if there is none for pictures or none for captions, or the pictures are web addresses.
        """
        image = image_column(table, names, options, example)
        if options.captions:
            own = tuple((find_column(table, names, (name,), "--caption"), "") for name in options.captions)
            captions = tuple((name, language_of(name, names, example)[1]) for name, _ in own)
        else:
            captions = usual_captions([name for name in names if name != image], example)
            if not captions:
                find_column(table, names, CAPTION_COLUMNS, "--caption")
        language = match(names, LANGUAGE_COLUMNS) or ""
        kept = [find_column(table, names, (name,), "--keep") for name in options.keep]
        read = [image, *(name for name, _ in captions), *([language] if language else [])]
        kept += [name for name in CLASS_COLUMNS if name in names and name not in (*read, *kept)]
        read += kept
        rest = [name for name in names if name and name not in read]
        say(
            f"{table}: pictures from '{image}', captions from {listed(read[1 : 1 + len(captions)])}"
            + (f", their language from '{language}'" if language else "")
            + (f"; kept: {listed(kept)}" if kept else "")
            + (f"; not read: {listed(rest)}" if rest else "")
        )
        return cls(image, captions, language, tuple(kept))

    def row(self, entry: Mapping[str, Any], root: Path, where: str, **fields: Any) -> Row:
        """The row that a line of the table gives.

        Args:
            entry: the line's values, by column.
            root: the folder that paths are relative to.
            where: the line's place, for messages.
            fields: further ones of :class:`~distill.data.packing.row.Row`.
        """
        value = entry.get(self.image)
        value = value.get("path") if isinstance(value, dict) else value
        if value is not None and not isinstance(value, str):
            return Row("", where=where, problem=f"'{self.image}' is no path: {value!r:.60}", **fields)
        row = file_row(value or "", root, where=where, **fields)
        return row if row.problem else self.with_captions(row, entry)

    def with_captions(self, row: Row, entry: Mapping[str, Any]) -> Row:
        """A row with the captions of a line of the table, or with the reason why they cannot be read."""
        language = entry.get(self.language) if self.language else ""
        found: list[Caption] = []
        for name, own in self.captions:
            try:
                found += captions_in(unfolded(entry.get(name)), own or str(language or "").strip())
            except (ValueError, RecursionError) as error:
                return row.with_problem(f"'{name}' cannot be read: {error}")
        kept = {name: entry[name] for name in self.kept if entry.get(name) not in (None, "")}
        return replace(row, about={**row.about, **kept}).with_captions(found)


def unfolded(value: Any) -> Any:
    """What a cell of a table holds: a list or table that was written as text, in JSON or as Python prints it, is one.

    pandas writes lists of captions that way. Anything else is what it is.
    """
    if not isinstance(value, str) or not (text := value.strip()) or text[0] + text[-1] not in ("[]", "{}"):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        values = list(found.values()) if isinstance(found, dict) else found
        if isinstance(values, list) and values and all(isinstance(one, str) and one.strip() for one in values):
            return found
    return value


def image_column(table: Path, names: Sequence[str], options: Options, example: Mapping[str, Any]) -> str:
    """The column of pictures: the first one with a usual name that holds no web addresses.

    Raises:
        UserError: if there is none.
    """
    usual = [name for one in IMAGE_COLUMNS if (name := match(names, (one,)))]
    wanted = [options.image] if options.image else usual or IMAGE_COLUMNS
    column = find_column(table, names, wanted, "--image")
    if is_web_address(example.get(column)) and not options.image:
        column = next((name for name in usual if example.get(name) and not is_web_address(example[name])), column)
    if is_web_address(example.get(column)):
        raise UserError(
            f"The column '{column}' of {table} holds web addresses, and pack reads files.",
            "Download the pictures first: img2dataset makes shards of such a table, which distill reads.",
        )
    return column


def is_web_address(value: Any) -> bool:
    """Whether a value is an address of something that is no file of this machine."""
    address = ADDRESS.match(value.strip()) if isinstance(value, str) else None
    return address is not None and address[1].lower() != "file"


def match(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted columns that a table has, capitals aside; None if it has none."""
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    return next((by_lower[name.lower()] for name in wanted if name.lower() in by_lower), None)


def find_column(table: Path, names: Sequence[str], wanted: Sequence[str], option: str) -> str:
    """The first of the wanted columns that a table has.

    Args:
        table: for the error.
        names: of its columns.
        wanted: an exact match counts before one that differs in capitals.
        option: of the command line by which another column can be named.

    Raises:
        UserError: if there is none.
    """
    found = next((name for name in wanted if name in names), None) or match(names, wanted)
    if found:
        return found
    shown = listed([name for name in names if name])
    raise UserError(
        f"{table} has no column '{wanted[0]}'.",
        did_you_mean(wanted[0], names, f"Its columns are {shown}: name one with {option}."),
    )


def usual_captions(names: Sequence[str], example: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The columns of captions by usual names, with their languages.

    These are, for the first usual name of which there are any: the column of that name, those with a number behind it
    (caption_0, caption_1 …) in the order of the numbers, and those with a language behind it (caption_en).
    """
    for base in CAPTION_COLUMNS:
        own = [(name, "") for name in names if name.lower() == base]
        numbered = [
            (int(found[1]), name) for name in names if (found := re.fullmatch(rf"(?i){base}[ _.-]?(\d+)", name))
        ]
        languages = [language_of(name, names, example, base) for name in names]
        spoken = [(name, language) for name, language in languages if language]
        if own or numbered or spoken:
            return (*own, *((name, "") for _, name in sorted(numbered)), *spoken)
    return ()


def language_of(
    name: str, names: Sequence[str], example: Mapping[str, Any], base: str = r"[a-z]+(?:_[a-z]+)*?"
) -> tuple[str, str]:
    """(a column's name, the language it says or ""): caption_de says "de", caption-pt-BR "pt-BR".

    A code that more often means something else, as in caption_id, counts only beside another language, and where the
    column holds no numbers.
    """
    pattern = re.compile(rf"(?i){base}[ _.:-]([a-z]{{2,3}}(?:[-_][a-z0-9]{{2,4}})?)")
    codes = {n: re.split("[-_]", found[1])[0].lower() for n in names if (found := pattern.fullmatch(n))}
    code = codes.get(name, "")
    if code not in LANGUAGES:
        return name, ""
    if code in DOUBTFUL:
        sure = any(other in LANGUAGES - DOUBTFUL for other in codes.values())
        if not sure or re.fullmatch(r"[\d\s]*", str(example.get(name) or "0")):
            return name, ""
    found = pattern.fullmatch(name)
    assert found
    return name, found[1]


def check_unique(table: Path, names: Sequence[str]) -> None:
    """Raise a ``UserError`` if two columns have one name; columns without a name are not read."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise UserError(f"{table} has {listed(twice)} as the name of more than one column.", "Rename one of them.")
