"""What to try next: sentences that numbers of the run support, and nothing where they do not."""

from __future__ import annotations

import math
from collections.abc import Iterator

from distill.reporting.facts import Result, RunFacts, Series
from distill.reporting.numbers import count, interval, metric_label, metric_value, percent, short, task_name
from distill.wording import counted

TAIL = 0.1  # share of the steps at the end whose mean loss is compared with that of as many before them
LEAST = 20  # steps in each of the two
Z = 1.96  # standard errors to each side of a 95 % interval of a normal distribution
FALL = 0.005  # of the loss: a smaller fall is not worth a longer training
BAD, CUT, EQUAL = 0.01, 0.05, 0.01  # shares of samples or captions above which something is said
CLASS_COUNT = 10  # samples of a class below which nothing is said about it
CONFIDENCE = 0.05  # mean gap of confidence and accuracy above which something is said
LOWEST_TAU = 0.0101  # the temperature is kept at 0.01 or more


def advice(facts: RunFacts) -> list[str]:
    """Sentences on what to try next; each names the number that it is based on."""
    sentences = [sentence for part in (of_training, of_data, of_results) for sentence in part(facts)]
    return list(dict.fromkeys(sentences))


def of_training(facts: RunFacts) -> Iterator[str]:
    """What the curves say."""
    curves, ledger = facts.curves.logged, facts.ledger
    if facts.curves.last_step < facts.total_steps:
        yield (
            f"Training has reached step {count(facts.curves.last_step)} of {count(facts.total_steps)}: go on with "
            "--resume before you compare it with other runs."
        )
    elif "loss" in curves and (fall := fall_at_the_end(curves["loss"])) is not None:
        drop, low, high = fall
        yield (
            f"Train longer: the mean loss of the last tenth of the steps is {short(drop)} below that of the tenth "
            f"before (95 % interval {short(low)} to {short(high)}), so it still falls at the end. Raise train.epochs "
            "(or steps, examples)."
        )
    if ledger.skipped:
        yield (
            f"Lower optim.lr or lengthen optim.warmup: {counted(ledger.skipped, 'step')} had to be skipped because a "
            "value was not finite."
        )
    elif ledger.spikes:
        yield (
            f"Look at the samples in events.jsonl: the loss rose far above its usual value in "
            f"{counted(ledger.spikes, 'step')}."
        )
    if "tau" in curves and curves["tau"].last <= LOWEST_TAU:
        yield (
            f"The temperature ended at {short(curves['tau'].last)}, its lower limit: the batch may be too easy or "
            "hold repeated captions. Try a larger train.batch_size."
        )


def fall_at_the_end(loss: Series) -> tuple[float, float, float] | None:
    """(fall, low, high): by how much the mean of the last tenth of the steps is below that of the tenth before.

    The interval is that of the difference of two means of independent values. None if there are too few steps, the
    interval holds 0, or the fall is small against the loss.
    """
    share = int(TAIL * sum(loss.counts))
    if share < LEAST:
        return None
    last, end = pooled(loss, len(loss.counts), share)
    before, _ = pooled(loss, end, share)
    fall = before[1] - last[1]
    margin = Z * math.sqrt(before[2] / before[0] + last[2] / last[0])
    if fall - margin <= 0 or fall < FALL * abs(before[1]):
        return None
    return fall, fall - margin, fall + margin


def pooled(series: Series, end: int, share: int) -> tuple[tuple[int, float, float], int]:
    """(number, mean, variance) of at least ``share`` values before group ``end``, and the first of their groups."""
    start, number = end, 0
    while start and number < share:
        start -= 1
        number += series.counts[start]
    rows = list(zip(series.counts[start:end], series.means[start:end], series.variances[start:end], strict=True))
    number = max(1, sum(n for n, _, _ in rows))
    mean = sum(n * m for n, m, _ in rows) / number
    return (number, mean, sum(n * (v + (m - mean) ** 2) for n, m, v in rows) / number), start


