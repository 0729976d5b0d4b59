"""The results of an objective and of a measurement."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Terms(NamedTuple):
    """The parts of one training objective.

    Attributes:
        total: The scalar to call ``backward()`` on, once: the loss, plus the weighted penalty on
            steps that have one.
        loss: The loss without the penalty, a scalar. With ``estimator="noise"`` it is the loss of
            the noisy network, the only one that such a step computes.
        penalty: The penalty before it is weighted (for FAM the bounded relative flatness), a
            scalar; ``None`` on a step without a penalty.
    """

    total: Tensor
    loss: Tensor
    penalty: Tensor | None


class Estimate(NamedTuple):
    """A value computed by an estimator.

    Attributes:
        values: The samples' values, shape ``(n,)``, whose mean is the batch's value, or only
            that value.
        probes: The batch's value by each probe, shape ``(probes,)``; ``None`` without probes.
    """

    values: Tensor
    probes: Tensor | None = None


class Measurement(NamedTuple):
    """Relative flatness of one or more layers on one batch.

    Attributes:
        kappa: The relative flatness as defined, without any bound: a scalar that may be negative.
        per_sample: The samples' parts, shape ``(n,)``, whose mean is `kappa`; ``None`` where the
            estimator knows only the batch.
        loss: The loss of the same forward pass. A scalar.
        per_probe: The estimates of `kappa` by each probe, shape ``(probes,)``; ``None`` without
            probes.
    """

    kappa: Tensor
    per_sample: Tensor | None
    loss: Tensor
    per_probe: Tensor | None = None

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `kappa`; NaN where it cannot be estimated.

        Over the samples, the noise of their probes included, where samples have values; over the
        probes, for this very batch, where there are two or more of them; of an exact value of the
        batch there is none.
        """
        spread = self.per_sample if self.per_sample is not None else self.per_probe
        if spread is None or len(spread) < 2:
            return self.kappa.new_full((), float("nan"))
        return spread.std() / math.sqrt(len(spread))
