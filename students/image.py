"""Image towers: any timm model, with its input normalisation built in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from students.scaled import create
from students.tower import Tower

# With these arguments timm.create_model reads files, which recipes and exports from others must not be able to do.
FILE_ARGUMENTS = frozenset({"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"})
CHECKPOINTING = "grad_checkpointing"  # an option that is not one of the network's, and of training alone


class ImageSpec(BaseModel):
    """A timm architecture and the keyword arguments with which it is created.

    Every other key is passed to ``timm.create_model`` unchanged (``img_size``, ``depth``, ``global_pool``,
    ``drop_path_rate``, …), except: ``grad_checkpointing = true`` computes activations again in the backward, which
    saves memory while training; ``width_multiplier`` and ``depth_multiplier`` are factors of the channels and layers
    (of layers also a list, one for each stage) of the families that timm builds by them, see
    :func:`students.scaled.scaled_builder`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    arch: str = "vit_tiny_patch16_224"

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class ImageTower(Tower):
    """A timm network preceded by its input normalisation.

    Attributes:
        net: the timm network; exports contain its ``state_dict``.
        mean, std: of the three channels, for pixels in [0, 1].
        options: the keyword arguments with which timm builds the network.
    """

    mean: torch.Tensor
    std: torch.Tensor
    prefix = "net."
    grid = True

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.options = net, dict(options or {})
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, inputs: torch.Tensor, outputs: tuple[str, ...] = ("embedding",)) -> dict[str, torch.Tensor]:
        """[n, 3, H, W] uint8 RGB → outputs by name.

        "embedding" [n, D]; "pre_logits" [n, F], the pooled features before the last linear layer; "tokens" [n, T, W],
        the last feature map before pooling.
        """
        # Inside the tower, so that the arithmetic is the same in training, evaluation and exports, on any device.
        pixels = (inputs.float() / 255 - self.mean) / self.std
        if pixels.device.type == "cpu" and not torch.compiler.is_exporting():
            # Convolutions on the CPU are then 1.4 to 1.9 times as fast; on an accelerator it has not been measured.
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        if outputs == ("embedding",):
            return {"embedding": self.net(pixels)}
        net: Any = self.net
        features = net.forward_features(pixels)
        compute = {
            "embedding": lambda: net.forward_head(features),
            "pre_logits": lambda: net.forward_head(features, pre_logits=True),
            "tokens": lambda: as_tokens(features, net.num_features),
        }
        return {name: compute[name]() for name in self.checked(outputs, compute)}

    def widths(self) -> dict[str, int]:
        net: Any = self.net
        pooled = getattr(net, "head_hidden_size", None) or net.num_features
        return {"embedding": int(net.num_classes), "pre_logits": int(pooled), "tokens": int(net.num_features)}

    @torch.no_grad()
    def features(self, image_size: int) -> int:
        """The width of the embedding, found by a forward of black images of ``image_size`` pixels."""
        black = torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8, device=self.mean.device)
        training = self.training
        width = int(self.eval()(black)["embedding"].shape[1])
        self.train(training)
        return width

    def projection(self) -> str:
        """The name of timm's classifier, which is built with D outputs."""
        classifier = self.net.get_classifier()  # type: ignore[operator]
        names = [name for name, module in self.named_modules() if module is classifier]
        if not names or not isinstance(classifier, nn.Linear):
            raise ValueError(
                f"{type(self.net).__name__} does not end in one linear layer. Choose another student.image.arch."
            )
        return names[0]


