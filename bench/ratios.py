"""Ratios of paired measurements, and how sure they are."""

import dataclasses
import random
import statistics


@dataclasses.dataclass(frozen=True)
class Ratio:
    median: float
    lower_quartile: float
    upper_quartile: float
    # Where the median lies with 95%.
    low: float
    high: float
    rounds: int

    @property
    def spread(self):
        """Half the interval's width, as a share of the median; 1 where there are too few rounds to say."""
        return (self.high - self.low) / 2 / self.median if self.rounds >= 5 else 1.0


def ratio(ours, theirs):
    """Of two lists of figures, one each a round: the median of the rounds' ratios. The interval is a percentile
    bootstrap's, always of the same draws."""
    pairs = [mine / other for mine, other in zip(ours, theirs) if mine is not None and other]
    if not pairs:
        return None
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(pairs, k=len(pairs))) for _ in range(1000))
    quartiles = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else [pairs[0]] * 3
    return Ratio(statistics.median(pairs), quartiles[0], quartiles[2], medians[25], medians[974], len(pairs))
