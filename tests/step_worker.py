"""One process of tests/test_step.py: it takes one optimiser step for each of the runs that the tests compare.

The optimiser is plain SGD, so that at every ZeRO stage the change of a parameter gives its gradient. The learning rate
is a large power of two: the parameter is small compared with its change, so the subtraction loses no digits. For the
variants of ``TWICE`` a step with learning rate 0 comes first, which must not affect the second.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

import losses
import students
from distill.data.batch import Batch
from distill.training.model import Model
from distill.training.step import Step, embed, with_teacher_outputs
from launch import group as processes
from launch import zero
from launch.group import ALL_GATHER, REDUCE_SCATTER
from launch.settings import deepspeed_settings
from losses import TeacherFacts
from students.texts.transformer import PAD

SAMPLES, WIDTH, SIDE, VOCAB, CONTEXT = 16, 12, 32, 40, 6
PIECES = {1: 4, 2: 2, 4: 2}  # in how many pieces a process computes its share, by the number of processes
RATE = 2.0**24
DROPOUT = 0.3
COLLECTIVES = ("all_gather", ALL_GATHER, "all_reduce", "reduce_scatter", REDUCE_SCATTER)


def teacher(width: int, modality: str = "image", classes: int = 0, temperature: float = 0.0) -> TeacherFacts:
    """A cached teacher, or an online one if it embeds texts or has class logits."""
    online = modality == "text" or classes > 0
    return TeacherFacts("synthetic", modality, width, classes, online, temperature=temperature)


@dataclass(frozen=True)
class Variant:
    """An objective, and the teachers and towers it is trained with.

    Attributes:
        objective: its name.
        options: the options of the objective.
        teachers: the teachers and their weights.
        captions: captions per image in a step.
        image: the image tower: "vit", "resnet" (which has batch norm), "lit" or "flexilit".
        locked: the frozen parts of the image tower and of the text tower; True: all but the projection.
        pictures: how many samples of the batch have no caption, the last ones.
    """

    objective: str
    options: dict[str, Any] = field(default_factory=dict)
    teachers: tuple[tuple[TeacherFacts, float], ...] = ((teacher(10), 0.7),)
    captions: int = 1
    image: str = "vit"
    locked: tuple[tuple[str, ...] | bool, tuple[str, ...] | bool] = ((), ())
    pictures: int = 0


SIGMOID = {"pair": "sigmoid", "bias": -2.0}
PAIR = ((teacher(10), 0.7), (teacher(10, "text"), 1.3))
THREE = ((teacher(10), 0.7), (teacher(6), 1.3), (teacher(8, "text"), 0.4))
MODELS = (
    *((teacher(10, modality, temperature=0.1), 0.7) for modality in ("image", "text")),
    *((teacher(WIDTH, modality, temperature=0.4), 1.3) for modality in ("image", "text")),
)
CLASSIFIERS = ((teacher(10, classes=7), 0.7), (teacher(6, classes=5), 1.3))
VARIANTS = {
    "contrastive": Variant("contrastive", teachers=()),
    "contrastive-sigmoid": Variant("contrastive", SIGMOID, teachers=()),
    "three_towers": Variant("three_towers"),
    "three_towers-sigmoid-own": Variant("three_towers", SIGMOID | {"temperatures": "own"}, teachers=PAIR),
    "three_towers-third-mlp": Variant("three_towers", {"heads": "third", "adapter": "mlp"}),
    "three_towers-main": Variant("three_towers", {"heads": "main", "weight": 0.5}),
    "three_towers-none": Variant("three_towers", {"heads": "none"}),
    "three_towers-independent": Variant("three_towers", {"heads": "independent"}),
    "three_towers-without-fg": Variant("three_towers", {"terms": ("fh", "gh")}),
    "three_towers-several": Variant("three_towers", teachers=THREE),
    "three_towers-captions": Variant("three_towers", teachers=PAIR, captions=2),
    "three_towers-locked": Variant("three_towers", locked=(("patch_embed", "pos_embed"), True)),
    "three_towers-resnet": Variant("three_towers", image="resnet"),
    "three_towers-pictures": Variant("three_towers", teachers=PAIR, captions=2, pictures=8),
    "l2-pictures": Variant("l2", {"heads": "none"}, teachers=THREE, pictures=8),
    "smooth_l1-pictures": Variant("smooth_l1", teachers=PAIR, pictures=8),
    "relational-pictures": Variant("relational", teachers=THREE, pictures=8),
    "function_matching-pictures": Variant("function_matching", {"mixup": 0.5}, teachers=CLASSIFIERS, pictures=8),
    "l2": Variant("l2"),
    "cosine": Variant("cosine"),
    "cosine-of-images-alone": Variant("cosine", {"terms": ("fh",)}),
    "smooth_l1": Variant("smooth_l1", {"beta": 0.5}, teachers=THREE, captions=2),
    "relational": Variant("relational"),
    "crd": Variant("crd", teachers=PAIR, captions=2),
    "clip_kd": Variant("clip_kd", {"fd": 20.0}, teachers=MODELS[:2]),
    "clip_kd-several-captions": Variant("clip_kd", {"fd": 20.0} | SIGMOID, teachers=MODELS, captions=2),
    "clip_kd-pictures": Variant("clip_kd", {"fd": 20.0}, teachers=MODELS, pictures=8),
    "mobileclip": Variant("mobileclip", teachers=MODELS, captions=2),
    "mobileclip-pictures": Variant("mobileclip", {"share": 0.4}, teachers=MODELS[:2], pictures=8),
    "function_matching": Variant("function_matching", {"temperature": 2.0}, teachers=CLASSIFIERS),
    "function_matching-mixup": Variant("function_matching", {"mixup": 0.5}, teachers=CLASSIFIERS),
    "lit": Variant("contrastive", teachers=((teacher(WIDTH), 1.0),), image="lit"),
    "lit-sigmoid": Variant("contrastive", SIGMOID, teachers=((teacher(WIDTH), 1.0),), image="lit"),
    "flexilit": Variant("contrastive", image="flexilit"),
}


class Run(NamedTuple):
    """One engine and its step.

    Attributes:
        variant: a key of ``VARIANTS``.
        stage: the ZeRO stage.
        mode: "plain": one piece; "cached": pieces; "graph": the same pieces in one autograd graph of the whole
            batch; "torch": one piece and no DeepSpeed.
        dropout: whether both towers have dropout.
        precision: "fp32" or "bf16".
    """

    variant: str
    stage: int
    mode: str
    dropout: bool = False
    precision: str = "fp32"

    def __str__(self) -> str:
        words = [self.variant, f"stage{self.stage}", self.mode]
        return "-".join(words + ["dropout"] * self.dropout + [self.precision] * (self.precision != "fp32"))

    @property
    def reference(self) -> Run:
        """The run to compare with: in one process in one piece, or, with dropout or batch norm, in one graph.

        That graph is at the run's own stage, since the stage's parameter layout decides the order of summation. The
        effect of the stage itself is measured by comparing graphs at other stages with the graph at stage 0.
        """
        if self.dropout or self.variant == BATCH_NORM:
            return self._replace(stage=0) if self.mode == "graph" else self._replace(mode="graph")
        return Run(self.variant, 0, "torch")


CORE = ("three_towers", "contrastive-sigmoid", "three_towers-several", "lit")
BATCH_NORM = "three_towers-resnet"
RANDOM = ("three_towers", "three_towers-captions", "crd", "function_matching-mixup", "lit", BATCH_NORM)
TWICE = (*CORE, BATCH_NORM)
SAME_IN_PIECES = [name for name in VARIANTS if name != BATCH_NORM]  # the result does not depend on the pieces


def plan(world: int) -> list[Run]:
    """The runs of a number of processes: every variant in a few modes, and a few variants in all modes and stages."""
    with_batch_norm = [Run(BATCH_NORM, stage, mode) for stage in (0, 3) for mode in ("graph", "cached")]
    in_bf16 = [Run(name, 0, mode, precision="bf16") for name in CORE[:2] for mode in ("plain", "cached")]
    runs = [Run(name, stage, mode) for name in CORE for stage in range(4) for mode in ("plain", "cached")]
    runs += [Run(CORE[0], stage, mode, dropout=True) for stage in range(4) for mode in ("graph", "cached")]
    if world == 1:
        runs += [Run(name, 0, mode) for name in SAME_IN_PIECES for mode in ("torch", "plain", "cached")]
        runs += [Run(name, 0, mode, dropout=True) for name in RANDOM for mode in ("graph", "cached")]
        runs += with_batch_norm + in_bf16
    if world == 2:
        runs += [Run(name, stage, "cached") for name in SAME_IN_PIECES for stage in (0, 3)]
        runs += with_batch_norm + in_bf16 + [Run(CORE[0], stage, "cached", precision="bf16") for stage in (2, 3)]
    return list(dict.fromkeys(runs))


def model_of(variant: Variant, objective: losses.Objective, dropout: bool) -> Model:
    """A tiny model, the same on every process."""
    torch.manual_seed(0)
    random = DROPOUT if dropout else 0.0
    vit = students.ImageSpec(img_size=SIDE, depth=1, embed_dim=24, num_heads=2, proj_drop_rate=random)
    resnet = students.ImageSpec(arch="resnet10t", stem_width=8, channels=(8, 8, 16, 16), drop_rate=random)
    image: students.Tower
    if variant.image == "lit":
        image = students.OnTeacher(WIDTH, WIDTH, 0)
    elif variant.image == "flexilit":
        beside = students.image_tower(vit, 0, SIDE)
        image = students.OnTeacher(variant.teachers[0][0].width, WIDTH, 2, beside, beside.features(SIDE))
    else:
        image = students.image_tower({"vit": vit, "resnet": resnet}[variant.image], WIDTH, SIDE)
    transformer = students.text_tower_class("transformer")
    options = transformer.Options(dim=24, depth=1, heads=2, context=CONTEXT, dropout=random)
    text = transformer(options, VOCAB, WIDTH)
    for tower, parts in zip((image, text), variant.locked, strict=True):
        tower.lock(parts)
    towers = {"image": image, "text": text}
    widths = {modality: tower.widths() for modality, tower in towers.items()}
    read = [facts for facts, _ in variant.teachers] if objective.needs.teachers else []
    return Model(
        towers, [objective.projection(facts, widths) for facts in read], objective.needs, WIDTH, temperature=0.2
    )


def batch_of(variant: Variant, needs: losses.Needs, seed: int, group: processes.Group) -> Batch:
    """This process's share of a random batch, which is the same for every number of processes."""
    torch.manual_seed(seed)
    pixels = [torch.randint(256, (SAMPLES, 3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
    tokens = torch.randint(1, VOCAB, (SAMPLES, variant.captions, CONTEXT))
    tokens[::3, :, 3:] = PAD
    parts = []
    for facts, _ in variant.teachers:
        if facts.modality == "text":
            parts.append({"text": torch.randint(VOCAB, (SAMPLES, variant.captions, CONTEXT))})
        elif facts.online:
            parts.append({"image": torch.randint(256, (SAMPLES, 1, 3, 8, 8), dtype=torch.uint8)})
        else:
            parts.append({"embedding": torch.randn(SAMPLES, 1, facts.width)})
    inputs = {"text": tokens} if variant.image == "lit" else {"image": pixels[0], "text": tokens}
    inputs |= {"mixed": pixels[1]} if needs.mixup else {}
    keys, captioned = tuple(map(str, range(SAMPLES))), SAMPLES - variant.pictures if variant.pictures else None
    batch = Batch(inputs, tuple(parts), keys, captioned)
    if captioned is not None:
        texts = [
            {name: x[:captioned] if name == "text" else x for name, x in part.items()} for part in (inputs, *parts)
        ]
        batch = replace(batch, inputs=texts[0], teachers=tuple(texts[1:]))
    return cut(batch, group.world)[group.rank]


def cut(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into equal parts, in order, each with an equal part of the captioned samples."""
    size, captioned = len(batch.keys), batch.captioned_count

    def part(i: int) -> Batch:
        first, last = (range(i * n // parts, (i + 1) * n // parts) for n in (captioned, size - captioned))
        own = [*first, *(captioned + k for k in last)]
        cut_off = batch.map(lambda x: x[own if len(x) == size else list(first)])
        keys = tuple(batch.keys[k] for k in own)
        return replace(cut_off, keys=keys, captioned=None if batch.captioned is None else len(first))

    return [part(i) for i in range(parts)]


def forward_of(facts: TeacherFacts, device: torch.device) -> Callable[[torch.Tensor], dict[str, torch.Tensor]] | None:
    """The forward of an online teacher; None for a cached one."""
    generator = torch.Generator().manual_seed(facts.width)
    if facts.modality == "text":
        table = torch.randn(VOCAB, facts.width, generator=generator).to(device)
        return lambda tokens: {"embedding": table[tokens].mean(dim=1)}
    matrix = torch.randn(3 * 8 * 8, facts.classes, generator=generator).to(device)
    return (lambda pixels: {"logits": pixels.flatten(1).float() / 255 @ matrix}) if facts.online else None


def step_of(run: Run, group: processes.Group) -> Step:
    """The step of a run; without DeepSpeed, the model itself is used as the engine."""
    variant = VARIANTS[run.variant]
    objective = losses.objective(variant.objective, **variant.options)
    objective.check([facts for facts, _ in variant.teachers])
    forwards = [forward_of(facts, group.device) for facts, _ in variant.teachers]
    engine: Any = model_of(variant, objective, run.dropout).to(group.device)
    if run.mode != "torch":
        engine = engine_around(engine, run, PIECES[group.world] if run.mode == "cached" else 1, group)
    weights = [weight for _, weight in variant.teachers if objective.needs.teachers]
    return Step(engine, objective, forwards, weights, group)


def engine_around(model: Model, run: Run, pieces: int, group: processes.Group) -> Any:
    """DeepSpeed's engine, configured as in the training loop."""
    import deepspeed

    settings = deepspeed_settings(
        batch_size=SAMPLES, world=group.world, pieces=pieces, stage=run.stage, precision=run.precision, clip=0.0
    )
    if run.stage == 3:
        # By default parameters as small as these are not partitioned.
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    return engine


def advance(step: Step, run: Run, number: int) -> dict[str, float]:
    """Take step 1 or 2 of a run; modes other than "plain" and "cached" put everything into one autograd graph."""
    group = step.group
    batch, seed = batch_of(VARIANTS[run.variant], step.objective.needs, number, group), hash((number, group.rank))
    share = cut(batch, PIECES[group.world] if run.mode in ("cached", "graph") else 1)
    if run.mode in ("plain", "cached"):
        return step(share, seed).numbers
    rows = embed(step.engine, [with_teacher_outputs(part, step.teachers, group.device) for part in share], seed)
    values = step.loss_terms(rows)
    if run.mode == "torch":
        values["loss"].backward()
    else:
        step.engine.backward(values["loss"])
        step.engine.step()
    return step.average(values, rows["scale"], {})[0]


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter, gathered from all processes."""
    with zero.full_parameters(model):
        return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


def outcome(run: Run, group: processes.Group) -> dict[str, Any]:
    """Terms, gradients by parameter and buffers of a step, and the largest deviation of a parameter from its mean
    over the processes."""
    step = step_of(run, group)
    if run.mode == "torch":
        terms = advance(step, run, number=2)
        named = step.engine.named_parameters()
        return {"terms": terms, "gradients": {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named}}
    model = step.engine.module
    before = weights_of(model)
    for number, rate in ((1, 0.0), (2, RATE)) if run.variant in TWICE else ((2, RATE),):
        for parameters in step.engine.optimizer.param_groups:
            parameters["lr"] = rate
        terms = advance(step, run, number)
    after = weights_of(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    step.engine.destroy()
    flat = torch.cat([weight.flatten() for weight in after.values()]).to(group.device)
    mean = torch.tensor(processes.total(flat.tolist(), group)).to(flat) / group.world
    deviation = (mean - flat).abs().max().item()
    gradients = {name: (before[name] - after[name]) / RATE for name in before}
    return {"terms": terms, "gradients": gradients, "buffers": buffers, "deviation": deviation}


def gathered(group: processes.Group) -> dict[str, Any]:
    """This process's rows, the result of :func:`launch.group.gather`, and the gradient that reaches the rows."""
    torch.manual_seed(group.rank)
    local = {"a": torch.randn(3, 1, 4, requires_grad=True), "b": torch.randn(2, 2, 5, requires_grad=True)}
    slopes = {name: torch.randn(len(row) * group.world, *row.shape[1:]) for name, row in local.items()}
    spied = {n: mock.Mock(wraps=getattr(dist, n)) for n in COLLECTIVES}
    with mock.patch.multiple(dist, **spied):
        whole = processes.gather(local, group)
        forward = sum(spy.call_count for spy in spied.values())
        torch.stack([(row * slopes[name]).sum() for name, row in whole.items()]).sum().backward()
        backward = sum(spy.call_count for spy in spied.values()) - forward
    return {
        "local": {name: row.detach() for name, row in local.items()},
        "whole": {name: row.detach() for name, row in whole.items()},
        "slopes": slopes,
        "gradients": {name: row.grad for name, row in local.items()},
        "collectives": (forward, backward),
    }


def main(folder: Path) -> None:
    """Write the outcome of every run, and each process's result of gather."""
    group = processes.join()
    torch.save(gathered(group), folder / f"gathered-{group.rank}-of-{group.world}.pt")
    gc.freeze()  # ZeRO-3 collects garbage in every initialize; imported modules need not be traversed each time
    results = {str(run): outcome(run, group) for run in plan(group.world)}
    gc.unfreeze()
    if group.first:
        torch.save(results, folder / f"{group.world}.pt")
    processes.leave()
