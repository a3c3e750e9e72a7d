"""All cards, and the one with a given name.

Cards come from the modules of this package and from other installed packages. Another package declares an entry point
of the group ``distill.teachers`` that loads a :class:`Card`, a sequence of cards, or a module or other object with
``CARDS``::

    [project.entry-points."distill.teachers"]
    mine = "my_package.cards"
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points

from teachers.card import Card
from teachers.hub import timm_card
from teachers.local import is_path, local_towers

ENTRY_POINTS = "distill.teachers"


@functools.cache
def installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of other packages on ``sys.path``. Finding them takes a tenth of a second."""
    return tuple(entry_points(group=ENTRY_POINTS))


def cards() -> list[Card]:
    """Every card, sorted by name.

    Raises:
        ImportError: if the cards of another package cannot be loaded.
        ValueError: if an entry point loads something else, a name is not GROUP/NAME, or two cards have the same name.
    """
    by_name: dict[str, tuple[Card, str]] = {}
    for card, origin in [*own_cards(), *other_cards()]:
        known, known_origin = by_name.setdefault(card.name, (card, origin))
        if known is not card:
            raise ValueError(
                f"Two teachers are called '{card.name}': one of {known_origin} and one of {origin}. "
                "Uninstall one of the packages, or rename its card."
            )
    return [by_name[name][0] for name in sorted(by_name)]


def own_cards() -> Iterator[tuple[Card, str]]:
    """(card, module) for the ``CARDS`` of every module of this package."""
    package = importlib.import_module("teachers")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"teachers.{info.name}")
        for card in getattr(module, "CARDS", []):
            yield card, module.__name__


def other_cards() -> Iterator[tuple[Card, str]]:
    """(card, package and object) for the cards of other installed packages, see the top of this file.

    Raises:
        ImportError: if an entry point cannot be loaded.
        ValueError: if it loads something else than cards, or a card's name is not GROUP/NAME.
    """
    for point in installed(tuple(sys.path)):
        package = point.dist.name if point.dist else "a package"
        origin = f"{package} ({point.value})"
        for card in load_cards(point, origin):
            group, slash, name = card.name.partition("/")
            if not (group and slash and name) or is_path(card.name) or group == "timm":
                raise ValueError(
                    f"A teacher of {origin} is called '{card.name}'. Name it GROUP/NAME, with another group than timm."
                )
            yield card, origin


def load_cards(point: EntryPoint, origin: str) -> Sequence[Card]:
    """The cards that an entry point of another package loads.

    Args:
        origin: how errors name it.

    Raises:
        ImportError: if it cannot be loaded.
        ValueError: if it loads something else than cards.
    """
    try:
        loaded = point.load()
    except Exception as error:  # importing a module of another package can raise anything
        raise ImportError(
            f"The teachers of {origin} cannot be loaded: {error}. Repair or uninstall that package."
        ) from error
    if isinstance(loaded, Card):
        return [loaded]
    found = getattr(loaded, "CARDS", loaded)
    if not isinstance(found, Sequence) or not all(isinstance(card, Card) for card in found):
        raise ValueError(
            f"The entry point '{point.name}' of {origin} is neither a Card, nor a sequence of them, nor an object "
            "with CARDS. Correct or uninstall that package."
        )
    return found


def card(name: str) -> Card:
    """The card called ``name``. ``timm/ARCH`` gives a card for any timm model, a path one for a folder: that of its
    image tower, or of its text tower if it has no other.

    Raises:
        LookupError: if there is no such teacher; the message has the most similar names.
        ImportError: if the cards of another package cannot be loaded.
        ValueError: if the folder is not an encoder's, or the cards of another package are not valid.
    """
    return towers(name)[0]


def towers(name: str, tower: str = "") -> tuple[Card, ...]:
    """The cards of the towers of a teacher, for ``name`` see :func:`card`.

    Args:
        tower: "image", "text", or "both", the image tower first; "" for the image tower, or else the text tower.

    Raises:
        ValueError: if it has no such tower, and what :func:`card` raises.
    """
    if is_path(name):
        found = local_towers(name)
    else:
        only = named_card(name)
        found = {only.modality: lambda: only}
    wanted = {"": [*found][:1], "both": ["image", "text"]}.get(tower, [tower])
    if missing := [modality for modality in wanted if modality not in found]:
        raise ValueError(
            f"The teacher '{name}' has no {missing[0]} tower, only that of {' and '.join(found)}s. Leave out "
            "teacher.N.tower, or name the folder of a CLIP or SigLIP."
        )
    return tuple(found[modality]() for modality in wanted)


def named_card(name: str) -> Card:
    """The card of a name that is no path; raises like :func:`card`."""
    if name.startswith("timm/"):
        return timm_card(name)
    known = {card.name: card for card in cards()}
    if name not in known:
        raise LookupError(f"There is no teacher '{name}'. {suggest(name, list(known))}")
    return known[name]


def is_card_name(name: str) -> bool:
    """Whether a name has the form of a teacher's, ``GROUP/NAME`` with a group that there is, and is no path."""
    group, slash, _ = name.partition("/")
    return bool(slash) and (group == "timm" or group in {card.name.partition("/")[0] for card in cards()})


def suggest(name: str, known: list[str]) -> str:
    """The remedy for an unknown name.

    Names with a similar spelling, names that contain its last part, or else a list of the groups.
    """
    last_parts, last = {other.split("/")[1]: other for other in known}, name.rpartition("/")[2]
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.6) + [
        other for other in known if len(last) > 2 and last in other
    ]
    similar += [last_parts[part] for part in difflib.get_close_matches(last, list(last_parts), n=3, cutoff=0.6)]
    if similar:
        return f"Did you mean {' or '.join(dict.fromkeys(similar[:3]))}?"
    groups = sorted({other.split("/")[0] for other in known})
    return (
        f"Teachers are called GROUP/NAME, with the groups {', '.join(groups)}; or timm/ARCH, or the path of a folder, "
        "./FOLDER. 'distill teachers list' lists them."
    )
