"""Exports and runs as one object that encodes images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

import students
from distill.data.captions import Tokenizer
from distill.data.views import Views, on_white
from distill.errors import UserError, from_leaves
from distill.ship.describe import Config, read_config
from distill.train import prepare
from launch.group import default_device

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageText:
    """A pair of trained students, ready to encode.

    Attributes:
        config: what ``config.json`` says.
        image, text: the towers, in evaluation mode.
        tokenizer: of the text tower.
        device: where they compute.
    """

    def __init__(
        self, config: Config, image: nn.Module, text: nn.Module, tokenizer: Tokenizer, device: torch.device
    ) -> None:
        self.config, self.tokenizer, self.device = config, tokenizer, device
        self.image = image.to(device).eval().requires_grad_(False)
        self.text = text.to(device).eval().requires_grad_(False)

    def pixels(self, image: Image) -> torch.Tensor:
        """[3, S, S] uint8: a picture as the image tower expects it (its largest central square, resized)."""
        image = on_white(image)
        view = Views().draw("", 0, image.size)
        return view.render(image, self.config.image.image_size, self.config.image.interpolation)

    @torch.inference_mode()
    def encode_image(self, images: Sequence[Image] | torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embed images.

        Args:
            images: PIL images, or [n, 3, S, S] uint8 as :meth:`pixels` makes them.
            batch_size: how many go through the tower at a time.

        Returns:
            [n, D] float32 unit rows, on the CPU.
        """
        if not isinstance(images, torch.Tensor):
            images = torch.stack([self.pixels(image) for image in images]) if len(images) else torch.empty(0, 3, 1, 1)
        parts = [self._unit(self.image(part.to(self.device))) for part in images.split(batch_size) if len(part)]
        return torch.cat(parts) if parts else torch.empty(0, self.config.width)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch_size: int = 1024) -> torch.Tensor:
        """Embed texts: [n, D] float32 unit rows, on the CPU."""
        parts = [
            self._unit(self.text(self.tokenizer.encode(texts[i : i + batch_size]).to(self.device)))
            for i in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.config.width)

    def zero_shot(
        self, images: Sequence[Image] | torch.Tensor, labels: Sequence[str] | Sequence[Sequence[str]]
    ) -> torch.Tensor:
        """Classify images by captions.

        Args:
            images: see :meth:`encode_image`.
            labels: one caption a class, or several whose embeddings are averaged.

        Returns:
            [n, classes] probabilities.
        """
        prompts = [[label] if isinstance(label, str) else list(label) for label in labels]
        flat = self.encode_text([prompt for group in prompts for prompt in group])
        classes = torch.stack([part.mean(dim=0) for part in flat.split([len(group) for group in prompts])])
        logits = self.encode_image(images) @ self._unit(classes).T / self.config.temperature
        return logits.softmax(dim=1)

    @staticmethod
    def _unit(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(x.float(), dim=-1).cpu()


def load(path: Path, device: str | None = None) -> ImageText:
    """Open an export, or a run at its newest checkpoint.

    Raises:
        UserError: if the folder is neither, or a file of it is missing or damaged.
    """
    if prepare.is_run(path):
        from distill.ship.export import contents

        return build(*contents(path), device)
    config = read_config(path)
    with from_leaves():
        tensors = {f"{name}.{k}": v for name in ("image", "text") for k, v in read_tower(path, name).items()}
    tokenizer = Tokenizer.load(path / "tokenizer.model", students.TextSpec(**config.text.spec).context)
    return build(config, tensors, tokenizer, device)


def read_tower(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of one tower's file.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        return load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / name}.safetensors cannot be read: {error}. Export the run again.") from error


def build(config: Config, tensors: dict[str, torch.Tensor], tokenizer: Tokenizer, device: str | None) -> ImageText:
    """Both towers from their configuration and their tensors, ``image.*`` and ``text.*``.

    Raises:
        UserError: if the tensors do not fit the configuration.
    """
    with from_leaves():
        spec = students.ImageSpec(arch=config.image.arch, **config.image.options)
        statistics = (config.image.mean, config.image.std)
        image = students.image_tower(spec, config.image.width, config.image.image_size, statistics)
        text = students.text_tower(students.TextSpec(**config.text.spec), config.text.vocab, config.width)
    for name, module in (("image", image.net), ("text", text)):
        state = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        try:
            module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise UserError(
                f"The {name} tower's weights do not fit its configuration: {error}.", "Export the run again."
            ) from error
    try:
        return ImageText(config, image, text, tokenizer, torch.device(device) if device else default_device())
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that is not there
        raise UserError(f"The device '{device}' cannot be used: {error}.", "Correct --device.") from error
