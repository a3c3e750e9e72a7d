"""The table of results that the demo prints at its end, and what it says of them."""

from __future__ import annotations

from typing import Any

LABELS = {"three_towers": "3T students", "scratch": "from scratch", "lit": "LiT (the teacher)"}
FEW = 100  # test images below which nothing is compared


def table(result: dict[str, Any]) -> str:
    """The scores of every model, and comparisons that the number of test images can carry.

    Args:
        result: the content of ``results.json``.
    """
    scores = result["scores"]
    unseen, known = result["test_images"], scores["lit"]["other_names"]["images"]
    rows = [
        f"{'':25}{'image tower':^28}{'':3}{f'{unseen} unseen emoji':^36}{'':3}{f'{known} trained emoji':^14}",
        f"{'':25}{'parameters':>10}{'GFLOPs':>8}{'images/s':>10}{'':3}{'R@1':>7}{'R@10':>16}{'5-NN':>13}{'':3}{'R@10':>14}",
    ]
    for name, label in LABELS.items():
        own = scores[name]
        size = f"{own['parameters']:>10,}{own['gflops']:>8.3f}{own['images_per_second']:>10,.0f}"
        recall, first = interval(own["unseen"], "mean_r10"), mean_r1(own["unseen"]["metrics"])
        neighbours, words = percent(own["neighbours"]["metrics"]["accuracy"]), other_names(own, "metrics")
        rows.append(f"{label:25}{size}{'':3}{percent(first):>7}{recall:>16}{neighbours:>13}{'':3}{percent(words):>14}")
    chance = scores["lit"]
    first, tenth = mean_r1(chance["unseen"]["chance"]), chance["unseen"]["chance"]["mean_r10"]
    neighbours, words = chance["neighbours"]["chance"]["accuracy"], other_names(chance, "chance")
    rows.append(
        f"{'chance':25}{'':28}{'':3}{percent(first):>7}{percent(tenth):>9}{'':7}{percent(neighbours):>13}"
        f"{'':3}{percent(words):>14}"
    )
    return "\n".join([*rows, "", *LEGEND, "", *comparisons(result)])


LEGEND = (
    "In percent. R@k: queries whose right answer is among the first k, the mean of image → text and text → image,",
    "with an interval of 95 %; of trained emoji, text → image by an English name that was not trained with. 5-NN:",
    "unseen emoji whose Unicode group the five nearest trained emoji name, which needs no text.",
)


def comparisons(result: dict[str, Any]) -> list[str]:
    """What the numbers say, or that there are too few test images for that."""
    if result["test_images"] < FEW:
        return [f"{result['test_images']} test emoji are too few to compare the models; leave out --limit."]
    scores, lines = result["scores"], list[str]()
    for name in ("lit", "scratch"):
        found = result["differences"][name]
        lines.append(f"3T minus {LABELS[name]}: mean R@10 {difference(found['unseen']['mean_r10'])}")
    own, teacher = scores["three_towers"], scores["lit"]
    kept = own["neighbours"]["metrics"]["accuracy"] / max(teacher["neighbours"]["metrics"]["accuracy"], 1e-9)
    lines.append(
        f"The student keeps {kept:.0%} of the teacher's 5-NN accuracy with "
        f"{own['parameters'] / teacher['parameters']:.0%} of its parameters and "
        f"{own['gflops'] / teacher['gflops']:.0%} of its operations."
    )
    return lines


def difference(found: dict[str, float]) -> str:
    """A paired difference in points with its interval, and whether it can be told from chance."""
    low, high = 100 * found["low"], 100 * found["high"]
    told = "" if low > 0 or high < 0 else ": not told apart"
    return f"{100 * found['value']:+.1f} points [{low:+.1f}, {high:+.1f}]{told}"


def interval(found: dict[str, Any], metric: str) -> str:
    """A metric with its interval of 95 %, in percent."""
    low, high = found["intervals"][metric]
    return f"{percent(found['metrics'][metric])} [{100 * low:.0f}, {100 * high:.0f}]"


def mean_r1(metrics: dict[str, float]) -> float:
    """The mean of the recall at 1 in both directions."""
    return (metrics["i2t_r1"] + metrics["t2i_r1"]) / 2


def other_names(own: dict[str, Any], kind: str) -> float:
    """R@10 of trained emoji by other names: of the "metrics" or by "chance"."""
    return float(own["other_names"][kind]["t2i_r10"])


def percent(share: float) -> str:
    """A share as a number of percent with one decimal."""
    return f"{100 * share:.1f}"
