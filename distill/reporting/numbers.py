"""Numbers and names of metrics as text."""

from __future__ import annotations

import math
import re
from typing import Any

NARROW = "\u202f"  # a narrow space at which no line breaks
# Metrics that are shares from 0 to 1, by parts of their names; others are shown as plain numbers.
SHARE = re.compile(
    r"(^|_)(r\d+|recall\w*|accuracy|top\d+|knn\w*|linear\w*|agreement|overlap|retention|error|ece)(_|$)"
)
LABELS = {
    "i2t": "image\u00a0→\u00a0text",
    "t2i": "text\u00a0→\u00a0image",
    "cka": "CKA",
    "ece": "expected calibration error",
    "nll": "negative log-likelihood",
    "knn": "k-NN accuracy",
    "linear": "linear accuracy",
    "map": "mean average precision",
    "mrr": "mean reciprocal rank",
    "teacher_knn": "k-NN accuracy of the teacher",
    "student_knn": "k-NN accuracy of the student",
    "teacher_linear": "linear accuracy of the teacher",
    "student_linear": "linear accuracy of the student",
    "retention_knn": "share of the teacher's k-NN accuracy that is kept",
    "retention_linear": "share of the teacher's linear accuracy that is kept",
    "neighbour_overlap": "overlap of nearest neighbours with the teacher's",
    "agreement": "agreement with the teacher",
    "fg": "f ↔ g",
    "fh": "f_h ↔ h_f",
    "gh": "g_h ↔ h_g",
    "tau": "temperature τ",
    "lr": "learning rate",
    "examples_per_s": "examples per second",
}


def count(n: float) -> str:
    """A whole number, with commas."""
    return f"{n:,.0f}"


def percent(share: float, digits: int = 1) -> str:
    """A share in percent: "20.0 %"."""
    return f"{100 * share:.{digits}f}{NARROW}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: "+1.5"."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def short(value: float) -> str:
    """A number with three significant digits, or all digits of a whole one."""
    if not math.isfinite(value):
        return "not finite"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}".replace("-", "−")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.3g}" if abs(value) < 1e-3 else f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return re.sub(r"e([+-])0*(\d+)", lambda m: f"e{m[1]}{m[2]}", text).replace("-", "−")


def is_share(metric: str) -> bool:
    """Whether a metric is a share from 0 to 1, by its name."""
    return SHARE.search(metric) is not None


def metric_value(metric: str, value: Any) -> str:
    """The value of a metric as text."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "–"
    return percent(value) if is_share(metric) and math.isfinite(value) else short(float(value))


def difference(metric: str, value: float) -> str:
    """A difference of two values of a metric, with its sign."""
    if is_share(metric):
        return points(value)
    text = short(abs(value))
    return ("−" if value < 0 else "+") + text


def metric_label(metric: str) -> str:
    """The name of a metric, spelt out: "t2i_r10" is "text → image, R@10"."""
    if metric in LABELS:
        return LABELS[metric]
    if metric.startswith("tau_"):
        return f"temperature τ {metric.removeprefix('tau_')}"
    parts = [re.sub(r"^r(\d+)$", r"R@\1", LABELS.get(part, part)) for part in metric.split("_")]
    separator = ", " if parts and parts[0] in (LABELS["i2t"], LABELS["t2i"]) else " "
    return f"{parts[0]}{separator}{' '.join(parts[1:])}" if len(parts) > 1 else parts[0]


def task_name(task: str) -> str:
    """The name of a task as a title: "zero_shot" is "Zero shot"."""
    return task[:1].upper() + task[1:].replace("_", " ")


def interval(metric: str, bounds: Any) -> str:
    """An interval as text: "17.1 to 23.0 %"; "–" if there is none."""
    if not bounds:
        return "–"
    low, high = bounds
    if is_share(metric):
        return f"{100 * low:.1f} to {percent(high)}"
    return f"{short(low)} to {short(high)}"
