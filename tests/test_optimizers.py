"""Optimisers by name, including those of other packages; which parameters have weight decay."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import own_optimizers
import pytest
import timm
from torch import nn

from distill.config import Optim, Recipe
from distill.data_table import Data
from distill.errors import UserError
from distill.lookup import find_optimizer, resolve
from distill.recipe import dump, parse
from distill.training.optimizer import build_optimizer
from distill.training.weight_decay import decayed_parameters, kernels
from students import ImageSpec, OnTeacher, image_tower, text_tower_class


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with own_optimizers.installed(tmp_path_factory.mktemp("package")):
        yield


def recipe_of(*, stage: int = 0, **optim: Any) -> Recipe:
    """A resolved recipe with these optimiser settings."""
    tree = {"data": {"train": "x"}, "objective": {"name": "contrastive"}, "zero": {"stage": stage}, "optim": optim}
    return resolve(parse(tree)).recipe


def test_an_optimiser_of_another_package_has_its_own_options() -> None:
    recipe = recipe_of(name="two_kinds", momentum=0.25, lr=0.5)
    model = nn.ModuleDict({"image": nn.Linear(3, 2), "text": nn.Linear(3, 2)})
    optimizer, schedules = build_optimizer(model, recipe, find_optimizer(recipe))
    assert optimizer.defaults == {"momentum": 0.25} and len(schedules) == 2
    assert [(g["kernel"], g["weight_decay"], g["lr"]) for g in optimizer.param_groups] == [(1, 0.05, 0.5), (0, 0, 0.5)]


def test_a_resolved_recipe_has_all_options_of_its_optimiser() -> None:
    """Otherwise a resumed run would use other values if the defaults change."""
    assert recipe_of().optim.options == {"betas": (0.9, 0.99)}
    assert recipe_of() == recipe_of(betas=[0.9, 0.99])
    assert tomllib.loads(dump(recipe_of()))["optim"]["betas"] == [0.9, 0.99]
    assert recipe_of(name="two_kinds").optim.options == {"momentum": 0.5}


@pytest.mark.parametrize(
    "optim, stage, words",
    [
        ({"name": "adamv"}, 0, "There is no optimizer 'adamv'. Did you mean 'adamw'?"),
        ({"warmpu": 1}, 0, "unknown key 'optim.warmpu'. Did you mean 'warmup'?"),
        ({"beta": 1}, 0, "unknown key 'optim.beta'. Did you mean 'betas'?"),
        ({"name": "two_kinds", "betas": [0.9, 0.9]}, 0, "unknown key 'optim.betas'."),
        ({"betas": [0.9, "x"]}, 0, "'optim.betas.1' does not check out"),
        (
            {"name": "adafactor"},
            1,
            'optim.name = "adafactor" needs zero.stage = 0; use "adamw" or .* from stage 1 on.',
        ),
        (
            {"name": "at_most_1"},
            2,
            'needs zero.stage at most 1; use "adamw" or .*"two_kinds" from stage 2 on. It reads',
        ),
    ],
)
def test_invalid_optimiser_settings_are_refused_with_a_reason(optim: dict[str, Any], stage: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe_of(stage=stage, **optim)


def test_an_optimiser_must_keep_its_groups() -> None:
    with pytest.raises(TypeError, match="'merging' has not kept the parameter groups"):
        recipe = recipe_of(name="merging")
        build_optimizer(nn.Linear(3, 2), recipe, find_optimizer(recipe))


# Networks and their options; patterns of all parameters of more than one dimension that must not have weight decay;
# some of the others, which must have it.
NETWORKS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "vit_tiny_patch16_224": (
        {"img_size": 32, "depth": 1, "reg_tokens": 2, "init_values": 1e-5},
        {"pos_embed", "cls_token", "reg_token"},
        {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "head.weight"},
    ),
    "vit_base_patch16_siglip_224": (
        {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3},
        {"pos_embed", "attn_pool.latent"},
        {"attn_pool.q.weight", "attn_pool.kv.weight", "attn_pool.mlp.fc2.weight"},
    ),
    "convnext_atto": (
        {"depths": (1, 1, 1, 1)},
        set(),
        {"stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "stages.1.downsample.1.weight", "head.fc.weight"},
    ),
    "resnet18": ({}, set(), {"conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.conv2.weight", "fc.weight"}),
    "tf_efficientnet_lite0": (
        {},
        set(),
        {"conv_stem.weight", "blocks.1.0.conv_pw.weight", "blocks.1.0.conv_dw.weight", "classifier.weight"},
    ),
    "mobilenetv4_hybrid_medium": (
        {},
        set(),
        {"blocks.2.4.attn.query.proj.weight", "blocks.2.4.attn.key.proj.weight", "conv_head.weight"},
    ),
    "mobilenetv3_small_050": ({}, set(), {"blocks.0.0.se.conv_reduce.weight", "blocks.0.0.se.conv_expand.weight"}),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24},
        {"*.relative_position_bias_table"},
        {"layers.0.blocks.0.attn.qkv.weight", "layers.1.downsample.reduction.weight"},
    ),
    "swinv2_tiny_window8_256": (
        {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24},
        # The network itself excludes these linear layers, which compute the relative position bias.
        {"*.logit_scale", "*.cpb_mlp.0.weight", "*.cpb_mlp.2.weight"},
        {"layers.0.blocks.0.attn.qkv.weight"},
    ),
    "mixer_s32_224": (
        {"img_size": 64},
        set(),
        {"stem.proj.weight", "blocks.0.mlp_tokens.fc1.weight", "blocks.0.mlp_channels.fc2.weight"},
    ),
    "resmlp_12_224": (
        {"img_size": 64},
        {"*.alpha", "*.beta"},
        {"head.weight"},
    ),
    "resnetv2_50": (
        {"layers": (1, 1, 1, 1), "stem_type": "", "conv_layer": timm.layers.StdConv2d},
        set(),
        {"stem.conv.weight"},
    ),
    "nf_regnet_b0": ({}, {"*.gain"}, {"stem.conv.weight", "stages.0.0.conv1.weight"}),
    "efficientnet_cc_b0_4e": ({}, set(), {"blocks.6.0.conv_pw.weight", "blocks.6.0.routing_fn.weight"}),
    "beit_base_patch16_224": (
        {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 2},
        {"cls_token", "blocks.0.attn.relative_position_bias_table"},
        {"blocks.0.attn.qkv.weight", "patch_embed.proj.weight"},
    ),
    "xcit_nano_12_p16_224": (
        {"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2},
        {"cls_token", "blocks.0.attn.temperature", "pos_embed.token_projection.weight"},
        {"blocks.0.attn.qkv.weight", "blocks.0.local_mp.conv1.weight"},
    ),
}


def decayed_by(model: nn.Module) -> set[str]:
    """The names of the parameters with weight decay in the optimiser of a recipe."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    recipe = Recipe(data=Data(train=("x",)), optim=Optim())
    groups = build_optimizer(model, recipe, find_optimizer(recipe))[0].param_groups
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_decay_of_an_image_tower_is_for_kernels_only(name: str) -> None:
    options, without_decay, decayed = NETWORKS[name]
    net = timm.create_model(name, num_classes=7, **options)
    multidimensional = {n for n, p in net.named_parameters() if p.ndim > 1}
    found = decayed_by(net)
    assert found == decayed_parameters(net)
    for pattern in without_decay:
        assert any(fnmatchcase(n, pattern) for n in multidimensional), pattern
    assert decayed <= found
    assert found == {n for n in multidimensional if not any(fnmatchcase(n, pattern) for pattern in without_decay)}


