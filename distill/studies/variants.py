"""The variants of a study: a recipe each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.config import Recipe
from distill.errors import UserError, did_you_mean
from distill.lookup import resolve
from distill.recipe import anchor, apply_override, find, parse, read_tree
from distill.resolved import ResolvedRecipe
from distill.studies.settings import Grid, settings_of_axes

REFERENCE = "reference"  # the name of the recipe as it is
LONGEST = 100  # characters of a folder's name


@dataclass(frozen=True)
class Variant:
    """A variant of a recipe.

    Attributes:
        name: for the table.
        settings: by which it differs from the recipe, as for ``--set``.
        recipe: the whole recipe; its seed is that of the first run.
    """

    name: str
    settings: tuple[str, ...]
    recipe: Recipe

    @cached_property
    def resolved(self) -> ResolvedRecipe:
        """The recipe with what its names stand for."""
        return resolve(self.recipe)

    @property
    def folder(self) -> str:
        """The name of the folder with its runs: its own name without blanks and special characters."""
        plain = re.sub(r"[^\w.=+-]+", "-", self.name).strip("-.")
        if len(plain) <= LONGEST:
            return plain
        return f"{plain[:LONGEST]}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"

    @property
    def content(self) -> dict[str, Any]:
        """Everything that is trained, with all options: equal for two variants that are the same training."""
        resolved = self.resolved
        tree = resolved.recipe.model_dump()
        tree["objective"] = {"name": self.recipe.objective.name} | resolved.objective.model_dump()
        tree["student"]["text"] = {"arch": self.recipe.student.text.arch} | self.recipe.student.text.model_dump()
        if resolved.text_options is not None:
            tree["student"]["text"] |= resolved.text_options.model_dump()
        return tree

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with another seed."""
        return self.recipe.model_copy(update={"train": self.recipe.train.model_copy(update={"seed": seed})})


@dataclass(frozen=True)
class Variants:
    """The variants of a study.

    Attributes:
        all: the reference first.
        remarks: sentences on what was left out.
    """

    all: tuple[Variant, ...]
    remarks: tuple[str, ...]

    @property
    def reference(self) -> Variant:
        """The variant that the others are compared with."""
        return self.all[0]

    def named(self, names: Iterable[str]) -> tuple[Variant, ...]:
        """Those of some names; all of them if there are none.

        Raises:
            UserError: if there is none of a name.
        """
        known = [variant.name for variant in self.all]
        for name in (names := list(names)):
            if name not in known:
                raise UserError(
                    f"There is no variant '{name}'.", did_you_mean(name, known, f"Known: {', '.join(known)}.")
                )
        return tuple(variant for variant in self.all if not names or variant.name in names)


def make_variants(
    recipe: str | Path | Recipe,
    overrides: Iterable[str] = (),
    axes: Mapping[str, Iterable[Any]] | None = None,
    product: bool = False,
    named: Mapping[str, Iterable[str]] | None = None,
    grid: Grid | None = None,
    reference: str = "",
) -> Variants:
    """The variants of a recipe.

    Args:
        recipe: a TOML file, the name of a packaged recipe, or a recipe.
        overrides: settings of all of them, which those of a variant may change.
        axes, product: see :func:`~distill.studies.settings.settings_of_axes`.
        named: the settings of further variants by name.
        grid: with variants from a file.
        reference: the variant that the others are compared with. "" is the grid's; without one, the recipe as it is.

    Raises:
        UserError: if a setting does not exist or does not fit the others, a name comes twice, or there is only one
            variant.
    """
    grid, named = grid or Grid(), named or {}
    reference = reference or grid.table.reference
    sources: list[tuple[str, list[str], Path]] = [] if reference else [(REFERENCE, [], Path.cwd())]
    sources += [(name, list(table.set), grid.folder) for name, table in grid.table.variant.items()]
    sources += [(name, own, Path.cwd()) for name, own in settings_of_axes(axes or {}, product).items()]
    sources += [(name, list(settings), Path.cwd()) for name, settings in named.items()]
    check_names([name for name, _, _ in sources], reference)
    made = [make_variant(recipe, list(overrides), *source) for source in sources]
    made.sort(key=lambda variant: variant.name != (reference or REFERENCE))  # the reference first, others in order
    kept, remarks = list[Variant](), list[str]()
    for variant in made:
        same = next((other for other in kept if other.content == variant.content), None)
        if same is None:
            kept.append(variant)
        else:
            remarks.append(f"'{variant.name}' is left out: it is the same training as '{same.name}'.")
        check_seed(variant, kept[0])
    if len(kept) < 2:
        raise UserError("There is only one variant.", "Add others with --axis, --variant or --grid.")
    return Variants(tuple(kept), tuple(remarks))


def check_names(names: list[str], reference: str) -> None:
    """Raise ``UserError`` if two variants have one name or folder, or none is the reference."""
    if reference and reference not in names:
        hint = did_you_mean(reference, names, f"Known: {', '.join(names) or 'none'}.")
        raise UserError(f"There is no variant '{reference}', which is to be the reference.", hint)
    for first, second in repeated(names):
        raise UserError(
            f"The variants '{first}' and '{second}' would have one folder.", "Choose a name with other letters."
        )


def repeated(names: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names of which folders would be the same, also on file systems without upper and lower case."""
    owners: dict[str, str] = {}
    for name in names:
        folder = Variant(name, (), None).folder.lower()  # type: ignore[arg-type]
        if not folder:
            raise UserError(f"The variant '{name}' has no letter or digit in its name.", "Choose another name.")
        if folder in owners:
            yield owners[folder], name
        owners[folder] = name


def make_variant(
    recipe: str | Path | Recipe, overrides: list[str], name: str, settings: list[str], folder: Path
) -> Variant:
    """One variant; relative paths in its settings are relative to ``folder``.

    Raises:
        UserError: naming the variant, if its recipe is not valid.
    """
    try:
        if isinstance(recipe, str | Path):
            tree = read_tree(find(str(recipe)), overrides)
        else:
            tree = recipe.model_dump(exclude_none=True, mode="json")
            for override in overrides:
                apply_override(tree, override)
            anchor(tree, Path.cwd())
        for setting in settings:
            apply_override(tree, setting)
        anchor(tree, folder)
        made = Variant(name, tuple(settings), parse(tree))
        resolve(made.recipe)
    except UserError as error:
        raise error if name == REFERENCE else UserError(f"The variant '{name}': {error}") from error
    return made


def check_seed(variant: Variant, reference: Variant) -> None:
    """Raise ``UserError`` if a variant sets the seed, which is for the study to set."""
    if variant.recipe.train.seed != reference.recipe.train.seed:
        raise UserError(
            f"The variant '{variant.name}' sets train.seed.",
            "Leave it out: every variant is trained with all seeds; --set train.seed=N says the first.",
        )
