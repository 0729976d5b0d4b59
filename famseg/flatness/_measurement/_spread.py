"""One value from the measurements of several batches, and how sure it is."""

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
        error: Its standard error; ``None`` where there is no spread.
        spread: What the standard error is taken over.
        replicates: How many values that is.
        probes: Random probes of each value; 0 where it is exact.
    """

    mean: float
    error: float | None
    spread: Spread | None
    replicates: int
    probes: int


def combined(measurements: Sequence[Measurement], sizes: Sequence[int]) -> Value:
    r"""Return the value of the mean loss over all samples, and its standard error.

    Over samples, where all have values of their own: :math:`s / \sqrt n`, the noise of their probes
    included. Else over batches of shares :math:`a_b`, of which there must be two:

    .. math:: \sqrt{\tfrac{B}{B-1} \textstyle\sum_b a_b^2 (\kappa_b - \kappa)^2}

    Else over the probes of the one batch, which says nothing about other samples.

    Args:
        measurements: One a batch.
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
