"""The object that encodes images and texts with trained students."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

import students
from distill.data.images import as_rgb
from distill.data.views import PLAIN_VIEWS
from distill.errors import UserError
from distill.ship.config_file import Config

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageText:
    """Trained students, ready to encode: an image tower and, unless it was trained on images alone, a text tower.

    Attributes:
        config: the content of ``config.json``.
        image, text: the towers, in evaluation mode; text is None if there is no text tower.
        tokenizer: the text tower's; None if there is no text tower.
        device: the device of the towers.
        parts: the models whose image embeddings are summed, with their weights; usually the model itself with 1.
    """

    def __init__(
        self,
        config: Config,
        image: nn.Module,
        text: nn.Module | None,
        tokenizer: students.Tokenizer | None,
        device: torch.device,
    ) -> None:
        self.config, self.tokenizer, self.device = config, tokenizer, device
        self.image = image.to(device).eval().requires_grad_(False)
        self.text = None if text is None else text.to(device).eval().requires_grad_(False)
        self.parts: list[tuple[float, ImageText]] = [(1.0, self)]

    def pixels(self, image: Image) -> torch.Tensor:
        """[3, S, S] uint8: the largest central square of an image, resized to the image tower's input."""
        image = as_rgb(image)
        view = PLAIN_VIEWS.draw("", 0, image.size)
        return view.render(image, self.config.image.image_size, self.config.image.interpolation)

    @torch.inference_mode()
    def encode_image(self, images: Sequence[Image] | torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embed images.

        Args:
            images: PIL images, or [n, 3, S, S] uint8 as :meth:`pixels` makes them.
            batch_size: images per forward.

        Returns:
            [n, D] float32 unit rows, on the CPU.
        """
        if not isinstance(images, torch.Tensor):
            images = torch.stack([self.pixels(image) for image in images]) if len(images) else torch.empty(0, 3, 1, 1)
        parts = [
            self._unit(self.image(part.to(self.device))["embedding"]) for part in images.split(batch_size) if len(part)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.config.width)

    def check_text(self) -> None:
        """Raise ``UserError`` if there is no text tower."""
        if self.text is None:
            raise UserError(
                "This model has no text tower: it was trained on images alone.",
                "Use a model that was trained on captions.",
            )

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch_size: int = 1024) -> torch.Tensor:
        """Embed texts, ``batch_size`` per forward: [n, D] float32 unit rows, on the CPU.

        Raises:
            UserError: if there is no text tower.
        """
        self.check_text()
        assert self.text is not None and self.tokenizer is not None
        parts = [
            self._unit(self.text(self.tokenizer.encode(texts[i : i + batch_size]).to(self.device))["embedding"])
            for i in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.config.width)

    def zero_shot(
        self, images: Sequence[Image] | torch.Tensor, labels: Sequence[str] | Sequence[Sequence[str]]
    ) -> torch.Tensor:
        """Classify images by captions.

        Args:
            images: see :meth:`encode_image`.
            labels: for each class one caption, or several, whose embeddings are averaged.

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
    """Image embeddings ``α·h(I) + (1 − α)·f(I)``: a combination of the third tower and the image student.

    Three Towers, arXiv 2305.16999, sections D.4 and E.4. Each tower gets the image at its own resolution.

    Attributes:
        parts: the third tower with weight α, and the student with 1 − α.
    """

    def __init__(self, student: ImageText, third: ImageText, alpha: float) -> None:
        super().__init__(student.config, student.image, student.text, student.tokenizer, student.device)
        self.parts = [(alpha, third), (1 - alpha, student)]

    def encode_image(self, images: Sequence[Image] | torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embed PIL images: [n, D] float32 unit rows, on the CPU."""
        if isinstance(images, torch.Tensor):
            raise TypeError("Two towers of different resolutions need PIL images, not pixels.")
        return self._unit(sum(w * part.encode_image(images, batch_size) for w, part in self.parts))  # type: ignore[arg-type]
