"""The tables of a recipe as frozen pydantic models, which check every value.

``[data]`` is in ``data_table.py``, ``[student]`` in ``tables.py``; ``[zero]``, ``[checkpoint]``, ``[[evaluate]]`` and
``[log]`` in ``run_tables.py``.

A recipe is one TOML file that says everything about a run. ``recipe.py`` reads and writes it. The "Attributes:" of
each model are also what ``distill recipe show`` says of its keys.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from distill.data_table import Data
from distill.errors import UserError
from distill.run_tables import Checkpoint, EvaluateTable, LogTable, Zero
from distill.tables import TEACHER, Open, Student, Table


class TeacherTable(Table):
    """A frozen pretrained encoder; there is one [[teacher]] for each.

    Attributes:
        name: the name of a card, see ``distill teachers list``; ``timm/ARCH`` for any timm model; or the path of a
            folder, such as ``./FOLDER``, that timm, transformers, open_clip or sentence-transformers has saved.
        tower: which tower of a pair, such as a CLIP, teaches: "image", "text", or "both", which are then two teachers
            with this table. "" takes the image tower, or else the text tower.
        weights: path of a file with other weights of that architecture: safetensors, or a pickle that holds nothing
            but tensors. "" takes the published weights.
        sha256: the SHA-256 of the file ``weights``, or its first hexadecimal digits; "" accepts any file.
        cache: where the teacher's outputs are kept: "auto" (beside the shards, computed when missing), a folder, or
            "none" (nothing is kept: the teacher runs while training).
        views: how many deterministic views of each image are cached, at least 1; view 0 is the image without
            augmentation. The cache of a text teacher has all captions.
        weight: the weight of this teacher's transfer terms in the loss, from 0 on.
        dtype: number type of the cached outputs: "fp32", "fp16" or "bf16".
        image_size: side of the teacher's square input, in pixels, at most 8192; 0 takes the size on the card.
        audit: how many cached outputs are compared with those of the loaded teacher before training starts; 0 compares
            none, and then the teacher's weights are not needed.
    """

    name: str
    tower: Literal["", "image", "text", "both"] = ""
    weights: str = ""
    sha256: str = ""
    cache: str = "auto"
    views: int = Field(default=1, ge=1)
    weight: float = Field(default=1.0, ge=0)
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    image_size: int = Field(default=0, ge=0, le=8192)
    audit: int = Field(default=8, ge=0)

    @field_validator("sha256")
    @classmethod
    def hexadecimal(cls, value: str) -> str:
        if any(c not in "0123456789abcdefABCDEF" for c in value) or len(value) > 64:
            raise ValueError("must be the hexadecimal digits of a SHA-256")
        return value

    @model_validator(mode="after")
    def of_a_file(self) -> TeacherTable:
        if self.sha256 and not self.weights:
            raise ValueError("sha256 is that of weights: name the file")
        return self


class ObjectiveTable(Open):
    """What is optimised. The other keys are the objective's own options.

    Attributes:
        name: the name of an objective: a module of ``losses/objectives/``, or one that another installed package
            brings.
    """

    name: str = "three_towers"


class Optim(Open):
    """Optimiser and learning rate: linear warm-up, then cosine decay to zero. The other keys are the optimiser's own.

    Attributes:
        name: the name of an optimiser: a module of ``distill/training/optimizers/``, or one that another installed
            package brings.
        lr: the learning rate at the end of the warm-up, above 0.
        weight_decay: decoupled weight decay, from 0 on; only for the kernels of linear layers and convolutions.
        warmup: length of the linear warm-up: below 1 a share of all steps, from 1 on a number of steps.
        clip: the largest global norm of the gradient, above which it is scaled down; 0 switches clipping off.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: str = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, ge=0)


class Train(Table):
    """How long training is, in which batches and precision. Exactly one of steps, epochs and examples is set.

    Attributes:
        steps: length of the training as a number of optimiser steps, at least 1.
        epochs: length of the training as a number of passes over the images of data.train, above 0, also a fraction;
            not for streams.
        examples: length of the training as a number of images, at least 1.
        batch_size: number of images in a batch, over all processes and a multiple of their number; the loss compares
            all of them with each other.
        micro_batch: how many images a process embeds at a time; 0 embeds its whole share of the batch. The loss and
            its gradient stay those of the whole batch (gradient caching), at the cost of a second forward pass.
        ema: decay of a moving average of the weights, 0 to below 1, such as 0.999; the average is what is evaluated,
            exported and started from. At the beginning the decay is smaller. 0 keeps none.
        precision: number type of the forward and backward pass: "fp32" or "bf16".
        seed: number from which the order of the data, augmentation, first weights and dropout follow, from 0 on.
        skip_nonfinite: how many steps whose loss or gradient is not finite are skipped before training stops; 0 stops
            at the first.
        stall_seconds: after how many seconds, above 0, a process that the others wait for is named in a message.
    """

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    examples: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=256, gt=0)
    micro_batch: int = Field(default=0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0)
    skip_nonfinite: int = Field(default=0, ge=0)
    stall_seconds: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def one_length(self) -> Train:
        if sum(v is not None for v in (self.steps, self.epochs, self.examples)) != 1:
            raise ValueError("exactly one of steps, epochs and examples must be set")
        return self


