"""The trained model: students, projections to the teachers, temperature and bias; and the tensors it exports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from launch import zero
from losses import Needs
from losses.projections import Head, Rows, SharedSpace, unit
from students import OnTeacher, Tower

MAX_SCALE = 100.0  # CLIP's bound on 1/τ (arXiv 2103.00020, section 2.5)
MAX_LOG_SCALE = math.log(MAX_SCALE)
FOLDED = {"image": "f_g", "text": "g_f"}  # the head of f↔g that is folded into the tower of each modality
Outputs = Mapping[str, torch.Tensor]


class Model(nn.Module):
    """All trained parameters.

    Args:
        towers: the students by modality. The image student may be a :class:`~students.OnTeacher`, which is trained on
            the embeddings of the first teacher and has no weights in LiT.
        projections: one for each teacher that the objective reads, see :meth:`losses.Objective.projection`.
        needs: the needs of the objective.
        width: D, the width of the shared embedding.
        temperature: the initial τ.
    """

    def __init__(
        self,
        towers: Mapping[str, Tower],
        projections: Sequence[nn.Module],
        needs: Needs,
        width: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.modalities = tuple(towers)
        for modality, tower in towers.items():
            self.add_module(modality, tower)
        self.spaces = nn.ModuleList(projections)
        # Without a bias, norm(linear(norm(f))) = norm(linear(f)): the export folds it into the tower's projection.
        self.between = nn.ModuleDict({FOLDED[modality]: Head(width, bias=False) for modality in needs.folded})
        # Shape (T,), never a scalar: a 0-dim parameter crashes deepspeed.initialize.
        count = needs.temperatures(len(projections))
        self.log_scale = nn.Parameter(torch.full((count,), -math.log(temperature)))
        self.bias = None if needs.bias is None else nn.Parameter(torch.full((count,), needs.bias))
        read = {modality: ("embedding", *needs.students.get(modality, ())) for modality in towers}
        self.outputs = {modality: tuple(dict.fromkeys(names)) for modality, names in read.items()}

    @property
    def towers(self) -> dict[str, Tower]:
        """The students by modality."""
        return {modality: self.get_submodule(modality) for modality in self.modalities}  # type: ignore[misc]

    def forward(self, inputs: Mapping[str, torch.Tensor], teachers: Sequence[Outputs]) -> Rows:
        """Embed one process's share of a batch.

        Args:
            inputs: as in :class:`distill.data.batch.Batch`, with C captions a sample.
            teachers: the outputs of every teacher by name, [n, 1 or C, …].

        Returns:
            float32 rows by name, [n, 1 or C, …]: "image" and "text", unit rows [n, 1 or C, D]; ``MODALITY_OUTPUT``,
            such as "image_tokens", for further outputs of a student; ``k/NAME`` for the rows of the projection to
            teacher k. Also "scale" (1/τ) and "bias", [1] or one per loss term.
        """
        outputs = self.student_outputs(inputs, teachers)
        rows: Rows = {}
        for modality, tower_outputs in outputs.items():
            rows[modality] = unit(tower_outputs["embedding"])
            if self.between:
                rows[modality] = self.between[FOLDED[modality]](rows[modality])
            rows |= {
                f"{modality}_{name}": value.float() for name, value in tower_outputs.items() if name != "embedding"
            }
        compared = dict(outputs)
        if "mixed" in inputs:  # the teachers' outputs are of the mixed images
            compared["image"] = self.image_outputs(inputs["mixed"], teachers)
        for k, (space, teacher) in enumerate(zip(self.spaces, teachers, strict=False)):
            rows |= {f"{k}/{name}": value for name, value in space(compared, teacher).items()}
        rows["scale"] = self.scale()
        if self.bias is not None:
            rows["bias"] = self.bias.float()
        return rows

    def student_outputs(self, inputs: Mapping[str, torch.Tensor], teachers: Sequence[Outputs]) -> dict[str, Outputs]:
        """The outputs of every student by modality, [n, C, …]."""
        outputs: dict[str, Outputs] = {}
        if "text" in self.modalities:  # first: the order of the towers decides which random numbers dropout draws
            n, captions, context = inputs["text"].shape
            text = self.get_submodule("text")(inputs["text"].view(n * captions, context), self.outputs["text"])
            outputs["text"] = {name: value.unflatten(0, (n, captions)) for name, value in text.items()}
        outputs["image"] = self.image_outputs(inputs.get("image"), teachers)
        return {modality: outputs[modality] for modality in self.modalities}

    def image_outputs(self, images: torch.Tensor | None, teachers: Sequence[Outputs]) -> Outputs:
        """The outputs of the image student, [n, 1, …], from images or from the embedding of a locked teacher."""
        tower = self.get_submodule("image")
        if isinstance(tower, OnTeacher):
            outputs = tower(teachers[0]["embedding"][:, 0], images)
        else:
            outputs = tower(images, self.outputs["image"])
        return {name: value[:, None] for name, value in outputs.items()}

    def scale(self) -> torch.Tensor:
        """1/τ, clamped to ``MAX_SCALE``; the gradient ignores the clamp, so a clamped τ can grow again.

        An optimiser step may move ``log_scale`` beyond the bound; :class:`~distill.training.step.Step` clamps it.
        """
        return scale_of(self.log_scale)


def scale_of(log_scale: torch.Tensor) -> torch.Tensor:
    """1/τ from its logarithm; see :meth:`Model.scale`."""
    log = log_scale.float()
    return (log + (log.clamp(max=MAX_LOG_SCALE) - log).detach()).exp()


def student_tensors(model: Model, averages: Mapping[str, torch.Tensor] = MappingProxyType({})) -> Outputs:
    """The exported tensors of a model, on the CPU: ``image.*``, ``text.*`` and ``scale`` (1/τ). No teacher, no heads.

    For students that were trained without heads, also ``adapter.*`` of the first teacher, with which evaluations can
    combine teacher and image student. Exports leave it out.

    Args:
        model: with its weights as they are.
        averages: by the names of parameters, values that are taken instead, see :mod:`distill.training.averaging`.
    """
    with zero.full_parameters(model):
        whole = on_cpu(model) | dict(averages)
    tensors: dict[str, torch.Tensor] = {}
    for modality, tower in model.towers.items():
        state = part_of(whole, modality)
        if FOLDED[modality] in model.between:
            fold(state, tower.projection(), whole[f"between.{FOLDED[modality]}.weight"])
        tensors |= {f"{modality}.{key}": value for key, value in state.items()}
    first = next(iter(model.spaces), None)
    if isinstance(first, SharedSpace) and not first.heads:
        tensors |= {f"adapter.{key}": value for key, value in part_of(whole, "spaces.0.adapter").items()}
    return tensors | {"scale": scale_of(whole["log_scale"])[:1]}


def part_of(state: Mapping[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    """The state dict of a module, from that of the model it is in."""
    return {name.removeprefix(f"{module}."): value for name, value in state.items() if name.startswith(f"{module}.")}


def on_cpu(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state dict, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}


def fold(state: dict[str, torch.Tensor], projection: str, head: torch.Tensor) -> None:
    """Multiply a head without bias into the projection before it, in place.

    Both are linear, and embeddings are normalised, so the result does not depend on the length between them.
    """
    for part in (f"{projection}.weight", f"{projection}.bias"):
        if part in state:
            state[part] = head @ state[part]


def parameter_counts(model: Model) -> dict[str, int]:
    """The number of trainable parameters of each student, and of "heads": all projections, which are not exported."""
    parts: dict[str, list[nn.Module]] = {modality: [tower] for modality, tower in model.towers.items()}
    parts["heads"] = [model.spaces, model.between]
    return {
        name: sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
        for name, modules in parts.items()
    }
