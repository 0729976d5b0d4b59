"""What an objective and a measurement return."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Terms(NamedTuple):
    """The parts of one training objective.

    Attributes:
        total: What to call ``backward()`` on, once: the loss, plus the weighted penalty on the
            steps that carry one. A scalar.
        loss: The loss alone. A scalar.
        penalty: The penalty before it is weighted (for FAM the bounded relative flatness), a
            scalar; ``None`` on a step that carries none.
    """

    total: Tensor
    loss: Tensor
    penalty: Tensor | None


class Measurement(NamedTuple):
    """Relative flatness of one layer on one batch.

    Attributes:
        kappa: The relative flatness as defined, without any bound: a scalar that may be negative.
        per_sample: The samples' parts, shape ``(n,)``, whose mean is `kappa`; ``None`` where the
            estimator knows the batch alone.
        loss: The loss of the same forward pass. A scalar.
    """

    kappa: Tensor
    per_sample: Tensor | None
    loss: Tensor

    @property
    def standard_error(self) -> Tensor:
        """Standard error of `kappa` over samples and probes; NaN where there is no spread."""
        if self.per_sample is None or len(self.per_sample) < 2:
            return self.kappa.new_full((), float("nan"))
        return self.per_sample.std() / math.sqrt(len(self.per_sample))
