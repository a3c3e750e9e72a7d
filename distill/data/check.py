"""The command ``distill data check``: every sample is read once, and a report says what there is and what is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

from distill.data.captions import Captions
from distill.data.index import KINDS
from distill.data.members import lost
from distill.data.picture_lists import is_picture_list
from distill.data.shards import Shards
from distill.data.views import decode
from distill.errors import Bad, BadSample
from distill.wording import counted

MAX_BITS = 4  # of 64 in which the hashes of two near-duplicates may differ
CHUNK = 256  # samples that a process reads at a time
EXAMPLES = 20  # of each kind in a report


@dataclass
class Findings:
    """What was found in some samples.

    Attributes:
        samples: how many there are, good and bad.
        bad: the records of those that cannot be used.
        captions: {number of captions: how many images have so many}.
        languages: {language: how many captions are in it}; "" where the shard names none.
        sizes: {(width, height) in pixels: how many images have this size}.
        sha256: of each good image's file, 32 bytes.
        hashes: of each good image, its :func:`difference_hash`.
        names: of each good image, ``SHARD:KEY``.
    """

    samples: int = 0
    bad: list[Bad] = field(default_factory=list)
    captions: Counter[int] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    sha256: list[bytes] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Add what was found in other samples."""
        self.samples += other.samples
        for name in ("bad", "sha256", "hashes", "names"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("captions", "languages", "sizes"):
            getattr(self, name).update(getattr(other, name))


class Inspector:
    """Inspects samples in a process of a pool. The process is given the shards once, not with every call."""

    shards: Shards
    captions: Captions

    @classmethod
    def init(cls, shards: Shards, captions: Captions) -> None:
        cls.shards, cls.captions = shards, captions

    @classmethod
    def inspect_samples(cls, numbers: Sequence[int]) -> Findings:
        return inspect_samples(cls.shards, cls.captions, numbers)


def inspect(shards: Shards, captions: Captions, processes: int, on_progress: Callable[[int], object]) -> Findings:
    """Read all samples.

    Args:
        shards: opened; their faults are among the findings.
        captions: how captions are read from a sample.
        processes: number of processes that share the work; 0 does it in this one.
        on_progress: called with the number of samples read since the last call.
    """
    findings = Findings(bad=list(shards.faults))
    chunks = [range(i, min(i + CHUNK, len(shards))) for i in range(0, len(shards), CHUNK)]
    with ExitStack() as stack:
        parts: Iterator[Findings] = (inspect_samples(shards, captions, chunk) for chunk in chunks)
        if processes:
            pool = ProcessPoolExecutor(processes, get_context("forkserver"), Inspector.init, (shards, captions))
            parts = stack.enter_context(pool).map(Inspector.inspect_samples, chunks)
        for part in parts:
            findings.add(part)
            on_progress(part.samples)
    return findings


def inspect_samples(shards: Shards, captions: Captions, numbers: Sequence[int]) -> Findings:
    """Read the samples with these numbers."""
    findings = Findings(samples=len(numbers))
    for i in numbers:
        try:
            sample = shards.read(i, KINDS)
            own = [] if is_picture_list(sample.shard) else captions.read(sample)
            image = decode(sample)
        except BadSample as error:
            findings.bad.append(error.bad)
            continue
        findings.captions[len(own)] += 1
        findings.languages.update(caption.language for caption in own)
        findings.sizes[image.size] += 1
        findings.sha256.append(hashlib.sha256(sample.image or b"").digest())
        findings.hashes.append(difference_hash(image))
        findings.names.append(f"{sample.shard}:{sample.key}")
    return findings


def difference_hash(image: Image.Image) -> int:
    """A perceptual hash of 64 bits: the image is reduced to 9 × 8 grey pixels, and each bit says whether a pixel is
    brighter than the one to its right.

    Resizing or compressing an image changes few of the bits, mirroring or cropping it many.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BILINEAR), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:]).flatten()
    return int(np.packbits(bits).view(">u8")[0])


def exact_duplicates(findings: Findings) -> list[list[str]]:
    """The names of images whose files have the same bytes, in groups of at least two."""
    groups: dict[bytes, list[str]] = {}
    for sha256, name in zip(findings.sha256, findings.names, strict=True):
        groups.setdefault(sha256, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


class NearDuplicates:
    """Finds images of a set that look like a given one: their difference hashes differ in few bits.

    Two hashes of 64 bits that differ in at most ``max_bits`` are equal in at least one of ``max_bits + 1`` disjoint
    groups of bits, so only hashes with an equal group have to be compared. With 4 bits, each group is every fifth bit.
    Groups of neighbouring bits would be equal too often, as images with plain margins have the same bits there.

    Args:
        findings: the set.
        max_bits: number of bits in which two hashes may differ.
    """

    def __init__(self, findings: Findings, max_bits: int = MAX_BITS) -> None:
        self.max_bits = max_bits
        self.first: dict[int, str] = {}  # the first image with each hash
        for image_hash, name in zip(findings.hashes, findings.names, strict=True):
            self.first.setdefault(image_hash, name)
        groups = max_bits + 1
        self.masks = [sum(1 << bit for bit in range(group, 64, groups)) for group in range(groups)]
        self.buckets: list[dict[int, list[int]]] = [{} for _ in self.masks]
        for image_hash in self.first:
            for bucket, mask in zip(self.buckets, self.masks, strict=True):
                bucket.setdefault(image_hash & mask, []).append(image_hash)

    def find(self, image_hash: int, name: str = "") -> str:
        """The name of an image of the set that looks like the one with this hash; "" if there is none.

        Args:
            image_hash: a :func:`difference_hash`.
            name: the image's own name if it is in the set itself, which is then not found.
        """
        if self.first.get(image_hash, name) != name:
            return self.first[image_hash]
        for bucket, mask in zip(self.buckets, self.masks, strict=True):
            for other in bucket.get(image_hash & mask, ()):
                if other != image_hash and (image_hash ^ other).bit_count() <= self.max_bits:
                    return self.first[other]
        return ""

    def pairs(self, findings: Findings, same_set: bool) -> list[tuple[str, str]]:
        """(name, name of an image of the set that looks like it) for every image of ``findings`` that has one.

        Args:
            findings: of the images to compare with the set.
            same_set: whether they are the set itself, so that an image is not a duplicate of itself.
        """
        images = zip(findings.hashes, findings.names, strict=True)
        duplicates = [(name, self.find(image_hash, name if same_set else "")) for image_hash, name in images]
        return [(name, duplicate) for name, duplicate in duplicates if duplicate]


def report(findings: Findings, shards: Shards, against: Findings | None = None) -> dict[str, Any]:
    """The findings as a JSON-serialisable report.

    Args:
        findings: of all samples of ``shards``.
        against: of evaluation shards, whose images are looked for among those of ``shards``.

    Returns:
        Counts and examples; "usable", whether every sample can be used, and no image or caption belongs to none.
    """
    exact = exact_duplicates(findings)
    near_duplicates = NearDuplicates(findings)
    near = near_duplicates.pairs(findings, same_set=True)
    widths = [size[0] for size in findings.sizes.elements()] or [0]
    heights = [size[1] for size in findings.sizes.elements()] or [0]
    result: dict[str, Any] = {
        "usable": not (findings.bad or lost(shards.leftovers) or (against is not None and against.bad)),
        "shards": len(shards.indexes),
        "samples": findings.samples,
        "bad": len(findings.bad),
        "reasons": dict(Counter(one.reason for one in findings.bad).most_common(EXAMPLES)),
        "bad_examples": [one._asdict() for one in findings.bad[:EXAMPLES]],
        "leftovers": [asdict(one) for one in shards.leftovers],
        "captions_per_image": dict(sorted(findings.captions.items())),
        "languages": dict(findings.languages.most_common()),
        "width": {"smallest": min(widths), "median": int(np.median(widths)), "largest": max(widths)},
        "height": {"smallest": min(heights), "median": int(np.median(heights)), "largest": max(heights)},
        "same_images": sum(len(names) - 1 for names in exact),
        "same_examples": exact[:EXAMPLES],
        "alike": len(near),
        "alike_examples": near[:EXAMPLES],
    }
    if against is not None:
        shared = near_duplicates.pairs(against, same_set=False)
        result |= {"alike_in_eval": len(shared), "alike_in_eval_examples": shared[:EXAMPLES]}
        result |= {"bad_in_eval": len(against.bad)}
        result |= {"bad_in_eval_examples": [one._asdict() for one in against.bad[:EXAMPLES]]}
    return result


def format_report(result: dict[str, Any]) -> str:
    """A report as text for the terminal."""
    samples, shards = counted(result["samples"], "sample"), counted(result["shards"], "shard")
    unusable = f"{result['bad']} of them cannot be used" if result["bad"] else "all of which can be used"
    lines = [f"{samples} in {shards}, {unusable}"]
    lines += [f"  {count:8}  {reason}" for reason, count in result["reasons"].items()]
    lines += examples(result["bad_examples"])
    if result["leftovers"]:
        lines.append("members that belong to no sample:")
    for one in result["leftovers"]:
        lines.append(f"  {one['count']:8}  {one['members']}, such as {one['example']}")
    lines += [f"  {remedy}" for remedy in dict.fromkeys(one["remedy"] for one in result["leftovers"]) if remedy]
    per_image = (f"{counted(count, 'image')} with {n}" for n, count in result["captions_per_image"].items())
    lines.append(f"captions: {', '.join(per_image) or 'none'}")
    spoken = ", ".join(f"{name or 'not said'} {count}" for name, count in result["languages"].items())
    lines.append(f"languages: {spoken or 'none'}")
    for side in ("width", "height"):
        lines.append(f"{side}: {' … '.join(str(result[side][k]) for k in ('smallest', 'median', 'largest'))} pixels")
    alike = counted(result["alike"], "looks like another one", "look like another one")
    lines.append(f"duplicates: {result['same_images']} with the same bytes, {alike}")
    if "alike_in_eval" in result:
        seen = counted(result["alike_in_eval"], "evaluation image looks", "evaluation images look")
        lines.append(f"{seen} like one of these")
        if result["bad_in_eval"]:
            lines.append(f"{counted(result['bad_in_eval'], 'evaluation sample')} cannot be used")
            lines += examples(result["bad_in_eval_examples"])
    return "\n".join(lines)


def examples(bad: Sequence[dict[str, Any]]) -> list[str]:
    """Lines that name some samples that cannot be used."""
    return [f"  such as {one['shard']} {one['key']}: {one['reason']}" for one in bad[:3]]