def image_tower(
    spec: ImageSpec,
    width: int,
    image_size: int,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> ImageTower:
    """Build an image tower with random weights.

    An architecture that is made for one image size, such as a vision transformer, is built for ``image_size``.

    Args:
        spec: architecture and timm keyword arguments.
        width: D, the embedding width; 0 leaves the network without a projection (its pooled features).
        image_size: side of the square input, in pixels.
        statistics: mean and standard deviation of the three channels; default: those of the architecture in timm.

    Raises:
        LookupError: if timm has no such architecture; the message names the nearest ones.
        ValueError: if timm rejects the arguments or would read files for them, or the image size does not fit.
    """
    import timm

    if file_arguments := sorted(FILE_ARGUMENTS & spec.options.keys()):
        raise ValueError(
            f"An image tower takes no {', '.join(file_arguments)}: it starts from random weights. "
            "To start from other weights, set student.image.init."
        )
    if not timm.is_model(spec.arch):
        near = difflib.get_close_matches(spec.arch, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all."
        raise LookupError(f"timm has no architecture '{spec.arch}'. {hint}")
    random_state = torch.get_rng_state()
    try:
        return build(spec, width, image_size, statistics)
    except WrongImageSize as error:
        if "img_size" in spec.options:
            raise
        torch.set_rng_state(random_state)  # the weights are those of a recipe that names img_size
        try:
            return build(spec.model_copy(update={"img_size": image_size}), width, image_size, statistics)
        except ValueError:
            raise error from None


def build(
    spec: ImageSpec, width: int, image_size: int, statistics: tuple[Sequence[float], Sequence[float]] | None
) -> ImageTower:
    """Build an image tower with just the options of ``spec``; see :func:`image_tower`.

    Raises:
        WrongImageSize: if it does not take images of ``image_size`` pixels.
        ValueError: if timm rejects the arguments.
    """
    import timm

    options = {key: value for key, value in spec.options.items() if key != CHECKPOINTING}
    try:
        net = create(spec.arch, num_classes=width, **options)
        if spec.options.get(CHECKPOINTING):
            net.set_grad_checkpointing(True)
    except Exception as error:  # the constructors of timm's models raise many kinds
        raise ValueError(
            f"timm cannot build '{spec.arch}' with {spec.options}: {error or 'it has no such setting'}. "
            "Correct student.image in the recipe."
        ) from error
    start_projection(net)
    data = timm.data.resolve_model_data_config(net)
    mean, std = statistics or (data["mean"], data["std"])
    tower = ImageTower(net, mean, std, options)
    check_input(tower, spec, width, image_size)
    return tower


def start_projection(net: nn.Module) -> None:
    """Give random weights to a projection that timm starts with zeros, as in Mixer.

    A classifier may start so; but an embedding of zeros has no direction, and its gradient has no bound.
    """
    last = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
    if isinstance(last, nn.Linear) and not last.weight.is_meta and not last.weight.any():
        nn.init.normal_(last.weight, std=last.in_features**-0.5)
        nn.init.zeros_(last.bias)


class WrongImageSize(ValueError):
    """A network does not take images of the size asked for."""


def check_input(tower: ImageTower, spec: ImageSpec, width: int, image_size: int) -> None:
    """Run two black images through the tower, so that a wrong image size raises here and not in training.

    Raises:
        WrongImageSize: if the tower does not take such images.
        ValueError: if its embedding does not have the given width.
    """
    training = tower.training
    try:
        with torch.no_grad():
            out = tower.eval()(torch.zeros(2, 3, image_size, image_size, dtype=torch.uint8))["embedding"]
    except Exception as error:  # the forward of an arbitrary network
        own = f" with img_size = {spec.options['img_size']}" if "img_size" in spec.options else ""
        raise WrongImageSize(
            f"'{spec.arch}'{own} does not take {image_size}-pixel images: {error}. "
            f"Set data.image_size to what it takes{', or leave out student.image.img_size' if own else ''}."
        ) from error
    finally:
        tower.train(training)
    if not isinstance(out, torch.Tensor) or out.ndim != 2 or (width and out.shape[1] != width):
        shape = tuple(out.shape[1:]) if isinstance(out, torch.Tensor) else f"a {type(out).__name__}"
        raise ValueError(
            f"'{spec.arch}' gives {shape} for an image instead of one vector of {width or 'D'}. "
            "Choose an architecture with a pooled output, or set student.image.global_pool."
        )


def as_tokens(features: torch.Tensor, width: int) -> torch.Tensor:
    """[n, T, W] from a network's last features [n, T, W], or feature map [n, W, H', W'] or [n, H', W', W].

    Raises:
        ValueError: if they have another shape.
    """
    if features.ndim == 3 and features.shape[2] == width:
        return features
    if features.ndim == 4 and features.shape[1] == width:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 4 and features.shape[3] == width:
        return features.flatten(1, 2)
    raise ValueError(f"Features of the shape {tuple(features.shape)} have no tokens of width {width}.")
