"""The model card that an export carries as README.md."""

from __future__ import annotations

import json

from distill.config import is_remote
from distill.ship.config_file import Config, ImageConfig, TextConfig

WITH_TEXT = """texts = model.encode_text("a red apple")              # [1, {width}]
model.zero_shot("photo.jpg", ["an apple", "a pear"])  # [1, 2] probabilities
"""


def render(config: Config, name: str) -> str:
    """The model card of an export in Markdown; ``name`` is the name of its folder."""
    p, image = config.provenance, config.image
    counts = p["parameters"]
    drawn = ", drawn from streams" if any(map(is_remote, p["recipe"]["data"]["train"])) else ""
    locked = ", a locked teacher inside" if image.width == 0 else ""
    what = "image–text model: images and texts" if config.text else "image model: images"
    calls = WITH_TEXT.format(width=config.width) if config.text else ""
    return f"""# {name}

A small {what} as unit vectors of {config.width} numbers, close to each other when they mean the same.

| | |
|---|---|
| image tower | {image_tower(image)}, {image.image_size} px, {counts["image"]:,} parameters{locked} |
| text tower | {text_tower(config.text, counts)} |
| objective | {p["objective"]} |
| teacher | {", ".join(p["teachers"]) or "none"} |
| trained on | {p["samples"]:,} image{"" if p["samples"] == 1 else "s"}{drawn}, to {p["checkpoint"]} |
| temperature | {config.temperature:.4f} |

```python
import distill

model = distill.load("{name}")
images = model.encode_image("photo.jpg")              # [1, {config.width}]
{calls}```

`config.json` says how the towers are built and how a picture is prepared: its largest central square, resized to
{image.image_size} px ({image.interpolation}), divided by 255, normalised with mean {list(image.mean)}
and standard deviation {list(image.std)}. The weights are {files(config)}.

Trained with distill {p["versions"]["distill"]}. Limits, biases and licence are those of the training data and of
the teacher; state them here before you publish.
"""


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


def files(config: Config) -> str:
    """A sentence part that names the files with weights, and the tokenizer's."""
    image = "`image.safetensors`" + ("" if config.image.layers else " (timm's names)")
    if config.text is None:
        return image
    tokenizer = config.text.tower_class().Tokenizer
    return f"{image} and\n`text.safetensors`; `{tokenizer.FILE}` is a {tokenizer.KIND}"
