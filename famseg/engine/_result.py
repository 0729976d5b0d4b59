"""The state and the result of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Best:
    """The best validation so far.

    Attributes:
        epoch: Its epoch, starting at 1; 0 before the first validation.
        value: Its key metric.
        waited: Number of validations since then without an improvement.
    """

    epoch: int = 0
    value: float = float("-inf")
    waited: int = 0


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    Attributes:
        epochs: Number of epochs trained in all sessions of the run.
        best: The best validation.
        stopped_early: Whether it ended because the validation metric stopped improving.
        seconds: Wall time of this session, in seconds.
    """

    epochs: int
    best: Best
    stopped_early: bool
    seconds: float
