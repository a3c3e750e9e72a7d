"""How exported towers were trained: names, hashes and counts, and nothing of the machine that trained them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import teachers
from distill.config import Recipe
from distill.data.shard_names import without_secrets
from distill.data.shards import Shards
from distill.data_table import is_remote
from distill.tables import TEACHER
from distill.text_sources import LIKE, is_card
from distill.training.run import read_about
from distill.training.shard_set import SHARDS
from teachers import is_path

CACHE_WORDS = ("auto", "none")  # values of teacher.N.cache that are no folders
EVALUATION_PATHS = {"data", "train", "classes", "templates", "outliers"}  # options of tasks that are paths


def provenance(recipe: Recipe, run: Path, checkpoint: str) -> dict[str, Any]:
    """How the towers of a run were trained: recipe, checkpoint, data, versions.

    Args:
        recipe: of the run.
        run: the run folder.
        checkpoint: the name of the checkpoint.
    """
    about = read_about(run)
    return {
        "objective": recipe.objective.name,
        "checkpoint": checkpoint,
        "teachers": [teacher_name(name) for name in about["teachers"]],
        "teacher_cards": {teacher_name(name): card for name in about["teachers"] if (card := terms_of(name))},
        "teacher_weights": {teacher_name(name): value for name, value in about["teacher_weights"].items()},
        "samples": about["samples"],
        "pictures": about.get("pictures", 0),
        "shards": shards_of(run),
        "versions": about["versions"],
        "recipe": public_recipe(recipe),
    }


def teacher_name(name: str) -> str:
    """A teacher's name without the folder that it lies in."""
    return Path(name).name if is_path(name) else name


def terms_of(name: str) -> dict[str, str]:
    """The licence of a teacher's weights, where they come from and what they were trained on; empty for weights of the
    user's own, and for a teacher that is no longer installed."""
    if is_path(name):
        return {}
    try:
        card = teachers.card(name)
    except (LookupError, ValueError, ImportError):
        return {}
    return {key: value for key in ("licence", "source", "data", "paper") if (value := getattr(card, key))}


def shards_of(run: Path) -> dict[str, Any] | None:
    """The number of shards that a run was trained on, the names of the first and the last one, and one hash over the
    hashes of all of them, in their order; None for streams."""
    if not (run / SHARDS).is_file():
        return None
    indexes = Shards.load(run / SHARDS).indexes
    names = [indexes.path(k).name for k in (0, len(indexes) - 1)]
    return {
        "number": len(indexes),
        "first": names[0],
        "last": names[1],
        "sha256": hashlib.sha256(indexes.sha256.tobytes()).hexdigest(),
    }


def public_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as an export contains it: of paths the last part only, of streams the address without secrets."""
    tree = recipe.model_dump(mode="json", exclude_none=True)
    for key in ("train", "pictures", "eval"):
        tree["data"][key] = [
            without_secrets(spec) if is_remote(spec) else last_part(spec) for spec in tree["data"][key]
        ]
    for teacher in tree["teacher"]:
        teacher["name"], teacher["weights"] = teacher_name(teacher["name"]), last_part(teacher["weights"])
        teacher["cache"] = teacher["cache"] if teacher["cache"] in CACHE_WORDS else last_part(teacher["cache"])
    for evaluation in tree["evaluate"]:
        for key in EVALUATION_PATHS & evaluation.keys():
            value = evaluation[key]
            evaluation[key] = [last_part(one) for one in value] if isinstance(value, list) else last_part(str(value))
    student = tree["student"]
    student["tokenizer"]["file"] = last_part(student["tokenizer"]["file"])
    for tower, key in (("image", "init"), ("text", "init"), ("text", LIKE)):
        value = student[tower].get(key, "")
        if value and value != TEACHER and not (tower == "text" and is_card(value)):
            student[tower][key] = last_part(value)
    return tree


def last_part(path: str) -> str:
    """The last part of a path; "" of an empty one."""
    return Path(path).name
