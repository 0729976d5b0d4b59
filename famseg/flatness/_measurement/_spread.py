"""One value from the measurements of several batches, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from famseg.flatness._terms import Measurement

Spread = Literal["samples", "batches", "probes"]


@dataclass(frozen=True)
class Value:
    """A mean over samples.

    Attributes:
        mean: The value.
        error: Its standard error; ``None`` without replicates.
        spread: The replicates over which the standard error is computed.
        replicates: Number of replicates.
        probes: Number of random probes per value; 0 if it is exact.
    """

    mean: float
    error: float | None
    spread: Spread | None
    replicates: int
    probes: int


def combined(measurements: Sequence[Measurement], sizes: Sequence[int]) -> Value:
    r"""Return the value of the mean loss over all samples, and its standard error.

    Over samples, if all have their own values: :math:`s / \sqrt n`, including the noise of their
    probes. Otherwise over at least two batches with shares :math:`a_b`:

    .. math:: \sqrt{\tfrac{B}{B-1} \textstyle\sum_b a_b^2 (\kappa_b - \kappa)^2}

    Otherwise over the probes of the only batch, which does not cover the variation of samples.

    Args:
        measurements: One per batch.
        sizes: Their numbers of samples.
    """
    shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    means = torch.tensor([each.kappa.item() for each in measurements], dtype=torch.float64)
    mean = (shares * means).sum()
    by_sample = [each.per_sample for each in measurements if each.per_sample is not None]
    by_probe = measurements[0].per_probe
    probes = 0 if by_probe is None else len(by_probe)

    def value(error: torch.Tensor | None, spread: Spread | None, replicates: int) -> Value:
        found = None if error is None else error.item()
        return Value(mean.item(), found, spread, replicates, probes)

    if len(by_sample) == len(measurements) and sum(sizes) > 1:
        values = torch.cat([each.cpu().double() for each in by_sample])
        return value(values.std() / math.sqrt(len(values)), "samples", len(values))
    if len(means) > 1:
        count = len(means)
        squares = (shares * (means - mean)).square().sum() * count / (count - 1)
        return value(squares.sqrt(), "batches", count)
    if by_probe is not None and probes > 1:
        return value(by_probe.cpu().double().std() / math.sqrt(probes), "probes", probes)
    return value(None, None, 0)
