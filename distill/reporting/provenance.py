"""Where a run comes from: recipe, versions, seeds, fingerprints, processes, and nothing of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from distill.config import Recipe
from distill.reporting.public import public_tree
from distill.ship.provenance import public_recipe, shards_of, teacher_name


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML, of paths only the last part."""
    return tomli_w.dumps(public_tree(public_recipe(recipe)))


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
            found = f"{audit['rows']} rows compared with the loaded teacher, cosine at least {audit['min_cosine']:.5f}"
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
