"""Everything that a report shows of a run, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# One result of an evaluation: "task", "data" (names), "samples", "metrics", "intervals", "chance", "details".
Result = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """A quantity that was logged while training, in groups of consecutive log lines.

    Attributes:
        steps: of each group the mean step.
        means, lows, highs: of each group the mean, the smallest and the largest value.
        counts: of each group the number of values.
        variances: of each group the variance of the values, with divisor n.
        first, last: the very first and the very last value.
        not_finite: how many values were no finite numbers, and are left out.
    """

    steps: tuple[float, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    counts: tuple[int, ...]
    variances: tuple[float, ...]
    first: float
    last: float
    not_finite: int = 0


@dataclass(frozen=True)
class Curves:
    """The content of a run's ``metrics.jsonl``.

    Attributes:
        logged: by name, what every step logs: loss terms, temperatures, learning rate, examples a second.
        evaluated: by ``TASK/METRIC``, what evaluations while training found.
        last_step: the last step that is logged; 0 if there is none.
    """

    logged: Mapping[str, Series] = field(default_factory=dict)
    evaluated: Mapping[str, Series] = field(default_factory=dict)
    last_step: int = 0


@dataclass(frozen=True)
class Tower:
    """Size and speed of a network.

    Attributes:
        name: such as "image student".
        parameters: their number.
        bytes: size of the weights as they are stored, float32.
        per_second: inputs embedded per second in batches, the median of several measurements; None: not measured.
        milliseconds: for a single input, the median of several measurements; None: not measured.
        input: what it reads, such as "64 px".
    """

    name: str
    parameters: int
    bytes: int
    per_second: float | None = None
    milliseconds: float | None = None
    input: str = ""


@dataclass(frozen=True)
class Speed:
    """The towers of a run, and how their speed was measured.

    Attributes:
        towers: the students and the first teacher.
        method: a sentence on device, batch size and repetitions; "" if nothing was measured.
    """

    towers: tuple[Tower, ...] = ()
    method: str = ""

    def tower(self, name: str) -> Tower | None:
        """The tower of a name; None if there is none."""
        return next((tower for tower in self.towers if tower.name == name), None)


@dataclass(frozen=True)
class Picture:
    """A thumbnail.

    Attributes:
        jpeg: the bytes of a JPEG file of at most 96 pixels a side.
        caption: one of the image's own captions.
    """

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Answer:
    """One answer of a model to a query: a picture or a text, and whether it is correct."""

    item: Picture | str
    correct: bool


@dataclass(frozen=True)
class Query:
    """A query with a model's best answers, best first.

    Attributes:
        item: a text, which is answered by pictures, or a picture, which is answered by texts.
        answers: the first few.
        rank: the position of the best correct answer among all candidates, from 1.
        correct: the correct answer at that position.
    """

    item: Picture | str
    answers: tuple[Answer, ...]
    rank: int
    correct: Picture | str


@dataclass(frozen=True)
class Gallery:
    """Queries of the evaluation data in both directions.

    Attributes:
        samples: how many images were searched.
        texts: how many texts were searched.
        of: how many images the data hold, of which ``samples`` were drawn at random.
        seed: of the random draws.
        groups: by name of the draw ("drawn at random", "best", "worst") the queries of one direction each:
            (text queries, image queries).
    """

    samples: int
    texts: int
    of: int
    seed: int
    groups: Mapping[str, tuple[tuple[Query, ...], tuple[Query, ...]]]


@dataclass(frozen=True)
class Language:
    """Captions of one language, as the run's tokenizer reads them.

    Attributes:
        name: its code; "" for captions that name none.
        captions: how many were looked at.
        tokens: a caption, on average; None if the tokenizer does not say.
        cut: the share of captions of which the context cuts something off; None if the tokenizer does not say.
    """

    name: str
    captions: int
    tokens: float | None
    cut: float | None


@dataclass(frozen=True)
class Ledger:
    """The training data of a run, and what could not be used of them.

    Attributes:
        samples, shards: how many there are; ``shards`` is 0 for streams.
        pictures: how many further images without captions.
        bad: how many samples could not be used.
        bad_reasons: how many for each reason.
        bad_examples: (shard, key, reason) of the first ones.
        left_out: by reason, how many rows packing has left out; empty if the shards were not packed by distill.
        captions: how many captions were looked at.
        become_equal: how many different captions have the same tokens as another one; None if it is not known.
        languages: of these captions.
        skipped: steps that were skipped because a value was not finite.
        spikes: steps whose loss was far above those before.
    """

    samples: int
    shards: int
    bad: int = 0
    bad_reasons: Mapping[str, int] = field(default_factory=dict)
    bad_examples: tuple[tuple[str, str, str], ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    captions: int = 0
    become_equal: int | None = None
    languages: tuple[Language, ...] = ()
    skipped: int = 0
    spikes: int = 0
    pictures: int = 0


@dataclass(frozen=True)
class RunFacts:
    """Everything that a report shows of a run; nothing in it names the machine.

    Attributes:
        name: the run's, which no other run of the report has.
        objective, teachers: their names.
        total_steps: the length of the whole training.
        provenance: (what, value) of versions, seeds, fingerprints and counts.
        recipe: as TOML, of paths only the last part.
        curves: what was logged while training.
        ledger: the training data.
        speed: size and speed of the towers.
        results: of evaluations.
        differences: by other run, task and metric: {"value": this run minus the other, "interval": [low, high]}; the
            interval is that of the paired difference, or None.
        gallery: None if there is none.
        notes: sentences on what the report does not show, and why.
    """

    name: str
    objective: str
    teachers: tuple[str, ...]
    total_steps: int
    provenance: tuple[tuple[str, str], ...]
    recipe: str
    curves: Curves
    ledger: Ledger
    speed: Speed = Speed()
    results: list[Result] = field(default_factory=list)
    differences: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] = field(default_factory=dict)
    gallery: Gallery | None = None
    notes: tuple[str, ...] = ()

    def result(self, task: str) -> Result | None:
        """The first result of a task; None if there is none."""
        return next((result for result in self.results if result["task"] == task), None)
