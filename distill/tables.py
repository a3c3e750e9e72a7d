"""The recipe's ``[student]``, two towers and what their captions become; and what all tables have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NO_TOWER = "none"  # student.text.arch of a run without a text student; text = false says the same
TEACHER = "teacher"  # student.image.arch of a run whose image tower is the frozen teacher itself (LiT)


class Table(BaseModel):
    """A table of a recipe: frozen, and closed to keys it does not know."""

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
    """A SentencePiece model: ``file``, or one of ``vocab`` pieces trained from the training captions."""

    vocab: int = Field(default=4000, gt=3)
    file: str = ""


class TowerTable(Open):
    """A tower: ``arch``, the options of that architecture, and how it starts and learns.

    With ``init``, ``locked``, ``lr_scale`` and ``delay`` these are the settings of LiT (arXiv 2111.07991): u without
    any, U with ``init``, L with ``init`` and ``locked``; the schedules of its appendix F with the last two.

    Attributes:
        init: weights to start from: an export, or for an image tower "teacher" (the first one, of the same ``arch``).
        locked: true locks all but the projection, a list locks the named parts only.
        lr_scale: times optim.lr.
        delay: share of the steps before the tower starts to learn; its warm-up and decay fill the rest.
    """

    arch: str
    init: str = ""
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


class ImageTowerTable(TowerTable):
    """The image tower: any timm architecture, or arch = "teacher": the first teacher, locked, is inside.

    Attributes:
        layers: on a teacher, layers of a learned MLP on its embedding: 0 is LiT, 1 LiT with a linear head, 4
            FlexiLiT (arXiv 2305.16999, section E.5).
        beside: on a teacher, a learned timm network beside it, joined by the MLP (FlexiLiT 2).
    """

    layers: int = Field(default=0, ge=0)
    beside: dict[str, Any] | None = None

    @model_validator(mode="after")
    def on_teacher_only(self) -> ImageTowerTable:
        if self.arch != TEACHER and (self.layers or self.beside):
            raise ValueError('layers and beside are for arch = "teacher", the locked teacher as image tower')
        extra = [*self.options, *(n for n in ("init", "locked") if getattr(self, n))]
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
        width: D, the width of the shared embedding.
        image: the image tower.
        text: the text tower and its options, see ``students/texts/``; false trains an image tower alone.
        tokenizer: how captions become tokens.
        temperature: τ at the start; learned from there.
        alpha: evaluate α·h(I) + (1 − α)·f(I), h the first teacher through its adapter, instead of f(I). Needs towers
            that were trained without heads (arXiv 2305.16999, section E.4); what is exported is f and g all the same.
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
