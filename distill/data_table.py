"""The recipe's ``[data]``: training and evaluation data, and how an image and a caption are drawn from a sample."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distill.augment_table import NO_AUGMENT, Augment
from distill.tables import Table

SHARE = 0.5  # of a batch, that is pictures without captions where there are such
CAPTION_KEYS = ("captions", "caption")  # keys of a sample's JSON that hold captions, if no recipe says others


def is_remote(spec: str) -> bool:
    """Whether a specification of shards is an address or a command, which are read as streams, and not a path."""
    return "://" in spec or spec.startswith("pipe:")


class Data(Table):
    """Where image-text pairs come from, and how an image and a caption are drawn from a sample.

    Attributes:
        train: training shards in the WebDataset layout: a path with brace notation, a folder, or a list of either;
            also streams: http://…, https://…, s3://…, pipe:COMMAND, where a shard may also be compressed with gzip,
            bzip2 or xz. Of a folder, its own .tar files are read, not those in its subfolders; if it holds none, the
            pictures in it and in its subfolders, which have no captions.
        pictures: further images without captions: folders of pictures, or shards whose captions are not read. Terms
            of the objective that compare an image student with a teacher are over all images of a batch, the others
            over the captioned ones.
        pictures_share: share of every batch that is taken from ``pictures``, above 0 and below 1.
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
        augment: further changes of views that teacher and student share; not of view 0.
        student_augment: further changes of every picture that only the student sees.
        workers: number of loader processes for each training process; 0 loads in the training process.
        bad_samples: how many samples that cannot be used (an image that does not decode, no caption) training skips
            before it stops: below 1 a share of all samples, from 1 on a number of samples.
        timeout: for streams: after how many seconds without data a connection has failed, above 0 and at most 86400.
        retries: for streams: how many failures in a row are followed by another attempt; after that the rest of the
            stream counts as bad samples.
    """

    train: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    pictures_share: float = Field(default=SHARE, gt=0, lt=1)
    eval: tuple[str, ...] = ()
    image_size: int = Field(default=224, gt=0, le=8192)
    captions: Literal["sample", "first", "joint"] = "sample"
    captions_per_image: int = Field(default=2, ge=2)
    caption_keys: tuple[str, ...] = CAPTION_KEYS
    languages: tuple[str, ...] = ()
    first_share: float | None = Field(default=None, ge=0, le=1)
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    augment: Augment = NO_AUGMENT
    student_augment: Augment = NO_AUGMENT
    workers: int = Field(default=1, ge=0)
    bad_samples: float = Field(default=0.01, ge=0)
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    retries: int = Field(default=5, ge=0)

    @field_validator("train", "pictures", "eval", mode="before")
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

    @model_validator(mode="after")
    def pictures_can_be_addressed(self) -> Data:
        if self.pictures_share != SHARE and not self.pictures:
            raise ValueError(
                "pictures_share is the share of pictures without captions: say with pictures where they are"
            )
        if self.pictures and (self.streamed or any(is_remote(spec) for spec in self.pictures)):
            raise ValueError(
                "pictures are drawn beside training shards from local files, and cannot be or join streams"
            )
        return self
