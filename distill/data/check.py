"""What a data set holds, and what is wrong with it: every sample read once, and a report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

from distill.data.captions import Captions
from distill.data.index import KINDS
from distill.data.shards import Shards
from distill.data.views import decode
from distill.errors import Bad, BadSample

NEAR = 4  # bits of 64 in which two pictures' hashes may differ and still be called the same
CHUNK = 256  # samples a process takes at a time
SHOWN = 20  # examples of each kind in a report


@dataclass
class Findings:
    """What is known of some samples; those of two parts of a data set add up.

    Attributes:
        samples: how many there are.
        bad: those that cannot be used.
        captions: how many images have so many captions.
        languages: how many captions are of a language; "" where the shard does not say.
        sizes: how many images are of so many pixels, (width, height).
        exact: SHA-256 of each good image, 32 bytes.
        looks: [n] uint64, what each good image looks like; see :func:`looks_like`.
        names: of each good image.
    """

    samples: int = 0
    bad: list[Bad] = field(default_factory=list)
    captions: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    exact: list[bytes] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.samples += other.samples
        for name in ("bad", "exact", "looks", "names"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("captions", "languages", "sizes"):
            getattr(self, name).update(getattr(other, name))


class Reader:
    """Reads samples in a process of a pool, which is handed the shards once."""

    own: tuple[Shards, Captions]

    @classmethod
    def begin(cls, shards: Shards, captions: Captions) -> None:
        cls.own = shards, captions

    @classmethod
    def look(cls, numbers: Sequence[int]) -> Findings:
        return look(*cls.own, numbers)


def look(shards: Shards, captions: Captions, numbers: Sequence[int]) -> Findings:
    """Read some samples."""
    found = Findings(samples=len(numbers))
    for i in numbers:
        try:
            sample = shards.read(i, KINDS)
            own = captions.read(sample)
            image = decode(sample)
        except BadSample as error:
            found.bad.append(error.bad)
            continue
        found.captions[len(own)] += 1
        found.languages.update(caption.language for caption in own)
        found.sizes[image.size] += 1
        found.exact.append(hashlib.sha256(sample.image or b"").digest())
        found.looks.append(looks_like(image))
        found.names.append(f"{sample.shard}:{sample.key}")
    return found


def looks_like(image: Image.Image) -> int:
    """A difference hash: 64 bits, each whether a pixel of the picture at 9 × 8 is brighter than the one to its right.

    Resizing and compressing a picture change few of them, mirroring and cropping many.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:]).flatten()
    return int(np.packbits(bits).view(">u8")[0])


def inspect(shards: Shards, captions: Captions, processes: int, tick: Callable[[int], object]) -> Findings:
    """Read all samples.

    Args:
        processes: that share the work; 0 does it in this one.
        tick: called with the number of samples done since it was last called.
    """
    found = Findings(bad=list(shards.faults))
    chunks = [range(i, min(i + CHUNK, len(shards))) for i in range(0, len(shards), CHUNK)]
    with ExitStack() as stack:
        parts: Iterator[Findings] = (look(shards, captions, chunk) for chunk in chunks)
        if processes:
            begin = get_context("forkserver"), Reader.begin, (shards, captions)
            parts = stack.enter_context(ProcessPoolExecutor(processes, *begin)).map(Reader.look, chunks)
        for part in parts:
            found.add(part)
            tick(part.samples)
    return found


