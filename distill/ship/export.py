"""Write exports of a run or of another export, in the formats of ``ship/formats/``, and check what was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill import plugins
from distill.errors import UserError
from distill.files import write_text
from distill.ship import examples, model_card
from distill.ship.build import build
from distill.ship.config_file import CONFIG
from distill.ship.contents import Shipped
from distill.ship.export_format import BOUNDS, ExportFormat, Numbers, Opened, check_numbers
from distill.ship.from_run import shipped_students
from distill.ship.image_text import ImageText
from distill.ship.load import read_export
from distill.ship.written import Written
from distill.training.run import is_run

FORMATS = ("distill.ship.formats", "FORMAT", "distill.export_formats")  # where plugins.load finds them
CARD = "README.md"


@dataclass(frozen=True)
class Options:
    """How exports are written.

    Attributes:
        best: the best checkpoint of a run, instead of the newest one.
        dtype: in which type of floating-point number weights are stored.
        int8: store 8-bit integers, in formats that can.
        calibrate: shards for the range of activations; none means those that the run was trained on.
        compare: shards on whose samples written exports are compared; none means those that the run was trained on.
        card: what the model card says beside what the export knows.
    """

    best: bool = False
    dtype: str = "fp32"
    int8: bool = False
    calibrate: Sequence[str] = ()
    compare: Sequence[str] = ()
    card: model_card.Extra = model_card.Extra()


# From the students and what was written, by format, to numbers by name, the students' own under "".
Measure = Callable[[ImageText, Mapping[str, Opened]], Mapping[str, Mapping[str, float]]]


def formats() -> list[str]:
    """The names of all export formats, sorted."""
    return list(plugins.found(*FORMATS))


def export(
    source: Path,
    out: Path,
    names: Sequence[str] = ("distill",),
    options: Options | None = None,
    measure: Measure | None = None,
) -> list[Written]:
    """Write students to a new folder, or in several formats to a folder each below it.

    Everything is written, opened again by the library that it is for, and compared with the students, before the
    folder appears under its name.

    Args:
        source: a run, whose newest checkpoint is taken, or an export in distill's own format.
        out: the folder to create.
        names: of the formats; one is written to ``out`` itself, several to ``out/NAME``.
        options: see there.
        measure: measures the students and the written exports.

    Returns:
        What was written, in the order of ``names``; before it, if there is ``measure``, the students themselves, with
        the format "".

    Raises:
        UserError: if ``source`` is neither, or a run without a checkpoint; ``out`` exists; a format cannot hold the
            towers or the type of weights; what was written gives other embeddings than the students.
    """
    options, names = options or Options(), list(dict.fromkeys(names))
    chosen = {name: plugins.load("export format", name, *FORMATS, is_format) for name in names}
    if out.exists():
        raise UserError(f"{out} already exists.", "Choose another --out.")
    shipped = content_of(source, options.best)
    numbers = check(shipped, chosen, options)
    if options.int8:
        numbers = replace(numbers, calibration=examples.calibration(source, shipped.config, options.calibrate))
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        places = {name: unfinished / name if len(names) > 1 else unfinished for name in names}
        found = write_all(shipped, chosen, places, numbers, examples.examples(source, shipped.config, options.compare))
        written = table(shipped, found, measure)
        final = [replace(one, folder=out / one.format if len(names) > 1 else out) for one in written]
        for one in written:
            if one.format:
                card = model_card.render(shipped.config, out.name, one.format, chosen, final, options.card)
                write_text(one.folder / CARD, card)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return final


def is_format(thing: Any) -> bool:
    """Whether a thing is an export format."""
    return isinstance(thing, ExportFormat)


def content_of(source: Path, best: bool) -> Shipped:
    """The students of a run or of an export.

    Raises:
        UserError: if it is neither.
    """
    if is_run(source) or not (source / CONFIG).is_file():
        return shipped_students(source, best)
    if best:
        raise UserError(f"{source} is an export, which has no checkpoints.", "Name the run, or leave out --best.")
    return read_export(source)


def check(shipped: Shipped, chosen: Mapping[str, ExportFormat], options: Options) -> Numbers:
    """The type of the weights, if all formats can hold it and the students; raises ``UserError`` otherwise."""
    numbers = Numbers(options.dtype, options.int8)
    if options.int8 and not any(form.int8 for form in chosen.values()):
        able = [name for name in formats() if getattr(plugins.load("export format", name, *FORMATS), "int8", False)]
        raise UserError(
            f"The export format '{next(iter(chosen))}' cannot store 8-bit integers.",
            f"Choose --format {' or '.join(able)}, or leave out --int8.",
        )
    for name, form in chosen.items():
        check_numbers(name, form, numbers)
        form.check(shipped)
    return numbers


@dataclass(frozen=True)
class Made:
    """A folder that was written, and what opens it."""

    written: Written
    opened: Opened | None


def write_all(
    shipped: Shipped,
    chosen: Mapping[str, ExportFormat],
    places: Mapping[str, Path],
    numbers: Numbers,
    inputs: examples.Examples,
) -> list[Made]:
    """Write in each format, open and compare."""
    model, made = build(shipped, "cpu"), list[Made]()
    for name, form in chosen.items():
        folder, stored = places[name], form.stored(numbers)
        folder.mkdir(exist_ok=True)
        form.write(shipped, folder, numbers)
        opened = form.open(folder, shipped.config)
        difference = None if opened is None else compared(name, stored, model, opened, inputs)
        made.append(Made(Written(name, form.opens, folder, stored, difference, size_of(folder)), opened))
    return made


def compared(name: str, stored: str, model: ImageText, opened: Opened, inputs: examples.Examples) -> float:
    """The largest difference between a number of the unit rows of a written export and of the students.

    Raises:
        UserError: if it is larger than the type of the weights explains.
    """
    pairs = [(model.encode_image(inputs.pixels), opened.images(inputs.pixels))]
    if opened.texts is not None:
        pairs.append((model.encode_text(list(inputs.texts)), opened.texts(inputs.texts)))
    bound = BOUNDS[stored]
    differences = [float((expected - found.float()).abs().max()) for expected, found in pairs]
    for which, largest in zip(("images", "texts"), differences, strict=False):
        if not largest <= bound:  # NaN is not either
            raise UserError(
                f"What was written as {name} ({stored}) gives other embeddings of {which} than the students: they "
                f"differ by {largest:.2g} on {inputs.origin}, and {bound:g} is the bound for {stored}.",
                "Choose another --dtype, or another --format.",
            )
    return max(differences)


def size_of(folder: Path) -> int:
    """The number of bytes of the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(shipped: Shipped, made: Sequence[Made], measure: Measure | None) -> list[Written]:
    """What was written, with what was measured of it."""
    if measure is None:
        return [one.written for one in made]
    opened = {one.written.format: one.opened for one in made if one.opened is not None}
    numbers = measure(build(shipped, "cpu"), opened)
    size = sum(value.numel() * value.element_size() for value in shipped.tensors.values())
    own = Written("", "the trained model", Path(), "fp32", None, size, numbers.get("", {}))
    return [own, *(replace(one.written, measured=numbers.get(one.written.format, {})) for one in made)]
