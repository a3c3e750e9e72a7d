"""CLIP-KD's and MobileCLIP's losses against float64 references, as shares of rows, and beside pictures alone."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from pydantic import ValidationError
from reference import unit_rows

import losses
from losses import NamedRows, TeacherFacts, TeacherRows
from losses.pairs import PairedTeacher

N, D, P, CAPTIONED = 6, 3, 5, 4
WEIGHTS = ((0.4, 1.0), (2.0, 0.6))  # of the image and the text teacher of each pair
TEMPERATURES = (0.05, 0.3)
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "clip_kd": [
        {},
        {"fd": 3.0, "crd": 0.5, "icl": 2.0},
        {"fd": 0.0},
        {"crd": 0.0},
        {"icl": 0.0, "pair": "sigmoid"},
        {"teacher_temperature": 0.2},
    ],
    "mobileclip": [
        {},
        {"share": 0.0},
        {"share": 1.0},
        {"share": 0.3, "pair": "sigmoid"},
        {"teacher_temperature": 0.2},
    ],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]
Batch = dict[str, Any]


def arrays(name: str, options: dict[str, Any], count: int, captioned: int = N) -> Batch:
    """Unit rows of the students, of their projections and of each pair's teachers; the last images have no caption."""
    batch: Batch = {"image": unit_rows(N, D, 1), "text": unit_rows(captioned, D, 2)}
    learned = losses.objective(name, **options).needs.temperatures(2 * count)
    batch |= {"scale": np.array([14.3, 9.1])[:learned], "bias": np.array([-10.0, -7.0])[:learned]}
    for k in range(count):
        for seed, rows in enumerate(("image_student", "image_teacher", "text_student", "text_teacher"), 10 * k + 10):
            batch[f"{rows}.{k}"] = unit_rows(captioned if rows.startswith("text") else N, P, seed)
    return batch


def leaves(batch: Batch) -> Batch:
    return {
        key: torch.tensor(value, dtype=torch.float64, requires_grad="teacher" not in key)
        for key, value in batch.items()
    }


def temperature(options: dict[str, Any], k: int) -> float:
    return float(options.get("teacher_temperature", TEMPERATURES[k]))


def embeddings(batch: Batch, options: dict[str, Any], count: int) -> losses.Embeddings:
    """The objective's argument as the model makes it: a teacher's rows have a length of 1/√τ."""
    teachers = []
    for k in range(count):
        for modality, weight in zip(("image", "text"), WEIGHTS[k], strict=True):
            rows = {f"{modality}_{side}": batch[f"{modality}_{side}.{k}"] for side in ("student", "teacher")}
            rows[f"{modality}_teacher"] = rows[f"{modality}_teacher"] * temperature(options, k) ** -0.5
            teachers.append(TeacherRows(gathered=NamedRows(rows), weight=weight))
    students = NamedRows(image=batch["image"], text=batch["text"])
    bias = batch["bias"] if options.get("pair") == "sigmoid" else None
    return losses.Embeddings(students, batch["scale"], tuple(teachers), bias=bias)


