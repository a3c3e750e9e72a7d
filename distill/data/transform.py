"""From samples of shards or streams to batches: draws captions and views, renders and tokenizes them, and collates."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import default_collate

from distill.augment_table import NO_AUGMENT, Augment
from distill.data import augmentations
from distill.data.batch import Batch
from distill.data.captions import Captions
from distill.data.keyed_random import uniform
from distill.data.sample import Sample
from distill.data.teacher_inputs import TeacherInput, TrainingSample
from distill.data.views import View, Views, decode
from distill.errors import Bad
from students import Tokenizer

MEMBERS = {"image": ("image",), "text": ("txt", "json")}  # the files of a sample that hold each modality


@dataclass(frozen=True)
class TransformOptions:
    """The settings of a :class:`Transform`.

    Attributes:
        captions: how captions are read from a sample and drawn for an epoch.
        views: how augmented views are drawn.
        side: side of the student's images, in pixels; 0 if no student reads images.
        seed: the seed of the run.
        count: C, the number of captions of a sample in a batch.
        interpolation: with which the student's images are resized.
        mixup: the largest share of its neighbour that is mixed into an image; 0 disables mixup.
        student_augment: how the student's picture of a view is changed further, anew in every epoch.
    """

    captions: Captions
    views: Views
    side: int
    seed: int
    count: int = 1
    interpolation: str = "bicubic"
    mixup: float = 0.0
    student_augment: Augment = NO_AUGMENT


class TrainingPair(NamedTuple):
    """One sample of a batch, with the view and the captions drawn for an epoch.

    Attributes:
        image: [3, S, S] uint8, the student's view; None if no student reads images.
        captions: C captions; empty if the run reads no captions.
        teachers: the entry of each teacher, see :class:`~distill.data.teacher_inputs.TeacherInput`.
        key: the key of the sample.
        epoch: the epoch for which view and captions were drawn.
        checksum: CRC-32 of epoch, number and key; sums over a batch do not depend on its split among processes.
    """

    image: torch.Tensor | None
    captions: list[str]
    teachers: tuple[Mapping[str, torch.Tensor], ...]
    key: str
    epoch: int
    checksum: int


class Transform:
    """Turns samples into training pairs, and those into batches.

    Args:
        tokenizer: the text student's; None without a text student.
        teachers: one :class:`~distill.data.teacher_inputs.TeacherInput` for each teacher.
        options: how captions and views are drawn and rendered.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, teachers: Sequence[TeacherInput], options: TransformOptions
    ) -> None:
        self.tokenizer, self.teachers, self.options = tokenizer, tuple(teachers), options
        self.cached_views = min((t.views for t in teachers if t.views is not None), default=None)
        reads = {modality for teacher in teachers for modality in teacher.reads}
        reads |= {"image"} if options.side else set()
        reads |= {"text"} if tokenizer is not None else set()
        self.reads = frozenset(reads)
        self.kinds = tuple(member for modality, members in MEMBERS.items() if modality in reads for member in members)

    def view_number(self, epoch: int, i: int) -> int:
        """The number of the view of sample i in an epoch: with caches their views in turn, else a new one each epoch.

        View 0 is the image without augmentation. Without caches the numbers start at 1, so that a run of a single
        epoch is augmented too.
        """
        return epoch + 1 if self.cached_views is None else (epoch + i) % self.cached_views

    def pair(self, sample: Sample, epoch: int, i: int) -> TrainingPair:
        """The training pair of a sample in an epoch.

        Args:
            sample: with the members of ``kinds``.
            epoch: the epoch.
            i: the number of the sample, which is also the number of its row in teacher caches.

        Raises:
            BadSample: if the image does not decode, there is no caption, or a teacher cache has no row for it.
        """
        options, captions, numbers = self.options, list[str](), list[int]()
        if "text" in self.reads:
            available = options.captions.read(sample)
            numbers = options.captions.draw_numbers(len(available), sample.key, options.seed, epoch, options.count)
            captions = [available[number].text for number in numbers]
        number = self.view_number(epoch, i)
        image = decode(sample) if "image" in self.reads else None
        view = options.views.draw(sample.key, number, image.size if image else (1, 1))
        pixels = self._student_pixels(image, view, sample.key, epoch) if image and options.side else None
        training_sample = TrainingSample(i, number, view, image, captions, numbers)
        teachers = tuple(teacher.entry(training_sample) for teacher in self.teachers)
        checksum = zlib.crc32(f"{epoch} {i} {sample.key}".encode())
        return TrainingPair(pixels, captions, teachers, sample.key, epoch, checksum)

    def _student_pixels(self, image: Image.Image, view: View, key: str, epoch: int) -> torch.Tensor:
        """[3, S, S] uint8: what the student sees of a view, which is the teacher's but for ``student_augment``."""
        options = self.options
        further = augmentations.draw(options.student_augment, f"student {options.seed} {epoch} {key}")
        return view.followed_by(further).render(image, options.side, options.interpolation)

    def collate(self, pairs: list[TrainingPair], bad: Sequence[Bad]) -> Batch:
        """The batch of some pairs. With mixup the last pair is not in the batch, only mixed into the one before it.

        Args:
            pairs: n pairs; n + 1 with mixup.
            bad: the samples that could not be used, for ``Batch.bad``.
        """
        inputs: dict[str, torch.Tensor] = {}
        if self.options.mixup:
            inputs["mixed"], pairs = self._mixed(pairs)
        if self.options.side:
            inputs["image"] = default_collate([pair.image for pair in pairs])  # collated directly in shared memory
        if self.tokenizer is not None:
            texts = [caption for pair in pairs for caption in pair.captions]
            inputs["text"] = self.tokenizer.encode(texts).view(len(pairs), self.options.count, -1)
        return Batch(
            inputs=inputs,
            teachers=tuple(stack_entries([pair.teachers[k] for pair in pairs]) for k in range(len(self.teachers))),
            keys=tuple(pair.key for pair in pairs),
            bad=tuple(bad),
            checksum=sum(pair.checksum for pair in pairs),
        )

    def _mixed(self, pairs: list[TrainingPair]) -> tuple[torch.Tensor, list[TrainingPair]]:
        """Every image mixed with the next pair's, and the pairs with teachers' images mixed by the same share."""
        images, mixed_pairs = [], []
        for pair, neighbour in zip(pairs, pairs[1:], strict=False):
            assert pair.image is not None and neighbour.image is not None
            share = self.options.mixup * uniform(f"mixup {self.options.seed} {pair.epoch} {pair.key}", 1)[0]
            images.append(mix(pair.image, neighbour.image, share))
            entries = zip(pair.teachers, neighbour.teachers, strict=True)
            mixed_pairs.append(pair._replace(teachers=tuple(mix_entries(a, b, share) for a, b in entries)))
        return torch.stack(images), mixed_pairs


def stack_entries(entries: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """[n, …] by name, from one teacher's entries for n samples."""
    return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}


def mix_entries(
    entry: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """A teacher's entry for a sample, with an image in it mixed with the neighbour's."""
    return {name: mix(value, other[name], share) if name == "image" else value for name, value in entry.items()}


def mix(image: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    """uint8 pixels: ``(1 - share) · image + share · other``, rounded."""
    return torch.lerp(image.float(), other.float(), share).round().to(torch.uint8)
