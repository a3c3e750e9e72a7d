"""What the numbers of a study say: values of variants, and differences to the reference, paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Below it a standard deviation comes from rounding: all differences are the same number.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Spread:
    """The mean of numbers and the error of that mean.

    Attributes:
        count: n, how many numbers there are.
        mean: of them; None without any.
        std: their standard deviation, with n − 1 in the denominator; None for fewer than two.
        two_standard_errors: 2 · std / √n; None for fewer than two.
    """

    count: int
    mean: float | None
    std: float | None
    two_standard_errors: float | None

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        """Of some numbers, all finite."""
        values = list(numbers)
        mean = statistics.fmean(values) if values else None
        if len(values) < 2:
            return cls(len(values), mean, None, None)
        std = statistics.stdev(values)
        return cls(len(values), mean, std, 2 * std / math.sqrt(len(values)))

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of mean ± two standard errors.

        False where there is no estimate of the error, and where all numbers are the same: measures that count samples
        take few values, and agree by chance.
        """
        if self.mean is None or self.std is None or self.two_standard_errors is None or self.std <= ROUNDING:
            return False
        return abs(self.mean) > self.two_standard_errors


@dataclass(frozen=True)
class Compared:
    """One metric of one variant.

    Attributes:
        values: the value of each seed that has one.
        value: the spread of these.
        differences: for each seed that this variant and the reference have: value minus the reference's.
        difference: the spread of these; its count is 0 for the reference itself.
    """

    values: dict[int, float]
    value: Spread
    differences: dict[int, float] = field(default_factory=dict)
    difference: Spread = Spread(0, None, None, None)

    def as_tree(self) -> dict[str, Any]:
        """As JSON can hold it."""
        tree = asdict(self)
        tree["difference"]["excludes_zero"] = self.difference.excludes_zero
        return tree


def compare(values: Mapping[str, Mapping[int, float | None]], reference: str) -> dict[str, Compared]:
    """Compare the variants of a study in one metric, as in Table E.4 of arXiv 2305.16999, but over seeds.

    Runs of one seed share the order of the samples and the random numbers that this seed decides, so differences are
    taken within each seed, and their spread is that of the differences.

    Args:
        values: of each variant, for each seed the metric; None, or a number that is not finite, where there is none.
        reference: the variant that the others are compared with; it may have no values.

    Returns:
        Of each variant, in the order of ``values``.
    """
    finite = {
        name: {seed: float(value) for seed, value in own.items() if value is not None and math.isfinite(value)}
        for name, own in values.items()
    }
    base, found = finite.get(reference, {}), {}
    for name, own in finite.items():
        paired = {seed: value - base[seed] for seed, value in own.items() if seed in base and name != reference}
        found[name] = Compared(own, Spread.of(own.values()), paired, Spread.of(paired.values()))
    return found