def expected(name: str, batch: Batch, options: dict[str, Any], count: int) -> float:
    pairs = [
        reference.TeacherPair(
            *(batch[f"{one}.{k}"] for one in ("image_student", "image_teacher", "text_student", "text_teacher")),
            temperature=temperature(options, k),
            weight=sum(WEIGHTS[k]) / 2,
        )
        for k in range(count)
    ]
    own = {key: value for key, value in options.items() if key != "teacher_temperature"}
    return {"clip_kd": reference.clip_kd, "mobileclip": reference.mobileclip}[name](batch, pairs, **own)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("captioned", [N, CAPTIONED])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_the_value_and_its_gradient_equal_the_reference(
    name: str, options: dict[str, Any], captioned: int, count: int
) -> None:
    batch = arrays(name, options, count, captioned)
    tensors = leaves(batch)
    loss = losses.objective(name, **options)(embeddings(tensors, options, count))["loss"]
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected(name, batch, options, count), rtol=1e-10)
    gradients = {key: x.grad for key, x in tensors.items() if x.grad is not None}
    random, step = np.random.default_rng(0), 1e-5
    direction = {key: random.normal(size=at.shape) for key, at in batch.items() if "teacher" not in key}
    moved = [batch | {key: batch[key] + s * direction[key] for key in direction} for s in (step, -step)]
    forward, backward = (expected(name, each, options, count) for each in moved)
    slope = sum(float((gradient.numpy() * direction[key]).sum()) for key, gradient in gradients.items())
    np.testing.assert_allclose(slope, (forward - backward) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("captioned", [N, CAPTIONED])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_the_mean_over_two_processes_equals_the_whole_batch(
    name: str, options: dict[str, Any], captioned: int
) -> None:
    """Values and gradients, each process with a half of the captioned rows and of the others."""
    batch, objective = arrays(name, options, 2, captioned), losses.objective(name, **options)

    def value_and_gradient(shares: dict[str, Any]) -> tuple[float, np.ndarray]:
        tensors = leaves(batch)
        loss = objective(replace(embeddings(tensors, options, 2), **shares))["loss"]
        wanted = [x for x in tensors.values() if x.requires_grad]
        found = torch.autograd.grad(loss, wanted, materialize_grads=True)
        return loss.item(), np.concatenate([gradient.numpy().flatten() for gradient in found])

    whole, gradient = value_and_gradient({})
    parts = []
    for process in range(2):
        rows, of_texts = (slice(process * n // 2, (process + 1) * n // 2) for n in (N, captioned))
        shares = {"rows": rows} | ({"captioned": captioned, "captioned_rows": of_texts} if captioned < N else {})
        parts.append(value_and_gradient(shares))
    values, gradients = zip(*parts, strict=True)
    np.testing.assert_allclose(np.mean(values), whole, rtol=1e-12)
    np.testing.assert_allclose(np.mean(gradients, axis=0), gradient, atol=1e-11)
    assert values[0] != pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("tile", [1, 2, 4, None])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 5)])
def test_one_way_is_one_half_of_the_contrastive_loss(tile: int | None, rows: slice) -> None:
    a, b = (torch.tensor(unit_rows(N, D, seed), requires_grad=True) for seed in (1, 2))
    scale = torch.tensor([7.0], dtype=torch.float64, requires_grad=True)
    there, back = (losses.one_way(*sides, scale, rows=rows, tile=tile) for sides in ((a, b), (b, a)))
    both = losses.contrastive(a, b, scale, rows=rows)
    torch.testing.assert_close((there + back) / 2, both, rtol=1e-12, atol=0)
    for one, other in zip(
        torch.autograd.grad(there + back, (a, b, scale)), torch.autograd.grad(2 * both, (a, b, scale)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    logits = 7.0 * a.detach() @ b.detach().T
    own = torch.nn.functional.cross_entropy(logits, torch.arange(N), reduction="none")[rows].mean()
    torch.testing.assert_close(there.detach(), own, rtol=1e-12, atol=0)


def test_the_distillation_of_one_pair_is_that_of_open_clip() -> None:
    """open_clip's DistillClipLoss sums the cross-entropies whose difference from the KL divergences is an entropy."""
    from open_clip.loss import DistillClipLoss

    batch = {key: torch.tensor(value) for key, value in arrays("mobileclip", {}, 1).items()}
    image, text, p, q = (batch[key] for key in ("image", "text", "image_teacher.0", "text_teacher.0"))
    scale, fixed = batch["scale"][0], 1 / TEMPERATURES[0]
    theirs = DistillClipLoss()(image, text, scale, p, q, fixed, output_dict=True)
    options = {"share": 1.0}
    ours = losses.objective("mobileclip", **options)(embeddings(leaves(arrays("mobileclip", {}, 1)), {}, 1))["kl"]
    log_p = [torch.log_softmax(fixed * x, dim=1) for x in (p @ q.T, q @ p.T)]
    entropies = torch.stack([-(one.exp() * one).sum(1).mean() for one in log_p]).mean()
    weight = sum(WEIGHTS[0]) / 2
    torch.testing.assert_close(ours / weight, theirs["distill_loss"] - entropies, rtol=1e-10, atol=1e-12)


FACTS = {
    "image": TeacherFacts("clip/image", "image", P, 0, False, temperature=0.05),
    "text": TeacherFacts("clip/text", "text", P, 0, False, temperature=0.05),
    "wide": TeacherFacts("other/text", "text", P + 1, 0, False, temperature=0.05),
    "cold": TeacherFacts("cold/text", "text", P, 0, False, temperature=0.01),
    "unknown": TeacherFacts("timm/image", "image", P, 0, False),
}
PAIR = "needs pairs of an image teacher and a text teacher of one width, and is given"


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    "teachers, message",
    [
        ([], "transfers from a teacher, and the recipe names none"),
        (["image"], f"{PAIR} clip/image (image, 5)"),
        (["text"], PAIR),
        (["image", "text", "text"], PAIR),
        (["image", "wide"], f"{PAIR} clip/image (image, 5), other/text (text, 6). Name the folder of a CLIP"),
        (["unknown", "text"], "'timm/image' and 'clip/text' do not state one. Set objective.teacher_temperature"),
        (["image", "cold"], "'clip/image' and 'cold/text' do not state one"),
    ],
)
def test_teachers_that_are_no_pairs_are_refused(name: str, teachers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.objective(name).check([FACTS[teacher] for teacher in teachers])


def test_pairs_are_accepted_in_any_order_of_recipe() -> None:
    for name in OPTIONS:
        for order in (["image", "text"], ["text", "image"], ["image", "image", "text", "text"]):
            losses.objective(name).check([FACTS[teacher] for teacher in order])
        losses.objective(name, teacher_temperature=0.1).check([FACTS["unknown"], FACTS["cold"]])
    losses.objective("clip_kd", crd=0.0).check([FACTS["unknown"], FACTS["cold"]])
    with pytest.raises(ValueError, match="has no text student"):
        losses.objective("mobileclip").check([FACTS["image"], FACTS["text"]], ["image"])


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("clip_kd", {"fd": -1}, "fd"),
        ("clip_kd", {"gd": 1}, "gd"),
        ("mobileclip", {"share": 1.1}, "share"),
        ("mobileclip", {"teacher_temperature": -0.1}, "teacher_temperature"),
    ],
)
def test_invalid_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        losses.objective(name, **options)


