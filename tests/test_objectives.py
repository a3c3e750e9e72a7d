"""Objectives against the float64 reference, for every combination of options; shares of rows; refused options.

Values agree to 1e-10. Gradients are compared with central differences of the reference along a random direction of
all tensors, to 1e-6; shares with the whole batch to 1e-12.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from pydantic import ValidationError
from reference import unit_rows

import losses
from losses import NamedRows, TeacherFacts, objectives
from losses.transfer import Transfer

N, D, P, CLASSES = 4, 3, 5, 6
KEPT = [terms for k in (1, 2, 3) for terms in itertools.combinations(("fg", "fh", "gh"), k) if terms != ("fg",)]
PAIRS = [{"pair": "softmax"}, {"pair": "sigmoid"}]
WEIGHTS = [{"weight": 1.0}, {"weight": 0.3}]
TERMS = [{"terms": terms} for terms in KEPT]
# Every option that affects the value. three_towers and l2 also have the options heads and adapter, used by the model.
OPTIONS: dict[str, list[list[dict[str, Any]]]] = {
    "contrastive": [PAIRS],
    "three_towers": [PAIRS, WEIGHTS, TERMS, [{"temperatures": "shared"}, {"temperatures": "own"}]],
    "l2": [PAIRS, WEIGHTS, TERMS],
    "cosine": [PAIRS, WEIGHTS, TERMS],
    "smooth_l1": [PAIRS, WEIGHTS, TERMS, [{"beta": 2.0}, {"beta": 0.5}]],
    "relational": [PAIRS, WEIGHTS, TERMS, [{"teacher_temperature": 0.07}, {"teacher_temperature": 0.5}]],
    "crd": [PAIRS, WEIGHTS, [{"teacher_temperature": 0.07}, {"teacher_temperature": 0.5}]],
    "function_matching": [
        PAIRS,
        WEIGHTS,
        [{"terms": ("fg", "fh")}, {"terms": ("fh",)}],
        [{"temperature": 1.0}, {"temperature": 2.5}, {"mixup": 0.2}],
    ],
}
SPACE = {"contrastive": "none", "three_towers": "shared", "l2": "shared", "cosine": "teacher", "smooth_l1": "teacher"}
SPACE |= {"relational": "raw", "crd": "raw", "function_matching": "logits"}
FIELDS = {
    "none": (),
    "shared": ("image_h", "teacher_f", "text_h", "teacher_g"),
    "teacher": ("image_h", "teacher_f", "text_h", "teacher_g"),
    "raw": ("teacher",),
    "logits": ("student_logits", "teacher_logits"),
}
FIXED = ("teacher", "teacher_logits")  # no gradient reaches them
Batch = dict[str, Any]


def combinations(name: str) -> Iterator[dict[str, Any]]:
    for parts in itertools.product(*OPTIONS[name]):
        yield {key: value for part in parts for key, value in part.items()}


def arrays(name: str, weights: Sequence[float], n: int = N, own: bool = False) -> Batch:
    """The inputs of an objective, the same each time; with ``own``, a temperature and a bias for every term."""
    count = 1 + 2 * len(weights) if own else 1
    batch = {"image": unit_rows(n, D, 1), "text": unit_rows(n, D, 2)}
    batch |= {"scale": 14.3 - 2.5 * np.arange(count), "bias": -10 + 3.0 * np.arange(count)}
    for seed, (k, field) in enumerate(itertools.product(range(len(weights)), FIELDS[SPACE[name]]), 10):
        width = {"shared": D, "logits": CLASSES}.get(SPACE[name], P)
        length = 1 if SPACE[name] in ("shared", "raw") else 3
        batch[f"{field}.{k}"] = length * unit_rows(n, width, seed)
    return batch


def leaves(batch: Batch, dtype: torch.dtype = torch.float64) -> Batch:
    return {key: torch.tensor(value, dtype=dtype, requires_grad=True) for key, value in batch.items()}


def embeddings(
    name: str,
    batch: Batch,
    weights: Sequence[float],
    pair: str = "softmax",
    rows: slice = slice(None),
    captioned: slice | None = None,
) -> losses.Embeddings:
    """The objective's argument as the model makes it: rows that are not compared across samples are not gathered."""
    local = SPACE[name] in ("teacher", "logits")
    kind = "local" if local else "gathered"

    def own_rows(field: str, values: torch.Tensor) -> torch.Tensor:
        own = captioned if captioned is not None and field in OF_TEXTS else rows
        return values[own] if local else values

    teachers = tuple(
        losses.TeacherRows(
            **{kind: NamedRows({field: own_rows(field, batch[f"{field}.{k}"]) for field in FIELDS[SPACE[name]]})},
            weight=weight,
        )
        for k, weight in enumerate(weights)
    )
    bias = batch["bias"] if pair == "sigmoid" else None
    students = NamedRows(image=batch["image"], text=batch["text"])
    return losses.Embeddings(students, batch["scale"], teachers, rows, bias)