class Recipe(Table):
    """Everything about a run.

    Attributes:
        data: where pairs come from.
        teacher: the frozen encoders, in the order that the objective reads them; none trains from scratch.
        student: the towers that are trained.
        objective: what is optimised.
        optim: optimiser and learning-rate schedule.
        train: how long and with which batch.
        zero: DeepSpeed's ZeRO stage.
        checkpoint: when the state is saved.
        evaluate: what is measured while training.
        log: where numbers are written.
    """

    data: Data
    teacher: tuple[TeacherTable, ...] = ()
    student: Student = Student()
    objective: ObjectiveTable = ObjectiveTable()
    optim: Optim = Optim()
    train: Train = Train(epochs=30)
    zero: Zero = Zero()
    checkpoint: Checkpoint = Checkpoint()
    evaluate: tuple[EvaluateTable, ...] = ()
    log: LogTable = LogTable()

    @model_validator(mode="after")
    def makes_sense(self) -> Recipe:
        if self.on_teacher and not self.teacher:
            raise ValueError('student.image.arch = "teacher" needs a [[teacher]]: the first is the image tower')
        if self.student.image.init == TEACHER and not self.teacher:
            raise ValueError('student.image.init = "teacher" needs a [[teacher]] to start from')
        if self.student.text.init == TEACHER:
            raise ValueError("student.text.init starts from an export; a teacher is no text student")
        if self.data.streamed and self.train.epochs is not None:
            raise ValueError("streams have no epochs: set train.steps or train.examples instead of train.epochs")
        if min(self.batch_parts) < bool(self.data.pictures):
            raise ValueError(
                "data.pictures_share leaves no captioned image in a batch: lower it, or enlarge the batch"
            )
        if sum(bool(table.best) for table in self.evaluate) > 1:
            raise ValueError("only one of evaluate may set best: one checkpoint is kept as the best")
        return self

    @property
    def batch_parts(self) -> tuple[int, int]:
        """The numbers of images in a global batch that come from ``data.train`` and from ``data.pictures``."""
        size = self.train.batch_size
        pictures = max(1, round(self.data.pictures_share * size)) if self.data.pictures else 0
        return size - pictures, pictures

    def total_steps(self, samples: int) -> int:
        """Optimiser steps over a training set of ``samples`` images, not counting those of ``data.pictures``."""
        train = self.train
        if train.steps is not None:
            return train.steps
        if train.examples is not None:
            return max(1, -(-train.examples // train.batch_size))
        return max(1, -(-round((train.epochs or 0) * samples) // self.batch_parts[0]))

    @property
    def on_teacher(self) -> bool:
        """Whether the image tower is the locked first teacher, or contains it (LiT, FlexiLiT)."""
        return self.student.image.arch == TEACHER


def pieces_of(recipe: Recipe, world: int) -> int:
    """Into how many micro-batches each process divides its share of a batch.

    Args:
        recipe: with batch size and micro-batch.
        world: number of processes.

    Raises:
        UserError: if the batch is no multiple of the processes, or a share of it none of the micro-batch.
    """
    size, micro = recipe.train.batch_size, recipe.train.micro_batch
    if size % world:
        raise UserError(
            f"train.batch_size = {size} does not divide among {world} processes.", f"Choose a multiple of {world}."
        )
    share = size // world
    if micro and share % min(micro, share):
        raise UserError(
            f"train.micro_batch = {micro} does not divide the {share} samples of a process.",
            f"Choose a divisor of {share}.",
        )
    pieces = share // min(micro, share) if micro else 1
    captioned, pictures = recipe.batch_parts
    if pictures % (world * pieces):
        raise UserError(
            f"A batch has {captioned} captioned images and {pictures} of data.pictures, which do not divide among "
            f"{world} processes with {pieces} micro-batches each.",
            f"Choose data.pictures_share and train.batch_size so that both are multiples of {world * pieces}.",
        )
    return pieces
