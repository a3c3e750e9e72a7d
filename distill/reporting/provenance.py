"""Where a run comes from: recipe, versions, seeds, fingerprints, processes, and nothing of the machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import tomli_w

from distill.config import Recipe
from distill.reporting.public import public_tree
from distill.ship.provenance import public_recipe, shards_of, teacher_name

MOST_ITEMS = 20  # of a list of a recipe, such as one of shards


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML, of paths only the last part."""
    return tomli_w.dumps(shortened(public_tree(public_recipe(recipe))))


def shortened(value: Any) -> Any:
    """A tree in which of every long list only the first items are left, with the number of the others."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    further = [f"and {len(value) - MOST_ITEMS:,} more"] if len(value) > MOST_ITEMS else []
    return [shortened(one) for one in value[:MOST_ITEMS]] + further


def provenance_rows(recipe: Recipe, run: Path, about: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) for a table.

    Args:
        recipe: of the run.
        run: the run folder.
        about: the content of its ``run.json``.
    """
    rows = [("Seed", str(about["seed"])), ("Processes", str(about["processes"]))]
    rows.append(("Batch size", f"{recipe.train.batch_size:,} over all processes"))
    rows.append(("Precision, ZeRO stage", f"{recipe.train.precision}, {recipe.zero.stage}"))
    for name, weights in about["teacher_weights"].items():
        rows.append((f"Weights of {teacher_name(name)}, SHA-256", weights))
    for name, audit in about.get("teacher_audits", {}).items():
        if audit and audit.get("rows"):
            least = math.floor(audit["min_cosine"] * 1e5) / 1e5
            found = f"{audit['rows']} rows compared with the loaded teacher, cosine at least {least:.5f}"
            rows.append((f"Cache of {teacher_name(name)}", found))
    shards = shards_of(run)
    if shards is not None:
        rows.append(("Training shards", f"{shards['number']:,}: {shards['first']} to {shards['last']}"))
        rows.append(("Training shards, SHA-256 over their hashes", shards["sha256"]))
    rules = ", ".join(f"{name} {value}" for name, value in about.get("rules", {}).items())
    if rules:
        rows.append(("Rules of order and views", rules))
    rows += [(f"Version of {package}", version) for package, version in about["versions"].items()]
    return rows