def weightings(name: str) -> list[tuple[float, ...]]:
    return {"contrastive": [()], "crd": [(1.0, 1.0)]}.get(name, [(1.0,), (0.3, 2.0)])


def label(x: str | dict[str, Any]) -> str:
    return x if isinstance(x, str) else "-".join("+".join(v) if k == "terms" else str(v) for k, v in x.items())


def test_every_objective_has_its_options_here() -> None:
    assert set(OPTIONS) <= set(losses.names())
    for name, groups in OPTIONS.items():
        tried = {key for group in groups for part in group for key in part}
        fields = set(type(losses.objective(name)).model_fields)
        assert fields - tried <= {"bias", "heads", "adapter"}, name


@pytest.mark.parametrize("name, options", [(name, o) for name in OPTIONS for o in combinations(name)], ids=label)
def test_an_objective_and_its_gradient_equal_the_reference(name: str, options: dict[str, Any]) -> None:
    loss_options = {key: value for key, value in options.items() if key != "mixup"}  # mixup changes the images only
    for weights in weightings(name):
        batch = arrays(name, weights, own=options.get("temperatures") == "own")
        tensors = leaves(batch)
        loss = losses.objective(name, **options)(embeddings(name, tensors, weights, options["pair"]))["loss"]
        loss.backward()
        np.testing.assert_allclose(loss.item(), reference.objective(name, batch, weights, **loss_options), rtol=1e-10)
        gradients = {key: x.grad for key, x in tensors.items() if x.grad is not None}
        assert not {key.split(".")[0] for key in gradients} & set(FIXED)
        random, step = np.random.default_rng(0), 1e-5
        direction = {key: random.normal(size=at.shape) for key, at in batch.items() if key.split(".")[0] not in FIXED}
        moved = [batch | {key: batch[key] + s * direction[key] for key in direction} for s in (step, -step)]
        forward, backward = (reference.objective(name, each, weights, **loss_options) for each in moved)
        slope = sum(float((gradient.numpy() * direction[key]).sum()) for key, gradient in gradients.items())
        np.testing.assert_allclose(slope, (forward - backward) / (2 * step), rtol=1e-6, atol=1e-6)


CAPTIONED = 2  # of the N samples, in the test below
OF_TEXTS = ("text", "text_h", "teacher_g")  # rows of captioned samples only


