"""Pictures and captions on which a written export is compared with the students that it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from distill.data.captions import Captions
from distill.data.shards import Shards
from distill.data.views import PLAIN_VIEWS, decode
from distill.errors import BadSample, UserError
from distill.ship.config_file import Config
from distill.training.run import is_run, read_recipe
from distill.training.shard_set import SHARDS

COMPARED = 24  # samples
CALIBRATION = 256  # pictures from which the ranges of activations are measured
TEXTS = (
    "a red apple",
    "two dogs on a beach",
    "ein grünes Haus",
    "",
    "12 % of 3,000",
    "a photo of a very old, small boat",
)


@dataclass(frozen=True)
class Examples:
    """Inputs of the towers.

    Attributes:
        pixels: [n, 3, S, S] uint8.
        texts: captions.
        origin: what they are, for messages.
    """

    pixels: torch.Tensor
    texts: Sequence[str]
    origin: str


def examples(source: Path, config: Config, specs: Sequence[str] = ()) -> Examples:
    """Samples of the named shards, or of those that a run was trained on; without any, noise and a few texts.

    Args:
        source: the run or the export.
        config: of the towers.
        specs: names of shards.
    """
    shards = open_shards(source, specs)
    recipe = read_recipe(source) if is_run(source) else None
    captions = Captions.from_table(recipe.data) if recipe else Captions()
    pixels, texts = list[torch.Tensor](), list[str]()
    if shards is not None:
        for i in spread(len(shards), COMPARED):
            try:
                sample = shards.read(i)
                pixels.append(pixels_of(shards, i, config))
                texts += [caption.text for caption in captions.read(sample)] if config.text else []
            except BadSample:
                continue
    if len(pixels) >= 2 and (texts or not config.text):
        return Examples(torch.stack(pixels), texts, f"{len(pixels)} pictures of the data")
    side = config.image.image_size
    noise = torch.randint(0, 256, (8, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Examples(noise, TEXTS, "noise, as the data are not here")


def calibration(source: Path, config: Config, specs: Sequence[str]) -> torch.Tensor:
    """[n, 3, S, S] uint8: pictures of the named shards, or of those that a run was trained on.

    Raises:
        UserError: if there are none.
    """
    shards, found = open_shards(source, specs), list[torch.Tensor]()
    for i in spread(len(shards), CALIBRATION) if shards is not None else ():
        try:
            found.append(pixels_of(shards, i, config))  # type: ignore[arg-type]
        except BadSample:
            continue
    if not found:
        raise UserError(
            "8-bit integers need pictures, on which the range of activations is measured; the run's are not here.",
            "Name shards with --calibrate.",
        )
    return torch.stack(found)


def open_shards(source: Path, specs: Sequence[str]) -> Shards | None:
    """The named shards, or those of a run; None if it has none, or they have been moved."""
    if specs:
        return Shards.open(list(specs), quiet=True)
    if not (source / SHARDS).is_file():
        return None
    try:
        return Shards.load(source / SHARDS)
    except (UserError, OSError):
        return None


def pixels_of(shards: Shards, i: int, config: Config) -> torch.Tensor:
    """[3, S, S] uint8 of a sample; raises ``BadSample`` if it cannot be read."""
    picture = decode(shards.read(i, ["image"]))
    view = PLAIN_VIEWS.draw("", 0, picture.size)
    return view.render(picture, config.image.image_size, config.image.interpolation)


def spread(total: int, count: int) -> Iterator[int]:
    """At most ``count`` numbers below ``total``, evenly spread."""
    yield from range(0, total, 1 + (total - 1) // count)
