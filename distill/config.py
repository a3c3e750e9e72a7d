"""The tables of a recipe as frozen pydantic models, which check every value.

``[student]`` is in ``tables.py``; ``[zero]``, ``[checkpoint]``, ``[[evaluate]]`` and ``[log]`` in ``run_tables.py``.

A recipe is one TOML file that says everything about a run. ``recipe.py`` reads and writes it. The "Attributes:" of
each model are also what ``distill recipe show`` says of its keys.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from distill.errors import UserError
from distill.run_tables import Checkpoint, EvaluateTable, LogTable, Zero
from distill.tables import TEACHER, Open, Student, Table

CAPTION_KEYS = ("captions", "caption")  # keys of a sample's JSON that hold captions, if no recipe says others


def is_remote(spec: str) -> bool:
    """Whether a specification of shards is an address or a command, which are read as streams, and not a path."""
    return "://" in spec or spec.startswith("pipe:")


class Data(Table):
    """Where image-text pairs come from, and how an image and a caption are drawn from a sample.

    Attributes:
        train: training shards in the WebDataset layout: a path with brace notation, a folder, or a list of either;
            also streams: http://…, https://…, s3://…, pipe:COMMAND, where a shard may also be compressed with gzip,
            bzip2 or xz. Of a folder, its own .tar files are read, not those in its subfolders.
        eval: shards to evaluate on: a path with brace notation, a folder, or a list of either.
        image_size: side of the student's square input, in pixels, 1 to 8192.
        captions: "sample" draws one of an image's captions anew each epoch, "first" always takes the first, "joint"
            trains on several at once, with the losses summed (LiT, arXiv 2111.07991, appendix C).
        captions_per_image: with captions = "joint", how many captions of an image are in one batch, at least 2. An
            image with fewer repeats them; one with more continues with the next ones in the next epoch.
        caption_keys: the keys of ``KEY.json`` that hold captions; ``KEY.txt``, where present, comes first.
        languages: language codes; only captions of these languages, and those without one, are kept. Empty keeps all.
        first_share: with captions = "sample", the probability, 0 to 1, that the first caption is drawn; if it is not
            set, all captions are equally likely.
        crop: smallest and largest share of the image's area that an augmented view shows, each above 0 and at most 1.
        flip: whether a view may be mirrored left to right: true or false.
        workers: number of loader processes for each training process; 0 loads in the training process.
        bad_samples: how many samples that cannot be used (an image that does not decode, no caption) training skips
            before it stops: below 1 a share of all samples, from 1 on a number of samples.
        timeout: for streams: after how many seconds without data a connection has failed, above 0 and at most 86400.
        retries: for streams: how many failures in a row are followed by another attempt; after that the rest of the
            stream counts as bad samples.
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
        """Whether training reads streams, instead of shard files of which any sample can be read at any time."""
        return any(is_remote(spec) for spec in self.train)

    @property
    def captions_at_once(self) -> int:
        """C, the number of captions of each image in one batch."""
        return self.captions_per_image if self.captions == "joint" else 1

    @field_validator("crop")
    @classmethod
    def ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must be two numbers with 0 < smallest <= largest <= 1")
        return value


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
            augmentation.
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
        epochs: length of the training as a number of passes over the training images, above 0, also a fraction; not
            for streams.
        examples: length of the training as a number of images, at least 1.
        batch_size: number of images in a batch, over all processes and a multiple of their number; the loss compares
            all of them with each other.
        micro_batch: how many images a process embeds at a time; 0 embeds its whole share of the batch. The loss and
            its gradient stay those of the whole batch (gradient caching), at the cost of a second forward pass.
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
        if sum(bool(table.best) for table in self.evaluate) > 1:
            raise ValueError("only one of evaluate may set best: one checkpoint is kept as the best")
        return self

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
    if not micro or micro >= share:
        return 1
    if share % micro:
        raise UserError(
            f"train.micro_batch = {micro} does not divide the {share} samples of a process.",
            f"Choose a divisor of {share}.",
        )
    return share // micro