def of_data(facts: RunFacts) -> Iterator[str]:
    """What the training data say."""
    ledger = facts.ledger
    if ledger.samples and ledger.bad > BAD * ledger.samples:
        most = max(ledger.bad_reasons, key=lambda reason: ledger.bad_reasons[reason], default="")
        yield (
            f"Repair the data: {counted(ledger.bad, 'sample')} of {count(ledger.samples)} "
            f"({percent(ledger.bad / ledger.samples)}) could not be used" + (f", most often: {most}." if most else ".")
        )
    known = [one for one in ledger.languages if one.cut is not None]
    captions = sum(one.captions for one in known)
    cut = sum(one.captions * (one.cut or 0) for one in known) / max(1, captions)
    if cut > CUT:
        yield f"Raise student.text.context: it cuts off the end of {percent(cut)} of the captions."
    else:
        long = [one for one in known if one.name and (one.cut or 0) > CUT]
        if long:
            named = ", ".join(f"{one.name} {percent(one.cut or 0)}" for one in long[:5])
            yield f"Raise student.text.context: it cuts off the end of many captions in some languages ({named})."
    if ledger.become_equal and ledger.captions and ledger.become_equal > EQUAL * ledger.captions:
        yield (
            f"Raise student.tokenizer.vocab or student.text.context: {count(ledger.become_equal)} of "
            f"{count(ledger.captions)} captions have the same tokens as another one, so the text student cannot tell "
            "them apart."
        )


def of_results(facts: RunFacts) -> Iterator[str]:
    """What the evaluations say."""
    for result in facts.results:
        yield from near_chance(result)
        yield from lost_from_teacher(result)
        yield from of_details(result)


def near_chance(result: Result) -> Iterator[str]:
    """Metrics whose interval holds what guessing gives."""
    unclear = [
        metric
        for metric, bounds in result["intervals"].items()
        if metric in result["chance"] and bounds and bounds[0] <= result["chance"][metric] <= bounds[1]
    ]
    if unclear and len(unclear) == sum(metric in result["chance"] for metric in result["intervals"]):
        metric = unclear[-1]
        bounds, guessed = result["intervals"][metric], result["chance"][metric]
        yield (
            f"{task_name(result['task'])}: nothing can be told from guessing on "
            f"{counted(result['samples'], 'sample')} ({metric_label(metric)}: {interval(metric, bounds)}, chance "
            f"{metric_value(metric, guessed)}). Train longer, or measure on more samples."
        )


def lost_from_teacher(result: Result) -> Iterator[str]:
    """What the student lost of the teacher's accuracy, where the whole interval says so."""
    for metric in ("retention_knn", "retention_linear"):
        bounds = result["intervals"].get(metric)
        if metric in result["metrics"] and bounds and bounds[1] < 1:
            yield (
                f"The student keeps {metric_value(metric, result['metrics'][metric])} (95 % interval "
                f"{interval(metric, bounds)}) of the teacher's {metric_label(metric.removeprefix('retention_'))}: a "
                "larger image student, a higher data.image_size or more data may keep more."
            )


def of_details(result: Result) -> Iterator[str]:
    """Calibration, classes, languages and the combination with the teacher."""
    details = result["details"]
    bins = [one for one in details.get("bins", ()) if one["count"]]
    total = sum(one["count"] for one in bins)
    if total:
        gap = sum(one["count"] * (one["confidence"] - one["accuracy"]) for one in bins) / total
        if abs(gap) > CONFIDENCE:
            yield (
                f"{task_name(result['task'])}: probabilities are {100 * abs(gap):.1f} percentage points too "
                f"{'high' if gap > 0 else 'low'} on average; do not read them as they are."
            )
    accuracy = result["metrics"].get("accuracy")
    poor = [one for one in details.get("by_class", ()) if one["count"] >= CLASS_COUNT]
    poor = sorted(
        (one for one in poor if accuracy and one["accuracy"] < accuracy / 2), key=lambda one: one["accuracy"]
    )
    if poor:
        named = ", ".join(f"{one['class']} {percent(one['accuracy'], 0)}" for one in poor[:3])
        yield (
            f"{task_name(result['task'])}: {counted(len(poor), 'class', 'classes')} with at least {CLASS_COUNT} "
            f"samples {'is' if len(poor) == 1 else 'are'} below half of the mean accuracy ({named}): look at "
            "their captions."
        )
    curve = details.get("curve") or []
    if details.get("curve_x") == "alpha" and curve:
        alone = min(curve, key=lambda point: point["x"])
        best = max(curve, key=lambda point: point["value"])
        if "low" in best and "high" in alone and best["low"] > alone["high"]:
            yield (
                f"{task_name(result['task'])}: with --alpha {best['x']:g} it is {percent(best['value'])} instead of "
                f"{percent(alone['value'])} without the teacher, and their intervals do not overlap."
            )
