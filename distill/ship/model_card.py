"""The model card that an export carries as README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from distill.data_table import is_remote
from distill.errors import UserError
from distill.files import read_table
from distill.ship.card_metadata import UNDECIDED, metadata, teachers_of
from distill.ship.config_file import Config, ImageConfig, TextConfig
from distill.ship.export_format import ExportFormat
from distill.ship.written import Written, as_text

FORMATS = (
    "Each was opened again by its library when it was written, and its unit rows compared with the trained model's. "
    "Where a format holds no text tower, retrieval is with the trained model's."
)


@dataclass(frozen=True)
class Extra:
    """What a model card says beside what the export knows.

    Attributes:
        licence: of the model, an identifier of the Hugging Face hub's; "other" if none has been chosen.
        metrics: what ``distill evaluate --json`` wrote.
    """

    licence: str = UNDECIDED
    metrics: Sequence[Mapping[str, Any]] = ()


def read_metrics(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What ``distill evaluate --json`` wrote to files.

    Raises:
        UserError: if a file cannot be read or holds something else.
    """
    found = []
    for file in files:
        try:
            table = read_table(file, json.loads)
            [(one["task"], one["data"], one["metrics"].items()) for one in table["results"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file} does not hold results of an evaluation: {error}.", "Write it with distill evaluate --json."
            ) from error
        found.append(table)
    return found


def render(
    config: Config,
    name: str,
    format: str,
    chosen: Mapping[str, ExportFormat],
    written: Sequence[Written],
    extra: Extra | None = None,
) -> str:
    """The model card of an export, in Markdown with a metadata block.

    Args:
        config: of the export.
        name: of the folder that was exported to.
        format: the one of ``chosen`` whose card this is.
        chosen: the formats that were written, by name.
        written: what was written, and the trained model itself if it was measured.
        extra: see there.
    """
    extra, p, form = extra or Extra(), config.provenance, chosen[format]
    what = "image–text model: images and texts" if config.text else "image model: images"
    about = f"A small {what} as unit vectors of {config.width} numbers, close to each other when they mean the same."
    parts = [
        metadata(config, form.library, extra.licence, texts=form.texts and config.text is not None),
        f"# {name}\n\n{about}\n",
        towers(config),
        f"## Preprocessing\n\n{preprocessing(config)}\n",
        loading(config, name, format, chosen),
        f"## Formats\n\n{FORMATS}\n\n{as_text(written)}\n",
        metrics(extra.metrics),
        lineage(config),
        f"## Limits\n\nTrained with distill {p['versions']['distill']}. Limits, biases and licence are those of the "
        "training data and of the teacher; state them here before you publish.\n",
    ]
    return "\n".join(part for part in parts if part)


def towers(config: Config) -> str:
    """A table of what was trained."""
    p, image = config.provenance, config.image
    counts = p["parameters"]
    locked = ", a locked teacher inside" if image.width == 0 else ""
    return f"""| | |
|---|---|
| image tower | {image_tower(image)}, {image.image_size} px, {counts["image"]:,} parameters{locked} |
| text tower | {text_tower(config.text, counts)} |
| objective | {p["objective"]} |
| teacher | {", ".join(p["teachers"]) or "none"} |
| trained on | {trained_on(config)}, to {p["checkpoint"]}{averaged(config)} |
| temperature | {config.temperature:.4f} |
"""


def averaged(config: Config) -> str:
    """That the weights are averages over the steps, if they are."""
    decay = config.provenance["recipe"].get("train", {}).get("ema", 0.0)
    return f", weights averaged over the steps with decay {decay:g}" if decay else ""


def trained_on(config: Config) -> str:
    """How many images, and whether from streams."""
    p = config.provenance
    drawn = ", drawn from streams" if any(map(is_remote, p["recipe"]["data"]["train"])) else ""
    pictures = f" and {p['pictures']:,} pictures without captions" if p.get("pictures") else ""
    return f"{p['samples']:,} image{'' if p['samples'] == 1 else 's'}{drawn}{pictures}"


def image_tower(image: ImageConfig) -> str:
    """The image tower's entry in the table: the architecture, and the options that make it another one than timm's."""
    options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in sorted(image.options.items()))
    return f"timm's `{image.arch}`" + (f" changed to {options}" if options else "")


def text_tower(text: TextConfig | None, counts: dict[str, int]) -> str:
    """The text tower's entry in the table."""
    if text is None:
        return "none: trained on images alone"
    options = text.options()
    return f"{text.tower_class().describe(options)}, {options.context} tokens, {counts['text']:,} parameters"


def preprocessing(config: Config) -> str:
    """Sentences on how pictures and texts are prepared."""
    image, text = config.image, ""
    if config.text is not None:
        kind = config.text.tower_class().Tokenizer
        text = f" Texts are tokenized: `{kind.FILE}` is a {kind.KIND}."
    return (
        f"The same in all formats: a picture's largest central square, resized to {image.image_size} px with "
        f"antialiasing ({image.interpolation}), divided by 255, normalised with mean {list(image.mean)} and standard "
        f"deviation {list(image.std)}. Libraries resize a little differently, by a few grey levels.{text}"
    )


def loading(config: Config, name: str, format: str, chosen: Mapping[str, ExportFormat]) -> str:
    """How the folder is opened, in each of the formats that were written."""
    blocks = []
    for one, form in chosen.items():
        code = form.loading(config, name if len(chosen) == 1 else f"{name}/{one}")
        if code:
            blocks.append(f"{'This folder' if one == format else f'`{one}`'}:\n\n```python\n{code}```\n")
    return "## Use\n\n" + "\n".join(blocks) if blocks else ""


def metrics(found: Sequence[Mapping[str, Any]]) -> str:
    """Tables of the results of evaluations, with their intervals."""
    lines = ["## Results", ""] if found else []
    for one in found:
        for result in one["results"]:
            lines += [
                f"{result['task']} on {result['data']}:",
                "",
                "| metric | value | 95 % interval |",
                "|---|---|---|",
            ]
            for name, value in result["metrics"].items():
                ends = (result.get("intervals") or {}).get(name) or [None]
                interval = "" if None in ends else f"{ends[0]:.4f} to {ends[1]:.4f}"
                lines.append(f"| {name} | {'' if value is None else f'{value:.4f}'} | {interval} |")
            lines.append("")
    return "\n".join(lines)


def lineage(config: Config) -> str:
    """What the model was trained on, what it learnt from, and its recipe."""
    p, shards = config.provenance, config.provenance.get("shards")
    data = f"Trained on {trained_on(config)}"
    if shards:
        data += (
            f" in {shards['number']} shard{'' if shards['number'] == 1 else 's'}, `{shards['first']}` to "
            f"`{shards['last']}`; SHA-256 of their hashes: `{shards['sha256']}`"
        )
    teachers = teachers_of(config)
    learnt = "Teachers:\n\n" + "\n".join(teachers) if teachers else "No teacher."
    parts = ["## Lineage\n", f"{data}.\n", f"{learnt}\n"]
    parts.append(f"<details><summary>Recipe</summary>\n\n```toml\n{tomli_w.dumps(p['recipe'])}```\n\n</details>\n")
    return "\n".join(parts)