def test_weight_decay_in_a_tower_is_the_same_as_in_its_network() -> None:
    """A network excludes parameters by names relative to itself, in an image tower and next to a locked teacher."""
    spec = ImageSpec(arch="swinv2_tiny_window8_256", **NETWORKS["swinv2_tiny_window8_256"][0])
    tower, beside = image_tower(spec, 8, 64), image_tower(spec, 0, 64)
    model = nn.ModuleDict({"image": tower, "other": OnTeacher(5, 8, 2, beside, 192)})
    expected = {f"image.net.{name}" for name in decayed_parameters(tower.net)}
    expected |= {f"other.beside.net.{name}" for name in decayed_parameters(beside.net)}
    assert decayed_by(model) == expected | {"other.mlp.0.weight", "other.mlp.2.weight"}
    assert not [name for name in expected if "cpb_mlp" in name]


@pytest.mark.parametrize("pool", ["map", "mean"])
def test_weight_decay_of_the_text_tower_is_for_kernels_only(pool: str) -> None:
    kind = text_tower_class("transformer")
    tower = kind(kind.Options(dim=12, depth=1, heads=2, pool=pool), 20, 8)
    without_decay = {"tokens.weight", "positions"} | ({"pool.query"} if pool == "map" else set())
    found = decayed_by(tower)
    assert found == {n for n, p in tower.named_parameters() if p.ndim > 1} - without_decay
    assert {"blocks.layers.0.self_attn.in_proj_weight", "blocks.layers.0.linear1.weight", "head.weight"} < found


def test_kernels_include_separate_attention_projections_but_not_tied_embeddings() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True)
    projections = {f"{name}_proj_weight" for name in "qkv"} | {"out_proj.weight"}
    assert kernels(attention) == projections
    tied = nn.ModuleDict({"out": nn.Linear(4, 9), "tokens": nn.Embedding(9, 4)})
    tied["out"].weight = tied["tokens"].weight
    assert kernels(tied) == set()
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert decayed_by(nn.ModuleDict({"frozen": frozen, "learned": nn.Linear(2, 2)})) == {"learned.weight"}