def test_what_is_learned_between_students_and_teachers() -> None:
    widths = {"image": {"embedding": D}, "text": {"embedding": P}}
    clip_kd = losses.objective("clip_kd")
    image, text = (clip_kd.projection(FACTS[modality], widths) for modality in ("image", "text"))
    assert isinstance(image, PairedTeacher) and isinstance(text, PairedTeacher)
    assert sum(p.numel() for p in image.parameters()) == P * D + P and not [*text.parameters()], "widths are equal"
    students = {m: {"embedding": torch.randn(4, 1, width["embedding"])} for m, width in widths.items()}
    rows = image(students, {"embedding": torch.randn(4, 1, P)})
    assert set(rows) == {"image_student", "image_teacher"}
    torch.testing.assert_close(rows["image_teacher"].norm(dim=-1), torch.full((4, 1), 0.05**-0.5))
    torch.testing.assert_close(rows["image_student"].norm(dim=-1), torch.ones(4, 1))
    own = text(students, {"embedding": torch.randn(4, 2, P)})["text_student"]
    torch.testing.assert_close(own, torch.nn.functional.normalize(students["text"]["embedding"], dim=-1))
    needs = clip_kd.needs
    assert needs.temperatures(2) == 2 and losses.objective("clip_kd", icl=0.0).needs.temperatures(2) == 1
    lean = losses.objective("clip_kd", fd=0.0, icl=0.0)
    assert set(needs.gather) - set(lean.needs.gather) == {"image_student", "text_student"}
    assert not [*lean.projection(FACTS["image"], widths).parameters()]
    assert losses.objective("mobileclip").needs.temperatures(2) == 1


@pytest.mark.parametrize("name", OPTIONS)
def test_only_the_loss_carries_a_gradient(name: str) -> None:
    terms = losses.objective(name)(embeddings(leaves(arrays(name, {}, 1)), {}, 1))
    assert terms.pop("loss").requires_grad and not any(term.requires_grad for term in terms.values())
    assert set(terms) == {"clip_kd": {"fg", "fd", "crd", "icl"}, "mobileclip": {"fg", "kl"}}[name]
