"""The training data of a run and what could not be used of them, from the files of the run and of packing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.data.packing.run import LEFT_OUT_FILE
from distill.data.shards import Shards
from distill.reporting.facts import Language, Ledger
from distill.reporting.public import shard_name, without_folders
from distill.training.run import BAD_SAMPLES, EVENTS
from distill.training.shard_set import SHARDS

EXAMPLES = 5  # of samples that could not be used
REASONS = 8  # the most frequent ones
LONGEST = 200  # characters of a reason or a key


def read_ledger(run: Path, about: dict[str, Any]) -> Ledger:
    """The ledger of a run.

    Args:
        run: the run folder.
        about: the content of its ``run.json``.
    """
    reasons, examples, missing = Counter[str](), list[tuple[str, str, str]](), 0
    for line in lines_of(run / BAD_SAMPLES):
        reason = without_folders(str(line.get("reason", "")), run)[:LONGEST]
        reasons[kind_of(reason)] += 1
        missing += int(line.get("missing") or 0)
        if len(examples) < EXAMPLES:
            examples.append((shard_name(str(line.get("shard", ""))), str(line.get("key", ""))[:LONGEST], reason))
    events = Counter(str(line.get("event", "")) for line in lines_of(run / EVENTS))
    tokenizer = about.get("tokenizer") or {}
    return Ledger(
        samples=int(about["samples"]),
        shards=int(about["shards"]) if (run / SHARDS).is_file() else 0,
        bad=sum(reasons.values()) + missing,
        bad_reasons=dict(reasons.most_common(REASONS)),
        bad_examples=tuple(examples),
        left_out=left_out(run),
        captions=int(tokenizer.get("captions", 0)),
        become_equal=tokenizer.get("become_equal"),
        languages=tuple(
            Language(name, one["captions"], one["tokens"], one["cut"])
            for name, one in tokenizer.get("languages", {}).items()
        ),
        skipped=events["not finite"],
        spikes=events["spike"],
        pictures=int(about.get("pictures", 0)),
    )


def left_out(run: Path) -> dict[str, int]:
    """By reason, how many rows were left out when the training shards were packed; empty if that is not known."""
    if not (run / SHARDS).is_file():
        return {}
    indexes = Shards.load(run / SHARDS).indexes
    folders = dict.fromkeys(indexes.path(k).parent for k in range(len(indexes)))
    counts = Counter[str]()
    for folder in folders:
        counts.update(
            kind_of(without_folders(str(line.get("reason", ""))[:LONGEST]))
            for line in lines_of(folder / LEFT_OUT_FILE)
        )
    return dict(counts.most_common(REASONS))


def kind_of(reason: str) -> str:
    """A reason without what differs from sample to sample, which follows a colon."""
    return reason.split(":")[0].strip() or "no reason given"


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; none if there is no such file. Damaged lines are passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line
