"""Facts about a run in which everything occurs that a report can show, with texts that try to break out of HTML."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

from conftest import picture

from distill.reporting.curves import Groups
from distill.reporting.facts import (
    Answer,
    Curves,
    Gallery,
    Language,
    Ledger,
    Picture,
    Query,
    RunFacts,
    Series,
    Speed,
    Tower,
)

SCRIPT = "<script>alert('caption')</script>"
TAG = '"><img src=x onerror=alert(1)>'


def series(values: list[float], every: int = 1) -> Series:
    """A curve of some values."""
    groups = Groups()
    for step, value in enumerate(values, 1):
        groups.add(step * every, value)
    found = groups.series()
    assert found is not None
    return found


def falling(start: float, end: float, steps: int, noise: float = 0.08) -> list[float]:
    """Values that fall from one number to another, with a deterministic unevenness."""
    return [
        end + (start - end) * math.exp(-4 * k / steps) + noise * math.sin(12.9898 * k) * math.cos(4.1414 * k)
        for k in range(steps)
    ]


def thumbnail(shape: str, colour: str, caption: str) -> Picture:
    buffer = io.BytesIO()
    picture(shape, colour, 0, 96).save(buffer, "JPEG")
    return Picture(buffer.getvalue(), caption)


def results() -> list[dict[str, Any]]:
    """A result of each kind, with all details."""
    recalls = {f"{d}_r{k}": v for d in ("i2t", "t2i") for k, v in ((1, 0.061), (5, 0.22), (10, 0.335))}
    retrieval = {
        "task": "retrieval",
        "data": ["test-000000.tar", "test-000001.tar"],
        "samples": 1277,
        "metrics": recalls,
        "intervals": {name: [value - 0.03, value + 0.032] for name, value in recalls.items()},
        "chance": {f"{d}_r{k}": k / 277 for d in ("i2t", "t2i") for k in (1, 5, 10)},
        "details": {"by_language": {"en": recalls, "de": {"t2i_r10": 0.21}}},
    }
    names = [TAG, "tabby cat", "zebra", *(f"class {k}" for k in range(30))]
    classes = [{"class": name, "count": 12 + k, "accuracy": (k * 7 % 33) / 32} for k, name in enumerate(names)]
    bins = [
        {"low": k / 10, "high": (k + 1) / 10, "count": 10 * k, "confidence": k / 10 + 0.05, "accuracy": 0.8 * k / 10}
        for k in range(10)
    ]
    zero_shot = {
        "task": "zero_shot",
        "data": ["val-000000.tar"],
        "samples": 500,
        "metrics": {"accuracy": 0.46, "ece": 0.11, "nll": 1.73},
        "intervals": {"accuracy": [0.42, 0.5]},
        "chance": {"accuracy": 1 / 33},
        "details": {
            "by_class": classes,
            "bins": bins,
            "curve_x": "alpha",
            "curve_y": "accuracy",
            "curve": [
                {"x": k / 5, "value": v, "low": v - 0.02, "high": v + 0.02}
                for k, v in enumerate((0.46, 0.52, 0.57, 0.56, 0.51, 0.44))
            ],
            "by_corruption": [
                {"corruption": kind, "severity": s, "accuracy": 0.46 - 0.06 * s}
                for kind in ("fog", "noise")
                for s in (1, 3, 5)
            ],
        },
    }
    shots = {
        "task": "few_shot",
        "data": ["val-000000.tar"],
        "samples": 500,
        "metrics": {"accuracy": 0.61},
        "intervals": {"accuracy": [0.57, 0.65]},
        "chance": {"accuracy": 1 / 33},
        "details": {
            "curve_x": "shots",
            "curve_y": "accuracy",
            "curve": [
                {"x": x, "value": v, "low": v - 0.05, "high": v + 0.05}
                for x, v in ((1, 0.22), (2, 0.31), (4, 0.42), (8, 0.52), (16, 0.61))
            ],
        },
    }
    fidelity = {
        "task": "fidelity",
        "data": ["val-000000.tar"],
        "samples": 500,
        "metrics": {"cka": 0.71, "neighbour_overlap": 0.44, "agreement": 0.69, "teacher_knn": 0.79}
        | {"student_knn": 0.64, "retention_knn": 0.81, "retention_linear": 0.86},
        "intervals": {"retention_knn": [0.77, 0.85], "retention_linear": [0.83, 0.9]},
        "chance": {"teacher_knn": 1 / 33, "student_knn": 1 / 33},
        "details": {},
    }
    return [retrieval, zero_shot, shots, fidelity]


def gallery() -> Gallery:
    """Queries in both directions, among them captions that are HTML."""
    apple, cross = thumbnail("circle", "red", SCRIPT), thumbnail("cross", "blue", TAG)
    answers = tuple(Answer(apple if k % 2 else cross, k == 2) for k in range(5))
    texts = tuple(Answer(text, k == 0) for k, text in enumerate((SCRIPT, TAG, "a red circle", "تفاحة حمراء", "a | b")))
    by_text = (Query(SCRIPT, answers, 3, apple), Query("a blue cross " * 15, answers[:2], 140, cross))
    by_image = (Query(apple, texts, 1, SCRIPT), Query(cross, texts[1:], 412, TAG))
    groups = {"random": (by_text, by_image), "best": (by_text[:1], by_image[:1]), "worst": (by_text[1:], by_image[1:])}
    return Gallery(1000, 1954, 5000, 0, groups)


def full_facts(name: str = "first", steps: int = 900, shift: float = 0.0) -> RunFacts:
    """A run of which a report shows everything."""
    loss = falling(4.6 + shift, 1.4 + shift, steps)
    logged = {
        "loss": series(loss),
        "fg": series([value + 0.3 for value in loss]),
        "fh": series([value - 0.2 for value in loss]),
        "gh": series([value - 0.1 for value in loss]),
        "tau": series([0.07 - 0.06 * k / steps for k in range(steps)]),
        "lr": series([0.002 * min(10 * k / steps, 0.5 + 0.5 * math.cos(math.pi * k / steps)) for k in range(steps)]),
        "examples_per_s": series([9000 + 400 * math.sin(k) for k in range(steps)]),
    }
    evaluated = {
        f"retrieval/{d}_r10": series([0.04 + 0.03 * k + shift for k in range(10)], steps // 10) for d in ("i2t", "t2i")
    }
    ledger = Ledger(
        *(1641, 4, 40),
        {"there is no caption": 30, TAG: 10},
        (("train-000001.tar", SCRIPT, "its image does not decode"), ("train-000003.tar", "", "it is cut short")),
        {"looks like another picture": 12},
        *(22310, 900),
        (Language("en", 4000, 3.6, 0.02), Language("de", 1500, 15.2, 0.31), Language("", 12, None, None)),
        *(0, 2),
    )
    towers = (
        Tower("image student", 910_208, 3_640_832, 5184.6, 1.49, "64 px"),
        Tower("text student", 799_232, 3_196_928, 14442.3, 0.72, "16 tokens"),
        Tower("teacher", 3_371_008, 13_484_032, 142.1, 10.3, "128 px"),
    )
    return RunFacts(
        name=name,
        objective="three_towers",
        teachers=("packaged/efficientnet_lite0",),
        total_steps=steps,
        provenance=(("Seed", "0"), ("Weights, SHA-256", "3397d49c" * 8), ("Version of torch", "2.14.1")),
        recipe=f'[data]\ntrain = ["train.tar"]\n# {SCRIPT}\n',
        curves=Curves(logged, evaluated, steps),
        ledger=ledger,
        speed=Speed(towers, "Measured on the machine that wrote this report."),
        results=results(),
        gallery=gallery(),
        notes=(f"Something is not shown: {TAG}",),
    )


def compared(count: int = 2) -> list[RunFacts]:
    """Several runs with paired differences."""
    runs = [full_facts(f"run {k} {TAG if k == 1 else ''}".strip(), shift=0.02 * k) for k in range(count)]
    differences = {
        "retrieval": {
            "t2i_r10": {"value": 0.031, "interval": [0.011, 0.052]},
            "i2t_r10": {"value": -0.004, "interval": [-0.02, 0.013]},
        },
        "zero_shot": {"accuracy": {"value": 0.01, "interval": None}, "nll": {"value": -0.2, "interval": [-0.3, -0.1]}},
    }
    return [replace(run, differences={other.name: differences for other in runs if other is not run}) for run in runs]
