"""Recipes: what a run is, checked before anything else happens.

A recipe is one TOML file, and every table of it is a frozen model, here or in ``tables.py``. ``recipe.py``
reads and writes it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from distill.errors import UserError
from distill.tables import TEACHER, Open, Student, Table

CAPTION_KEYS = ("captions", "caption")  # of a sample's JSON, also where there is no recipe


def is_remote(spec: str) -> bool:
    """Whether a specification of shards names streams instead of files."""
    return "://" in spec or spec.startswith("pipe:")


class Data(Table):
    """Where pairs come from and how an image and a caption are drawn from a sample.

    Attributes:
        train, eval: WebDataset shards: brace notation, a folder, or a list of either. For training also streams:
            http://…, https://…, s3://…, pipe:COMMAND.
        image_size: side of the student's input, in pixels.
        captions: "sample" draws one of an image's captions anew each epoch, "first" always takes the first, "joint"
            trains on several at once, with the losses summed (LiT, arXiv 2111.07991, appendix C).
        captions_per_image: with "joint", how many at once; an image with fewer repeats its own, one with more goes
            on with the next in the next epoch.
        caption_keys: the keys of ``KEY.json`` that hold captions; ``KEY.txt``, where present, comes first.
        languages: keep only captions of these languages (and those without one); empty keeps all.
        first_share: with "sample", how often the first caption is drawn; null draws all alike.
        crop: smallest and largest share of the image's area that an augmented view shows.
        flip: whether a view may be mirrored.
        workers: loader processes for each training process; 0 loads in the training process.
        bad_samples: how many samples that cannot be used (an image that does not decode, no caption) training passes
            over before it stops: a share of all below 1, a number from 1 on.
        timeout: of streams: how many seconds one may send nothing.
        retries: of streams: after how many faults in a row one is given up.
    """

    train: tuple[str, ...]
    eval: tuple[str, ...] = ()
    image_size: int = Field(default=224, gt=0, le=8192)
    captions: Literal["sample", "first", "joint"] = "sample"
    captions_per_image: int = Field(default=2, ge=2)
    caption_keys: tuple[str, ...] = CAPTION_KEYS
    languages: tuple[str, ...] = ()
    first_share: float | None = Field(default=None, ge=0, le=1)
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    workers: int = Field(default=1, ge=0)
    bad_samples: float = Field(default=0.01, ge=0)
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    retries: int = Field(default=5, ge=0)

    @field_validator("train", "eval", mode="before")
    @classmethod
    def one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def streamed(self) -> bool:
        """Whether training reads streams, instead of shards that can be addressed."""
        return any(is_remote(spec) for spec in self.train)

    @property
    def captions_at_once(self) -> int:
        """C, the captions of an image in one batch."""
        return self.captions_per_image if self.captions == "joint" else 1

    @field_validator("crop")
    @classmethod
    def ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must be two numbers with 0 < smallest <= largest <= 1")
        return value


class TeacherTable(Table):
    """One frozen pretrained encoder.

    Attributes:
        name: a card's name, see ``distill teachers list``; ``timm/ARCH`` for any timm model; or the path of a folder,
            as ``./FOLDER``, that timm or sentence-transformers has saved.
        weights: a file with other weights of that architecture: safetensors, or a pickle of nothing but tensors.
        sha256: of that file, or the first digits of it; "" accepts any.
        cache: "auto" (embeddings kept beside the shards, made when missing), a folder, or "none" (online).
        views: how many deterministic views of each image are cached; view 0 is the plain image.
        weight: the weight of this teacher's transfer terms.
        dtype: of the cached embeddings.
        image_size: side of the teacher's input, in pixels; 0 takes the card's.
        audit: how many cached embeddings are compared with the live teacher's before training starts; 0 compares none
            and does without the teacher's weights.
    """

    name: str
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
    """The objective: a module of ``losses/objectives/`` and its own options."""

    name: str = "three_towers"


class Optim(Open):
    """Optimiser and schedule: linear warm-up, then cosine decay to zero. Further keys are the optimiser's own options.

    Attributes:
        name: a module of ``distill/training/optimizers/``, or an optimiser that another installed package brings.
        lr: the learning rate at the end of the warm-up.
        weight_decay: decoupled; only of the kernels of linear layers and convolutions.
        warmup: a fraction of all steps below 1, a number of steps from 1 on.
        clip: largest global gradient norm; 0 switches clipping off.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    name: str = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0)
    clip: float = Field(default=1.0, ge=0)


class Train(Table):
    """How long, how much at a time, how precisely. Exactly one of ``steps``, ``epochs``, ``examples``.

    Attributes:
        batch_size: of the loss, over all processes.
        micro_batch: how many samples a process embeds at a time; 0: its whole share. The loss and its gradient stay
            those of the whole batch (gradient caching), for the price of a second forward.
        skip_nonfinite: how many steps whose loss or gradient is not finite are passed over before training stops.
        stall_seconds: after which a process that the others wait for is named.
    """

    steps: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    examples: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=256, gt=0)
    micro_batch: int = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = Field(default=0, ge=0)
    skip_nonfinite: int = Field(default=0, ge=0)
    stall_seconds: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def one_length(self) -> Train:
        if sum(v is not None for v in (self.steps, self.epochs, self.examples)) != 1:
            raise ValueError("exactly one of steps, epochs and examples must be set")
        return self

    def total_steps(self, samples: int) -> int:
        """Optimiser steps over a training set of ``samples`` images."""
        if self.steps is not None:
            return self.steps
        examples = self.examples if self.examples is not None else round((self.epochs or 0) * samples)
        return max(1, -(-examples // self.batch_size))


class Zero(Table):
    """DeepSpeed's ZeRO stage: 0 replicates, 1 shards optimiser state, 2 also gradients, 3 also weights."""

    stage: Literal[0, 1, 2, 3] = 0


class Checkpoint(Table):
    """A checkpoint every so many steps, every so many minutes (0: never), and at the end; ``keep`` of them stay."""

    every_steps: int = Field(default=1000, gt=0)
    every_minutes: float = Field(default=0.0, ge=0)
    keep: int = Field(default=2, gt=0)


class Recipe(Table):
    """Everything about a run."""

    data: Data
    teacher: tuple[TeacherTable, ...] = ()
    student: Student = Student()
    objective: ObjectiveTable = ObjectiveTable()
    optim: Optim = Optim()
    train: Train = Train(epochs=30)
    zero: Zero = Zero()
    checkpoint: Checkpoint = Checkpoint()

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
        return self

    @property
    def on_teacher(self) -> bool:
        """Whether the locked teacher is the image tower, or part of it (LiT, FlexiLiT)."""
        return self.student.image.arch == TEACHER


def pieces_of(recipe: Recipe, world: int) -> int:
    """How many micro-batches each process's share of a batch is cut into.

    Raises:
        UserError: if batch, processes and micro-batch do not divide.
    """
    size, micro = recipe.train.batch_size, recipe.train.micro_batch
    if size % world:
        raise UserError(
            f"train.batch_size = {size} does not divide among {world} processes.", f"Choose a multiple of {world}."
        )
    share = size // world
    if not micro or micro >= share:
        return 1
    if share % micro:
        raise UserError(
            f"train.micro_batch = {micro} does not divide the {share} samples of a process.",
            f"Choose a divisor of {share}.",
        )
    return share // micro
