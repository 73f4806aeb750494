"""Ratios of paired measurements, with their confidence intervals."""

import dataclasses
import random
import statistics


@dataclasses.dataclass(frozen=True)
class Ratio:
    median: float
    lower_quartile: float
    upper_quartile: float
    # Bounds of the median's 95% interval.
    low: float
    high: float
    rounds: int

    @property
    def spread(self):
        """Half the interval's width, as a share of the median; 1 with fewer than five rounds."""
        return (self.high - self.low) / 2 / self.median if self.rounds >= 5 else 1.0


def ratio(ours, theirs):
    """Median ratio of two lists of figures, with one figure per round in each.

    The interval comes from a percentile bootstrap with a fixed seed.
    """
    pairs = [mine / other for mine, other in zip(ours, theirs) if mine is not None and other]
    if not pairs:
        return None
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(pairs, k=len(pairs))) for _ in range(1000))
    quartiles = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else [pairs[0]] * 3
    return Ratio(statistics.median(pairs), quartiles[0], quartiles[2], medians[25], medians[974], len(pairs))
