"""The recipe's ``[student]``: the two towers and the tokenizer; and the base classes of all tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NO_TOWER = "none"  # student.text.arch of a run without a text student; text = false says the same
NOT_OPTIONS = ("init", "select", "locked", "lr_scale", "delay")  # keys of a tower beside its architecture's own
TEACHER = "teacher"  # student.image.arch of a run whose image tower is the locked teacher (LiT)


class Table(BaseModel):
    """A table of a recipe: it cannot be changed, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """A table whose further keys are options of what it names: a timm model, text tower, objective or optimiser."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @model_validator(mode="after")
    def options_can_be_read_back(self) -> Open:
        for key, value in self.options.items():
            if not is_comparable(value):
                raise ValueError(f"the option '{key}' contains null, which TOML does not have, or not a number (nan)")
        return self

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def is_comparable(value: Any) -> bool:
    """Whether a value can be written as TOML and is equal to what is read back: without null and without nan."""
    if isinstance(value, dict):
        return all(is_comparable(v) for v in value.values())
    if isinstance(value, list | tuple):
        return all(is_comparable(v) for v in value)
    return value is not None and value == value


class TokenizerTable(Table):
    """The SentencePiece model that turns captions into tokens: one from a file, or one trained from the captions.

    Attributes:
        vocab: number of pieces of the tokenizer that is trained from the training captions, at least 4; not used with
            ``file``.
        file: path of a SentencePiece model to use instead; "" trains one.
    """

    vocab: int = Field(default=4000, gt=3)
    file: str = ""


class TowerTable(Open):
    """A tower: its architecture, how it starts and learns. The other keys are options of the architecture.

    The settings of LiT (arXiv 2111.07991) are: u with neither ``init`` nor ``locked``, U with ``init``, L with both;
    ``lr_scale`` and ``delay`` are the schedules of its appendix F.

    Attributes:
        arch: the name of a text architecture: a module of ``students/texts/``, or one that another installed package
            brings; "none" trains an image tower alone.
        init: weights to start from: the folder of an export or a run, or what the architecture reads of other tools;
            "" starts from random weights.
        select: what a tower takes of weights that are larger than it: "first" and "even" take the evenly spaced part
            of every tensor (weight selection, arXiv 2311.18823), and of more layers the first ones, or evenly spaced
            ones as TinyCLIP does (2309.12314); "none" takes only weights of its own size.
        locked: true locks all weights but the last projection, which needs ``init``; a list of module names locks
            those only; false locks nothing.
        lr_scale: factor of optim.lr for this tower, from 0 on.
        delay: share of all steps, 0 to below 1, before the tower starts to learn; warm-up and decay of its learning
            rate take place in the rest.
    """

    arch: str
    init: str = ""
    select: Literal["none", "first", "even"] = "none"
    locked: bool | tuple[str, ...] = False
    lr_scale: float = Field(default=1.0, ge=0)
    delay: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("locked", mode="before")
    @classmethod
    def one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def something_to_lock(self) -> TowerTable:
        if self.locked is True and not self.init:
            raise ValueError("locked = true locks random weights: say with init where better ones are")
        return self

    @model_validator(mode="after")
    def something_to_select_from(self) -> TowerTable:
        if self.select != "none" and not self.init:
            raise ValueError("select takes a part of larger weights: say with init where they are")
        return self

    @model_validator(mode="after")
    def no_tower_no_settings(self) -> TowerTable:
        settings = [*self.options, *(name for name in NOT_OPTIONS if self.is_set(name))]
        if self.arch == NO_TOWER and settings:
            raise ValueError(f'arch = "{NO_TOWER}" is no tower: leave out {", ".join(settings)}')
        return self

    def is_set(self, name: str) -> bool:
        """Whether a key has another value than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class ImageTowerTable(TowerTable):
    """The image tower: a timm architecture, or the locked first teacher. The other keys are options of timm's.

    Attributes:
        arch: the name of a timm architecture, or "teacher": the first teacher, locked.
        init: weights to start from: "teacher", the first teacher; any teacher's name, ``timm/ARCH`` among them; the
            folder of an export, a run or a timm model; a file of weights. "" starts from random weights. The
            architecture must be the same, or with ``select`` one of the same family.
        mean, std: of the three channels of pixels in [0, 1], with which the tower normalises its input; by default
            those that the weights of ``init`` were trained with, else those of the architecture in timm.
        layers: with arch = "teacher", number of layers of a learned MLP on the teacher's embedding: 0 for LiT, 1 for
            LiT with a linear head, 4 for FlexiLiT (arXiv 2305.16999, section E.5). A list is timm's option of that
            name, such as the layers in each stage of a ResNet.
        beside: with arch = "teacher" and ``layers``, a table with the ``arch`` of a timm network, and its options,
            that is trained beside the teacher; the MLP joins both embeddings (FlexiLiT 2).
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layers: Annotated[int, Field(ge=0)] | tuple[int, ...] = 0
    beside: dict[str, Any] | None = None

    @property
    def options(self) -> dict[str, Any]:
        timm_layers = {"layers": self.layers} if isinstance(self.layers, tuple) else {}
        return super().options | timm_layers

    @property
    def mlp_layers(self) -> int:
        """The number of layers of the MLP on a locked teacher."""
        return 0 if isinstance(self.layers, tuple) else self.layers

    @model_validator(mode="after")
    def three_channels(self) -> ImageTowerTable:
        if (len(self.mean), len(self.std)) not in ((0, 0), (3, 3)) or min(self.std, default=1.0) <= 0:
            raise ValueError("mean and std are three numbers each, for red, green and blue; std is above 0")
        return self

    @model_validator(mode="after")
    def on_teacher_only(self) -> ImageTowerTable:
        if self.arch != TEACHER and (self.mlp_layers or self.beside):
            raise ValueError('layers and beside are for arch = "teacher", the locked teacher as image tower')
        extra = [*self.options, *(n for n in ("init", "locked", "mean", "std") if getattr(self, n))]
        if self.arch == TEACHER and extra:
            raise ValueError(f'arch = "teacher" is the locked teacher itself: leave out {", ".join(extra)}')
        if self.beside is not None and not self.layers:
            raise ValueError("beside needs layers: an MLP that joins both networks, of 4 layers in FlexiLiT 2")
        if self.beside is not None and not isinstance(self.beside.get("arch"), str):
            raise ValueError("beside needs an arch: a timm architecture")
        if self.beside is not None and not is_comparable(self.beside):
            raise ValueError("beside contains null, which TOML does not have, or not a number (nan)")
        return self


class Student(Table):
    """The two towers that are trained.

    Attributes:
        width: D, the number of dimensions of the shared embedding, at least 1.
        image: the image tower.
        text: the text tower and its options; false trains an image tower alone.
        tokenizer: how captions become tokens.
        temperature: τ of the loss at the start, 0.01 to 1; it is learned.
        alpha: share α, 0 to 1, of the teacher in the image embedding that is evaluated, α·h(I) + (1 − α)·f(I), with h
            the first teacher through its adapter. Above 0 it needs towers that were trained without heads (arXiv
            2305.16999, section E.4). What is exported are f and g in any case.
    """

    width: int = Field(default=512, gt=0)
    image: ImageTowerTable = ImageTowerTable(arch="vit_tiny_patch16_224")
    text: TowerTable = TowerTable(arch="transformer")
    tokenizer: TokenizerTable = TokenizerTable()
    temperature: float = Field(default=0.07, ge=0.01, le=1.0)
    alpha: float = Field(default=0.0, ge=0, le=1)

    @field_validator("text", mode="before")
    @classmethod
    def no_tower_if_false(cls, value: Any) -> Any:
        return {"arch": NO_TOWER} if value is False else value