def same(found: Findings) -> list[list[str]]:
    """Groups of images with the same bytes."""
    groups: dict[bytes, list[str]] = {}
    for mark, name in zip(found.exact, found.names, strict=True):
        groups.setdefault(mark, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


class Lookalikes:
    """Finds pictures that look like one of a set.

    Two hashes that differ in at most ``most`` of 64 bits agree wholly in one of ``most + 1`` parts of them, so only
    those that share a part are compared. A part is every fifth bit, not neighbours: in pictures with plain margins
    many neighbours are alike.

    Args:
        found: the set.
        most: bits in which two hashes may differ.
    """

    def __init__(self, found: Findings, most: int = NEAR) -> None:
        self.most = most
        self.first: dict[int, str] = {}
        for mark, name in zip(found.looks, found.names, strict=True):
            self.first.setdefault(mark, name)
        self.parts = [sum(1 << bit for bit in range(part, 64, most + 1)) for part in range(most + 1)]
        self.buckets: list[dict[int, list[int]]] = [{} for _ in self.parts]
        for mark in self.first:
            for bucket, part in zip(self.buckets, self.parts, strict=True):
                bucket.setdefault(mark & part, []).append(mark)

    def of(self, mark: int, name: str = "") -> str:
        """The name of a picture that looks like one with this hash, other than itself; "" if there is none."""
        if self.first.get(mark, name) != name:
            return self.first[mark]
        for bucket, part in zip(self.buckets, self.parts, strict=True):
            for other in bucket.get(mark & part, ()):
                if other != mark and (mark ^ other).bit_count() <= self.most:
                    return self.first[other]
        return ""

    def among(self, found: Findings, same_set: bool) -> list[tuple[str, str]]:
        """(picture, one it looks like) for every picture of some findings that has one."""
        twins = (self.of(mark, name if same_set else "") for mark, name in zip(found.looks, found.names, strict=True))
        return [(name, twin) for name, twin in zip(found.names, twins, strict=True) if twin]


def report(found: Findings, shards: Shards, against: Findings | None = None) -> dict[str, Any]:
    """What was found, as JSON can say it."""
    exact = same(found)
    known = Lookalikes(found)
    near = known.among(found, same_set=True)
    widths = [size[0] for size in found.sizes.elements()] or [0]
    heights = [size[1] for size in found.sizes.elements()] or [0]
    result: dict[str, Any] = {
        "shards": len(shards.indexes),
        "samples": found.samples,
        "bad": len(found.bad),
        "reasons": dict(Counter(one.reason for one in found.bad).most_common(SHOWN)),
        "bad_examples": [one._asdict() for one in found.bad[:SHOWN]],
        "captions_per_image": dict(sorted(found.captions.items())),
        "languages": dict(found.languages.most_common()),
        "width": {"smallest": min(widths), "median": int(np.median(widths)), "largest": max(widths)},
        "height": {"smallest": min(heights), "median": int(np.median(heights)), "largest": max(heights)},
        "same_images": sum(len(names) - 1 for names in exact),
        "same_examples": exact[:SHOWN],
        "alike": len(near),
        "alike_examples": near[:SHOWN],
    }
    if against is not None:
        shared = known.among(against, same_set=False)
        result |= {"alike_in_eval": len(shared), "alike_in_eval_examples": shared[:SHOWN]}
    return result


def table(result: dict[str, Any]) -> str:
    """A report for people."""
    lines = [f"{result['samples']} samples in {result['shards']} shards, {result['bad']} of them cannot be used"]
    lines += [f"  {count:8}  {reason}" for reason, count in result["reasons"].items()]
    lines += [f"  such as {one['shard']} {one['key']}" for one in result["bad_examples"][:3]]
    per_image = ", ".join(f"{count} images with {n}" for n, count in result["captions_per_image"].items())
    lines.append(f"captions: {per_image or 'none'}")
    spoken = ", ".join(f"{name or 'not said'} {count}" for name, count in result["languages"].items())
    lines.append(f"languages: {spoken or 'none'}")
    for side in ("width", "height"):
        lines.append(f"{side}: {' … '.join(str(result[side][k]) for k in ('smallest', 'median', 'largest'))} pixels")
    lines.append(f"duplicates: {result['same_images']} with the same bytes, {result['alike']} look like another one")
    if "alike_in_eval" in result:
        lines.append(f"{result['alike_in_eval']} evaluation images look like one of these")
    return "\n".join(lines)