@pytest.mark.parametrize("name, options", [(name, o) for name in OPTIONS for o in combinations(name)], ids=label)
def test_terms_of_texts_are_over_captioned_samples_and_the_others_over_all(name: str, options: dict[str, Any]) -> None:
    """The reference truncates by itself; two processes with a half each of both kinds of rows agree with one."""
    loss_options = {key: value for key, value in options.items() if key != "mixup"}
    for weights in weightings(name):
        batch = arrays(name, weights, own=options.get("temperatures") == "own")
        batch |= {key: value[:CAPTIONED] for key, value in batch.items() if key.split(".")[0] in OF_TEXTS}
        objective, expected = (
            losses.objective(name, **options),
            reference.objective(name, batch, weights, **loss_options),
        )
        whole = objective(embeddings(name, leaves(batch), weights, options["pair"]))["loss"].item()
        np.testing.assert_allclose(whole, expected, rtol=1e-10)
        parts = []
        for process in range(2):
            rows, captioned = (slice(process * n // 2, (process + 1) * n // 2) for n in (N, CAPTIONED))
            shares = {"rows": rows, "captioned": CAPTIONED, "captioned_rows": captioned}
            one = embeddings(name, leaves(batch), weights, options["pair"], rows, captioned)
            parts.append(objective(replace(one, **shares))["loss"].item())
        np.testing.assert_allclose(np.mean(parts), expected, rtol=1e-10)


SHARED = [
    *((name, {"pair": pair}) for name in OPTIONS for pair in ("softmax", "sigmoid")),
    ("three_towers", {"pair": "sigmoid", "temperatures": "own", "terms": ("fh", "gh")}),
    ("cosine", {"pair": "softmax", "terms": ("gh",)}),
    ("relational", {"pair": "softmax", "terms": ("fh",), "weight": 0.4}),
]


@pytest.mark.parametrize("name, options", SHARED, ids=label)
@pytest.mark.parametrize("shares", [1, 2, 3, 6, 12])
def test_the_mean_over_equal_shares_equals_the_value_of_the_whole_batch(
    name: str, options: dict[str, Any], shares: int
) -> None:
    """Values and gradients: therefore k processes can compute the same as one."""
    objective, step, weights = losses.objective(name, **options), 12 // shares, weightings(name)[-1]
    batch = arrays(name, weights, 12, own="temperatures" in options)

    def value_and_gradient(rows: slice) -> tuple[float, np.ndarray]:
        tensors = leaves(batch)
        loss = objective(embeddings(name, tensors, weights, options["pair"], rows))["loss"]
        gradients = torch.autograd.grad(loss, list(tensors.values()), materialize_grads=True)
        return loss.item(), np.concatenate([gradient.numpy().flatten() for gradient in gradients])

    whole, gradient = value_and_gradient(slice(None))
    values, gradients = zip(*(value_and_gradient(slice(i, i + step)) for i in range(0, 12, step)), strict=True)
    np.testing.assert_allclose(np.mean(values), whole, rtol=1e-12)
    np.testing.assert_allclose(np.mean(gradients, axis=0), gradient, atol=1e-12)
    assert len({round(value, 9) for value in values}) == shares, "every share has different rows"


@pytest.mark.parametrize("weight, rows", [(2.5, slice(None)), (0.0, slice(None)), (1.0, slice(1, 4))])
def test_the_function_and_the_objective_of_three_towers_agree(weight: float, rows: slice) -> None:
    batch = leaves(arrays("three_towers", (1.0,)))
    sides = [batch[key] for key in batch if key not in ("scale", "bias")]
    function = losses.three_towers(*sides, batch["scale"], weight=weight, rows=rows).item()
    objective = losses.objective("three_towers", weight=weight)
    assert objective(embeddings("three_towers", batch, (1.0,), rows=rows))["loss"].item() == pytest.approx(function)
    assert abs(function - losses.three_towers(*sides, batch["scale"]).item()) > 1e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_only_the_loss_carries_a_gradient(name: str) -> None:
    weights = weightings(name)[-1]
    terms = losses.objective(name)(embeddings(name, leaves(arrays(name, weights)), weights))
    assert terms.pop("loss").requires_grad
    assert all(term.shape == () and not term.requires_grad for term in terms.values())
    logged = {"contrastive": set(), "crd": {"fg", "kl"}, "function_matching": {"fg", "kl"}}
    assert set(terms) == logged.get(name, {"fg", "fh", "gh"})


@pytest.mark.parametrize("name", [name for name in OPTIONS if {"terms": ("gh",)} in sum(OPTIONS[name], [])])
@pytest.mark.parametrize("kept, other", [("fh", "gh"), ("gh", "fh")])
def test_a_dropped_term_is_not_computed(name: str, kept: str, other: str) -> None:
    """Inputs that only the dropped term needs may be missing."""
    objective, batch = losses.objective(name, terms=(kept,)), leaves(arrays(name, (1.0,)))
    whole = losses.objective(name)(embeddings(name, batch, (1.0,)))
    complete = embeddings(name, batch, (1.0,)).teachers[0]
    unneeded = ("text_h", "teacher_g") if kept == "fh" else ("image_h", "teacher_f")
    kept_rows = [
        NamedRows({k: v for k, v in rows.items() if k not in unneeded}) for rows in (complete.gathered, complete.local)
    ]
    students = NamedRows(image=batch["image"], text=batch["text"])
    terms = objective(losses.Embeddings(students, batch["scale"], (losses.TeacherRows(*kept_rows),)))
    assert set(terms) == {"loss", kept} and torch.equal(terms["loss"], terms[kept])
    assert torch.equal(terms[kept], whole[kept])
    assert list(objective.needs.students) == [{"f": "image", "g": "text"}[kept[0]]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pair", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", OPTIONS)
def test_half_precision_is_computed_in_float32(name: str, pair: str, dtype: torch.dtype) -> None:
    weights, objective = weightings(name)[-1], losses.objective(name, pair=pair)
    low = leaves(arrays(name, weights, 8), dtype)
    loss = objective(embeddings(name, low, weights, pair))["loss"]
    assert loss.dtype == torch.float32
    up = {key: value.detach().float() for key, value in low.items()}
    assert torch.equal(loss, objective(embeddings(name, up, weights, pair))["loss"])
    loss.backward()
    assert all(x.grad is None or x.grad.dtype == dtype for x in low.values())


def test_the_needs_of_objectives_follow_from_their_options() -> None:
    for name in OPTIONS:
        assert losses.objective(name).needs.bias is None
        assert losses.objective(name, pair="sigmoid", bias=-7.0).needs.bias == -7.0
        assert losses.objective(name).needs.temperatures(3) == 1
    own = losses.objective("three_towers", temperatures="own", heads="main", adapter="mlp")
    learned = own.projection(IMAGE, {"image": {"embedding": D}, "text": {"embedding": D}})
    assert (own.needs.temperatures(1), own.needs.temperatures(3)) == (3, 7)
    assert sorted(learned.heads) == ["f_h", "g_h"] and len(learned.adapter) == 3
    assert losses.objective("function_matching", mixup=0.2).needs.mixup == 0.2


def test_every_module_with_an_objective_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f.stem: f.read_text() for f in Path(objectives.__file__).parent.glob("*.py")}
    known = sorted(name for name, text in files.items() if "\nOBJECTIVE = " in text)
    assert losses.names() == known
    (tmp_path / "added.py").write_text("from losses.objectives.l2 import L2Transfer\nOBJECTIVE = L2Transfer\n")
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    assert losses.names() == sorted(["added", *known])
    assert losses.objective("added", weight=2.0) == losses.objective("l2", weight=2.0)


def test_unknown_and_unfinished_objectives_are_refused_with_a_reason() -> None:
    with pytest.raises(LookupError, match="no objective 'three_tower'. Did you mean 'three_towers'?"):
        losses.objective("three_tower")
    with pytest.raises(
        LookupError, match="Known: .*contrastive, .*cosine, .*crd, .*function_matching, .*l2, .*relational"
    ):
        losses.objective("zzz")
    for unfinished in (losses.Objective(), Transfer()):
        with pytest.raises(TypeError, match=f"{type(unfinished).__name__} does not say"):
            unfinished(embeddings("cosine", leaves(arrays("cosine", (1.0,))), (1.0,)))


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("contrastive", {"weight": 1}, "weight"),
        ("l2", {"wait": 1}, "wait"),
        ("l2", {"weight": -0.1}, "weight"),
        ("crd", {"weight": float("inf")}, "weight"),
        ("three_towers", {"temperatures": "two"}, "'shared' or 'own'"),
        ("three_towers", {"heads": "fourth"}, "'default', 'third', 'main', 'none' or 'independent'"),
        ("three_towers", {"adapter": "conv"}, "'linear' or 'mlp'"),
        ("contrastive", {"pair": "hinge"}, "'softmax' or 'sigmoid'"),
        ("l2", {"terms": ("fg", "hf")}, "'fg', 'fh' or 'gh'"),
        ("l2", {"terms": ("fh", "fh")}, "names a term twice"),
        ("cosine", {"terms": ("fg",)}, 'keeps no transfer term; without one this is objective.name = "contrastive"'),
        ("cosine", {"terms": ()}, "keeps no transfer term"),
        ("smooth_l1", {"beta": 0}, "beta"),
        ("relational", {"teacher_temperature": 0}, "teacher_temperature"),
        ("function_matching", {"temperature": 0}, "temperature"),
        ("function_matching", {"mixup": -1}, "mixup"),
    ],
)
def test_the_error_about_an_invalid_option_names_it(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        losses.objective(name, **options)


IMAGE, ONLINE = TeacherFacts("eye", "image", 8, 10, False), TeacherFacts("eye", "image", 8, 10, True)
TEXT, WITHOUT_CLASSES = TeacherFacts("ear", "text", 8, 0, False), TeacherFacts("eye", "image", 8, 0, False)
PAIR = "needs an image teacher and then a text teacher of one width"


@pytest.mark.parametrize(
    "name, options, teachers, message",
    [
        *(
            (name, {}, [], "transfers from a teacher, and the recipe names none")
            for name in OPTIONS
            if name != "contrastive"
        ),
        ("crd", {}, [IMAGE], f"{PAIR}, and is given eye (image, 8)."),
        ("crd", {}, [TEXT, IMAGE], f"{PAIR}, and is given ear (text, 8), eye (image, 8)."),
        ("crd", {}, [IMAGE, IMAGE], PAIR),
        ("crd", {}, [IMAGE, TEXT, TEXT], PAIR),
        ("crd", {}, [IMAGE, TeacherFacts("ear", "text", 9, 0, False)], 'set objective.name = "relational"'),
        (
            "function_matching",
            {},
            [WITHOUT_CLASSES],
            "the teacher 'eye' has none. Choose an image teacher with classes",
        ),
        ("function_matching", {}, [IMAGE, TEXT], "the teacher 'ear' has none"),
        ("function_matching", {"mixup": 0.2}, [IMAGE], 'Set teacher.N.cache = "none", or objective.mixup = 0.'),
        ("three_towers", {"heads": "independent", "terms": ("fh", "gh")}, [IMAGE], 'Keep "fg" in objective.terms'),
        ("l2", {"heads": "independent", "terms": ("fh",)}, [IMAGE], 'Keep "fg" in objective.terms'),
    ],
)
def test_teachers_that_an_objective_cannot_use_are_refused(
    name: str, options: dict, teachers: list[TeacherFacts], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.objective(name, **options).check(teachers)


def test_teachers_that_an_objective_can_use_are_accepted() -> None:
    for name in set(OPTIONS) - {"crd"}:
        losses.objective(name).check([IMAGE])
        losses.objective(name).check([IMAGE, ONLINE])
    losses.objective("contrastive").check([])
    losses.objective("crd").check([IMAGE, TEXT])
    losses.objective("relational").check([TEXT])
    losses.objective("function_matching", mixup=0.2).check([ONLINE])
    losses.objective("three_towers", heads="independent").check([IMAGE])
