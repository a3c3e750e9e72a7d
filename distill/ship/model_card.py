"""The model card that an export carries as README.md."""

from __future__ import annotations

from distill.config import is_remote
from distill.ship.config_file import Config


def render(config: Config, name: str) -> str:
    """A model card in Markdown."""
    p = config.provenance
    teachers = ", ".join(p["teachers"]) or "none"
    counts = p["parameters"]
    image, text = config.image, config.text.spec
    own_names = "" if image.layers else " (timm's names)"
    drawn = ", drawn from streams" if any(map(is_remote, p["recipe"]["data"]["train"])) else ""
    locked = ", a locked teacher inside" if image.width == 0 else ""
    return f"""# {name}

A small image–text model: images and texts as unit vectors of {config.width} numbers, near when they mean the same.

| | |
|---|---|
| image tower | `{image.arch}`, {image.image_size} px, {counts["image"]:,} parameters{locked} |
| text tower | {text["depth"]}-layer Transformer, {text["context"]} tokens, {counts["text"]:,} parameters |
| objective | {p["objective"]} |
| teacher | {teachers} |
| trained on | {p["samples"]:,} images{drawn}, to {p["checkpoint"]} |
| temperature | {config.temperature:.4f} |

```python
import distill

model = distill.load("{name}")
images = model.encode_image([picture])               # [1, {config.width}]
texts = model.encode_text(["a red apple"])           # [1, {config.width}]
model.zero_shot([picture], ["an apple", "a pear"])   # [1, 2] probabilities
```

`config.json` says how the towers are built and how a picture is prepared: its largest central square, resized to
{image.image_size} px ({image.interpolation}), divided by 255, normalised with mean {list(image.mean)}
and standard deviation {list(image.std)}. The weights are `image.safetensors`{own_names} and
`text.safetensors`; `tokenizer.model` is a SentencePiece model.

Trained with distill {p["versions"]["distill"]}. Limits, biases and licence are those of the training data and of
the teacher; state them here before you publish.
"""
