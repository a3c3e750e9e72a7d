"""The metadata block of a model card, as the Hugging Face hub reads it, and the licences of teachers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distill.ship.config_file import Config

NOT_COMMERCIAL = re.compile(r"\bnc\b|non-?\s?commercial|research[- ](only|purposes)", re.IGNORECASE)
UNDECIDED = "other"


def metadata(config: Config, library: str, licence: str, texts: bool) -> str:
    """The YAML between the lines of dashes at the beginning of a model card.

    Args:
        config: of the export.
        library: the name of the library that opens it, on the hub.
        licence: an identifier of the hub's, such as "apache-2.0"; "other" if its owner has not chosen one.
        texts: whether the export embeds texts.
    """
    from huggingface_hub import ModelCardData

    recipe: Mapping[str, Any] = config.provenance.get("recipe") or {}
    languages = list((recipe.get("data") or {}).get("languages") or ())
    own: dict[str, Any] = {"license_name": "not-chosen-yet"} if licence == UNDECIDED else {}
    if base := base_models(config):
        own["base_model"] = base
    if languages:
        own["language"] = languages
    objective = str(config.provenance.get("objective", "")).replace("_", "-")
    data = ModelCardData(
        license=licence,
        library_name=library,
        tags=[tag for tag in ("distill", objective, "clip" if texts else "") if tag],
        pipeline_tag="zero-shot-image-classification" if texts else "image-feature-extraction",
        **own,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def base_models(config: Config) -> list[str]:
    """The models on the hub whose weights are in the image tower, or that it started with: a teacher of timm's, if the
    image tower is that teacher or began as it. A model that was only learnt from is no base."""
    recipe = config.provenance.get("recipe") or {}
    image = (recipe.get("student") or {}).get("image") or {}
    if "teacher" not in (image.get("arch"), image.get("init")):
        return []
    # timm's weights of a tag, such as timm/vit_base_patch16_224.augreg_in21k, are a model of that name on the hub.
    return [name for name in config.provenance.get("teachers", [])[:1] if re.fullmatch(r"timm/\w+\.\w+", name)]


def teachers_of(config: Config) -> list[str]:
    """A line of Markdown for each teacher: its name, licence and source, and whether commercial use is forbidden."""
    cards, lines = config.provenance.get("teacher_cards") or {}, []
    for name in config.provenance.get("teachers", []):
        card = cards.get(name) or {}
        licence = card.get("licence") or "licence not known"
        parts = [f"`{name}`", licence, *(card[key] for key in ("source", "data") if card.get(key))]
        line = ": ".join([parts[0], "; ".join(parts[1:])])
        if NOT_COMMERCIAL.search(licence):
            line += ". **Its licence forbids commercial use, which may extend to what was distilled from it.**"
        lines.append(f"- {line}")
    return lines
