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
from distill.data.views import PLAIN_VIEWS, on_white
from distill.errors import UserError, as_user_errors
from distill.lookup import check_objective
from distill.ship.config_file import Config, ImageConfig, NetConfig, read_config
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
        parts: whose image embeddings are added up, and how much each counts; usually itself.
    """

    def __init__(
        self, config: Config, image: nn.Module, text: nn.Module, tokenizer: Tokenizer, device: torch.device
    ) -> None:
        self.config, self.tokenizer, self.device = config, tokenizer, device
        self.image = image.to(device).eval().requires_grad_(False)
        self.text = text.to(device).eval().requires_grad_(False)
        self.parts: list[tuple[float, ImageText]] = [(1.0, self)]

    def pixels(self, image: Image) -> torch.Tensor:
        """[3, S, S] uint8: a picture as the image tower expects it (its largest central square, resized)."""
        image = on_white(image)
        view = PLAIN_VIEWS.draw("", 0, image.size)
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


class Blend(ImageText):
    """``α·h(I) + (1 − α)·f(I)`` for images: the third tower and the image student together.

    Three Towers, arXiv 2305.16999, sections D.4 and E.4. Each sees a picture at its own resolution.

    Attributes:
        parts: the two, and how much each counts.
    """

    def __init__(self, student: ImageText, third: ImageText, alpha: float) -> None:
        super().__init__(student.config, student.image, student.text, student.tokenizer, student.device)
        self.parts = [(alpha, third), (1 - alpha, student)]

    def encode_image(self, images: Sequence[Image] | torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embed PIL images: [n, D] float32 unit rows, on the CPU."""
        if isinstance(images, torch.Tensor):
            raise TypeError("Two towers of different resolutions need pictures, not pixels.")
        return self._unit(sum(w * part.encode_image(images, batch_size) for w, part in self.parts))  # type: ignore[arg-type]


def load(path: Path, device: str | None = None, alpha: float | None = None) -> ImageText:
    """Open an export, or a run at its newest checkpoint.

    Args:
        path: the folder.
        device: default a GPU where there is one.
        alpha: of a run without heads, the third tower's share in image embeddings; default the recipe's.

    Raises:
        UserError: if the folder is neither, or a file of it is missing or damaged, or alpha makes no sense.
    """
    if prepare.is_run(path):
        from distill.ship.export import contents, third_tower

        recipe = prepare.read_recipe(path)
        if alpha is not None:
            if not 0 <= alpha <= 1:
                raise UserError(f"alpha is a share, from 0 to 1; got {alpha}.", "Correct it.")
            recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"alpha": alpha})})
            check_objective(recipe)
        student = build(*contents(path), device)
        if not recipe.student.alpha:
            return student
        return Blend(student, build(*third_tower(path), device), recipe.student.alpha)
    if alpha:
        raise UserError(
            f"{path} is an export, and holds no teacher to combine.", "Name the run, or leave out --alpha."
        )
    config = read_config(path)
    with as_user_errors():
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
    with as_user_errors():
        image = image_tower(config.image, config.width)
        text = students.text_tower(students.TextSpec(**config.text.spec), config.text.vocab, config.width)
    inside = image.net if isinstance(image, students.ImageTower) else image
    for name, module in (("image", inside), ("text", text)):
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


def image_tower(config: ImageConfig, width: int) -> nn.Module:
    """The image tower of a configuration, with random weights; ``width`` is D."""
    net = network(config, config.width, config.image_size)
    if not config.layers:
        return net
    beside = network(config.beside, 0, config.image_size) if config.beside else None
    features = beside.features(config.image_size) if beside else 0
    top = students.OnTeacher(net.features(config.image_size), width, config.layers, beside, features)
    return students.HalfLocked(net, top)


def network(config: NetConfig, width: int, image_size: int) -> students.ImageTower:
    """A timm network behind its normalisation."""
    spec = students.ImageSpec(arch=config.arch, **config.options)
    return students.image_tower(spec, width, image_size, (config.mean, config.std))
