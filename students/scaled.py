"""Networks of timm made narrower or shallower than timm's own, in the families that it builds by multipliers."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

DEPTH = "depth_multiplier"
MULTIPLIERS = {"width_multiplier": "channel_multiplier", DEPTH: "depth_multiplier"}  # ours: timm's


Multiplier = float | list[float]  # the same for all stages, or of the layers one for each stage


def scaled_builder(arch: str, multipliers: dict[str, Multiplier]) -> Callable[..., Any]:
    """The function that builds a timm architecture with its widths or depths multiplied.

    EfficientNet, MobileNet and their relatives are defined in timm by a function that calls a generator with a channel
    and a depth multiplier, which are not arguments of ``timm.create_model``. The function is run with a generator that
    multiplies them, so that everything else is as timm defines it.

    Args:
        arch: the name of the architecture, without a tag.
        multipliers: factors by the names in ``MULTIPLIERS``; of "depth_multiplier" also a list, one for each stage.

    Raises:
        ValueError: if timm does not build the architecture by these multipliers, one is not above 0, or a list has
            another length than the network has stages.
    """
    import timm

    if wrong := [name for name, value in multipliers.items() if not is_multiplier(name, value)]:
        raise ValueError(f"{wrong[0]} must be a number above 0{', or a list of such' * (wrong[0] == DEPTH)}.")
    entry: Any = timm.models.model_entrypoint(arch)
    scope = vars(sys.modules[entry.__module__])
    names = [name for name in entry.__code__.co_names if name.startswith("_gen_")]
    known = set(inspect.signature(scope[names[0]]).parameters) if len(names) == 1 else set()
    if missing := [name for name in multipliers if MULTIPLIERS[name] not in known]:
        raise ValueError(
            f"timm does not build '{arch}' by a {missing[0].replace('_', ' ')}. Set the sizes that it takes, such as "
            "embed_dim, depth or dims."
        )
    generator = scope[names[0]]

    def scaled_generator(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(generator).bind(*args, **kwargs)
        given.apply_defaults()
        for name, factor in multipliers.items():
            own = given.arguments[MULTIPLIERS[name]]
            given.arguments[MULTIPLIERS[name]] = (
                tuple(own * one for one in factor) if isinstance(factor, list) else own * factor
            )
        return generator(*given.args, **given.kwargs)

    return types.FunctionType(
        entry.__code__, {**scope, names[0]: scaled_generator}, entry.__name__, entry.__defaults__
    )


def is_multiplier(name: str, value: object) -> bool:
    """Whether a value can be the multiplier of this name."""
    values = value if isinstance(value, list) and value and name == DEPTH else [value]
    return all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in values)


def create(arch: str, **options: Any) -> Any:
    """``timm.create_model`` without pretrained weights, with the options of ``MULTIPLIERS`` too."""
    import timm

    multipliers = {name: options[name] for name in MULTIPLIERS if name in options}
    if not multipliers:
        return timm.create_model(arch, pretrained=False, **options)
    rest = {name: value for name, value in options.items() if name not in MULTIPLIERS}
    return scaled_builder(arch, multipliers)(pretrained=False, **rest)
