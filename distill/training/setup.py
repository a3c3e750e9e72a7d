"""Builds the parts of a run from a resolved recipe: transform, pairs, and the networks, each once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

import students
import teachers
from distill.data.captions import Captions
from distill.data.pairs import JoinedPairs, Pairs
from distill.data.shards import Shards
from distill.data.teacher_inputs import NoInput, PixelInput, TeacherInput, TokenInput
from distill.data.transform import Transform, TransformOptions
from distill.errors import UserError, as_user_errors
from distill.initial import Statistics
from distill.resolved import ResolvedRecipe, ResolvedTeacher
from distill.tables import TEACHER, TowerTable
from distill.text_sources import source_tokenizer
from distill.training.caches import cached_input, views_of
from distill.training.initial_weights import read_image, read_text
from distill.training.model import Model


def transform_of(
    resolved: ResolvedRecipe,
    tokenizer: students.Tokenizer | None,
    shards: Shards | None = None,
    pictures: bool = False,
) -> Transform:
    """The transform from a run's samples to batches.

    Args:
        resolved: the recipe.
        tokenizer: the text student's; None without a text student.
        shards: the shards of the samples; None for streams, with which teachers have no caches.
        pictures: whether the samples are pictures of which no captions are read.
    """
    recipe = resolved.recipe
    reads_pixels = not recipe.on_teacher or recipe.student.image.beside is not None
    interpolation = "bicubic"
    if recipe.on_teacher and resolved.first is not None:
        # A network beside the locked teacher reads the same pixels as the teacher, in training and after export.
        interpolation = resolved.first.interpolation
    options = TransformOptions(
        captions=Captions.from_table(recipe.data),
        views=views_of(resolved),
        side=recipe.data.image_size if reads_pixels else 0,
        seed=recipe.train.seed,
        count=recipe.data.captions_at_once,
        interpolation=interpolation,
        mixup=resolved.needs.mixup,
        student_augment=recipe.data.student_augment,
    )
    inputs = [input_of(resolved, teacher, shards, pictures) for teacher in resolved.teachers]
    return Transform(None if pictures else tokenizer, inputs, options)


def pairs_of(
    resolved: ResolvedRecipe, shards: Shards, tokenizer: students.Tokenizer | None, one_machine: bool = True
) -> Pairs:
    """The training pairs of a run on shards; for ``one_machine`` see :class:`~distill.data.pairs.Pairs`."""
    order, size = shards.order_of(resolved.recipe.train.seed), resolved.recipe.batch_parts[0]
    return Pairs(shards, transform_of(resolved, tokenizer, shards), order, size, one_machine)


def with_pictures(resolved: ResolvedRecipe, pairs: Pairs, pictures: Shards) -> JoinedPairs:
    """Training pairs joined with pictures of which no captions are read."""
    order, size = pictures.order_of(resolved.recipe.train.seed), resolved.recipe.batch_parts[1]
    transform = transform_of(resolved, None, pictures, pictures=True)
    return JoinedPairs(pairs, Pairs(pictures, transform, order, size, pairs.one_machine))


def input_of(
    resolved: ResolvedRecipe, teacher: ResolvedTeacher, shards: Shards | None, pictures: bool = False
) -> TeacherInput:
    """The :class:`TeacherInput` of a teacher; for the arguments see :func:`transform_of`."""
    if teacher.card.modality == "text" and pictures:
        return NoInput()
    if not teacher.online:
        assert shards is not None, "streams have no caches: distill.lookup.resolve refuses them"
        return cached_input(resolved, teacher, shards)
    if teacher.card.modality == "text":
        with as_user_errors():
            return TokenInput(teachers.tokenizer(teacher.card))
    return PixelInput(teacher.image_size, teacher.card.interpolation)


class Networks:
    """The networks of a run, each built or loaded when it is first used, at most once per process.

    Args:
        resolved: the recipe of the run.
        initialize: whether students get the initial weights that the recipe names; not if a checkpoint has theirs.

    Attributes:
        inherited: where the initial weights of each student come from; not of those that are random.
    """

    def __init__(self, resolved: ResolvedRecipe, initialize: bool = True) -> None:
        self.resolved, self.initialize = resolved, initialize
        self.inherited: dict[str, students.Inherited] = {}
        self._teachers: dict[int, teachers.Teacher] = {}
        self._image: students.Tower | None = None
        self._model: Model | None = None
        self._random_state = torch.empty(0)

    def teacher(self, k: int, device: torch.device | str = "cpu") -> teachers.Teacher:
        """Teacher k of ``resolved.teachers``, on a device.

        Raises:
            UserError: if its weights cannot be loaded or do not fit the architecture.
        """
        if k not in self._teachers:
            teacher = self.resolved.teachers[k]
            image_size = teacher.table.image_size if teacher.card.modality == "image" else 0
            with as_user_errors():
                self._teachers[k] = teachers.load(teacher.card, image_size, teacher.outputs)
        return self._teachers[k].to(device)

    def release_teachers(self, keep_online: bool = True) -> None:
        """Free the memory of teachers.

        Args:
            keep_online: keep those that run while training, and free only those whose outputs come from a cache.
        """
        for k, teacher in enumerate(self.resolved.teachers):
            if not (teacher.online and keep_online):
                self._teachers.pop(k, None)

    def image(self) -> students.Tower:
        """The image student with its initial weights; random ones are determined by the recipe's seed.

        Raises:
            UserError: if it cannot be built, or the weights of ``student.image.init`` are missing or do not fit.
        """
        if self._image is None:
            with torch.random.fork_rng(devices=[]), as_user_errors():
                torch.manual_seed(self.resolved.recipe.train.seed)
                self._image = image_student(self.resolved)
                self._random_state = torch.get_rng_state()
            self._initialize(self._image, "image")
        return self._image

    def check(self, vocab: int | None) -> None:
        """Raise ``UserError`` if a student cannot be built or initialised, or lacks an output the objective reads.

        Args:
            vocab: the number of token ids, if the tokenizer exists; else the text student is built without weights.
        """
        resolved, towers = self.resolved, {"image": self.image()}
        if vocab is not None:
            towers = self.model(vocab).towers
        elif resolved.text is not None and resolved.text_options is not None:
            with torch.device("meta"), as_user_errors():
                towers["text"] = resolved.text(resolved.text_options, 4, resolved.recipe.student.width)
            self._initialize(towers["text"], "text")  # no weights: there would be a tokenizer, too
        self._check_outputs(towers)

    def _check_outputs(self, towers: Mapping[str, students.Tower]) -> None:
        """Raise ``UserError`` if the objective reads an output that a student does not have."""
        for modality, outputs in self.resolved.needs.students.items():
            available = towers[modality].widths()
            if missing := [output for output in outputs if output not in available]:
                raise UserError(
                    f"The objective '{self.resolved.recipe.objective.name}' reads the output '{missing[0]}' of the "
                    f"{modality} student, which gives only {', '.join(available)}.",
                    f"Choose another student.{modality}.arch or another objective.",
                )

    def model(self, vocab: int) -> Model:
        """The whole model with its initial weights; random ones are determined by the recipe's seed.

        Args:
            vocab: the number of token ids of the text student's tokenizer; ignored without a text student.

        Raises:
            UserError: if a tower cannot be built, or the weights it is initialised from do not fit.
        """
        if self._model is None:
            resolved, towers = self.resolved, {"image": self.image()}
            student = resolved.recipe.student
            with torch.random.fork_rng(devices=[]), as_user_errors():
                torch.set_rng_state(self._random_state)  # continues after the draws of the image student
                if resolved.text is not None and resolved.text_options is not None:
                    towers["text"] = resolved.text(resolved.text_options, vocab, student.width)
                self._check_outputs(towers)
                widths = {modality: tower.widths() for modality, tower in towers.items()}
                read_teachers = resolved.facts if resolved.needs.teachers else ()
                projections = [resolved.objective.projection(facts, widths) for facts in read_teachers]
                self._model = Model(towers, projections, resolved.needs, student.width, student.temperature)
            if "text" in towers:
                self._initialize(towers["text"], "text")
        return self._model

    def _initialize(self, tower: students.Tower, modality: str) -> None:
        """Load the weights that ``student.MODALITY.init`` names, and lock the parts that ``locked`` names.

        Raises:
            UserError: if the weights are missing or do not fit, or the tower has no part of a name in ``locked``.
        """
        student = self.resolved.recipe.student
        table: TowerTable = {"image": student.image, "text": student.text}[modality]
        with as_user_errors():
            if modality in self.resolved.needs.folded:
                tower.projection()  # raises if the tower has no projection into which a head can be folded
            if table.init and self.initialize:
                state = self._image_weights(tower) if modality == "image" else self._text_weights()
                self.inherited[modality] = tower.start_from(state, table.select)
            tower.lock(table.locked)

    def _text_weights(self) -> dict[str, torch.Tensor]:
        """The state dict that the text student starts from."""
        assert self.resolved.text is not None
        return read_text(self.resolved.recipe.student.text, self.resolved.text)

    def _image_weights(self, tower: students.Tower) -> dict[str, torch.Tensor]:
        """The state dict of the network that the image student starts from, without its classifier."""
        resolved, source = self.resolved, self.resolved.source
        assert source is not None
        if source.card is resolved.first and resolved.teachers and resolved.teachers[0].outputs == ("embedding",):
            return dict(self.teacher(0).net.state_dict())
        names = {name.removeprefix(tower.prefix) for name in tower.state_dict()}
        return read_image(source, names, part=resolved.recipe.student.image.select != "none")


def image_student(resolved: ResolvedRecipe) -> students.Tower:
    """The image student of a recipe, with random weights.

    Raises:
        LookupError, ValueError: if it cannot be built.
    """
    recipe, table = resolved.recipe, resolved.recipe.student.image
    if recipe.on_teacher:
        return on_teacher(resolved)
    statistics: Statistics | None = (table.mean, table.std) if table.mean else None
    if statistics is None and table.init == TEACHER and resolved.source is not None:
        statistics = resolved.source.statistics  # of a run that was started by the first rules
    spec = students.ImageSpec(arch=table.arch, **table.options)
    return students.image_tower(spec, recipe.student.width, recipe.data.image_size, statistics)


def on_teacher(resolved: ResolvedRecipe) -> students.OnTeacher:
    """The trained part of an image tower around the locked first teacher; it has no weights in LiT."""
    recipe, table = resolved.recipe, resolved.recipe.student.image
    beside, beside_width = None, 0
    if table.beside is not None:
        beside = students.image_tower(students.ImageSpec(**table.beside), 0, recipe.data.image_size)
        beside_width = beside.features(recipe.data.image_size)
    assert resolved.first is not None
    return students.OnTeacher(resolved.first.width, recipe.student.width, table.mlp_layers, beside, beside_width)


def load_tokenizer(resolved: ResolvedRecipe, folder: Path) -> students.Tokenizer | None:
    """Load the tokenizer of a run or an export; None without a text student.

    Raises:
        UserError: if it cannot be read.
    """
    if resolved.text is None or resolved.text_options is None:
        return None
    kind = resolved.text.Tokenizer
    with as_user_errors():
        return kind.load(folder / kind.FILE, resolved.text_options.context)


def existing_tokenizer(resolved: ResolvedRecipe) -> students.Tokenizer | None:
    """The tokenizer that the recipe names, or that of what the text student starts from or is; None if there is none.

    Raises:
        UserError: if it cannot be read, or there are both and they differ.
    """
    if resolved.text is None or resolved.text_options is None:
        return None
    student, kind, context = resolved.recipe.student, resolved.text.Tokenizer, resolved.text_options.context
    with as_user_errors():
        named = kind.load(Path(student.tokenizer.file), context) if student.tokenizer.file else None
        if not student.text.init and not resolved.text.TAKEN:
            return named
        given = source_tokenizer(student.text, context)
    if given is not None and named is not None and named.model != given.model:
        whose = f"starts from {student.text.init}" if student.text.init else "has a tokenizer of its own"
        raise UserError(
            f"The text student {whose}, and student.tokenizer.file is not its tokenizer.",
            "Leave out student.tokenizer.file.",
        )
    return given
