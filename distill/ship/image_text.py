"""The object that encodes images and texts with trained students."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn

import students
from distill.data.views import PLAIN_VIEWS
from distill.errors import UserError
from distill.ship import inputs
from distill.ship.config_file import Config
from distill.tensors import hash_tensors


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

    def identity(self) -> str:
        """A hash that changes if the weights or the preparation of pictures and texts do."""
        tensors = {
            f"{number}.{modality}.{name}": value
            for number, (_, part) in enumerate(self.parts)
            for modality, tower in (("image", part.image), ("text", part.text))
            if tower is not None
            for name, value in tower.state_dict().items()
        }
        return hash_tensors(tensors, self.config.image, self.config.text, [weight for weight, _ in self.parts])

    def pixels(self, image: Any) -> torch.Tensor:
        """[3, S, S] uint8: the largest central square of an image, resized to the image tower's input.

        Args:
            image: see :func:`distill.ship.inputs.picture`.
        """
        picture = inputs.picture(image)
        view = PLAIN_VIEWS.draw("", 0, picture.size)
        return view.render(picture, self.config.image.image_size, self.config.image.interpolation)

    @torch.inference_mode()
    def encode_image(self, images: Any, batch_size: int = 256) -> torch.Tensor:
        """Embed images.

        Args:
            images: one image or a group of them, each a path, the bytes of an image file, a PIL image or a uint8 array
                [height, width, 3]; they are rotated as their EXIF data say, and transparent parts become white. Or
                [n, 3, S, S] uint8 as :meth:`pixels` makes them.
            batch_size: images per forward.

        Returns:
            [n, D] float32 unit rows, on the CPU; [1, D] of one image.

        Raises:
            UserError: if they are something else, or one cannot be decoded.
        """
        inputs.check_batch_size(batch_size)
        if isinstance(images, torch.Tensor):
            batches = iter(inputs.pixels(images, self.config.image.image_size).split(batch_size))
        else:
            batches = self._batches(inputs.pictures(images), batch_size)
        parts = [self._unit(self.image(part.to(self.device))["embedding"]) for part in batches if len(part)]
        return torch.cat(parts) if parts else torch.empty(0, self.config.width)

    def _batches(self, images: Iterator[Any], batch_size: int) -> Iterator[torch.Tensor]:
        """[at most ``batch_size``, 3, S, S] uint8 of one batch of images after the other."""
        side = self.config.image.image_size
        while group := list(islice(images, batch_size)):
            yield torch.cat(
                [
                    inputs.pixels(one, side) if isinstance(one, torch.Tensor) else self.pixels(one)[None]
                    for one in group
                ]
            )

    def check_text(self) -> None:
        """Raise ``UserError`` if there is no text tower."""
        if self.text is None:
            raise UserError(
                "This model has no text tower: it was trained on images alone.",
                "Use a model that was trained on captions.",
            )

    @torch.inference_mode()
    def encode_text(self, texts: str | Iterable[str], batch_size: int = 1024) -> torch.Tensor:
        """Embed texts, ``batch_size`` per forward: [n, D] float32 unit rows, on the CPU; [1, D] of one string.

        Raises:
            UserError: if there is no text tower, or they are no texts.
        """
        self.check_text()
        inputs.check_batch_size(batch_size)
        texts = inputs.texts(texts)
        assert self.text is not None and self.tokenizer is not None
        parts = [
            self._unit(self.text(self.tokenizer.encode(texts[i : i + batch_size]).to(self.device))["embedding"])
            for i in range(0, len(texts), batch_size)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.config.width)

    def zero_shot(self, images: Any, labels: str | Iterable[str | Iterable[str]]) -> torch.Tensor:
        """Classify images by captions.

        Args:
            images: see :meth:`encode_image`.
            labels: for each class one caption, or several, whose embeddings are averaged.

        Returns:
            [n, classes] probabilities.

        Raises:
            UserError: if there is no text tower, no class, or one without a caption; as :meth:`encode_image`.
        """
        prompts = inputs.groups(labels)
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

    def encode_image(self, images: Any, batch_size: int = 256) -> torch.Tensor:
        """Embed images, which may not be pixels, as the towers read different sizes: see the base class."""
        if isinstance(images, torch.Tensor):
            raise UserError(
                "The model is of two towers, which read images of different sizes, and pixels are of one size.",
                "Give PIL images or paths.",
            )
        pictures = [inputs.picture(image) for image in inputs.pictures(images)]
        return self._unit(sum(w * part.encode_image(pictures, batch_size) for w, part in self.parts))  # type: ignore[arg-type]
