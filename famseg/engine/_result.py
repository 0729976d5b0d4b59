"""How a training stands and how it ended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Best:
    """The best validation so far.

    Attributes:
        epoch: Its epoch, from 1; 0 before the first validation.
        value: Its key metric.
        waited: Validations since then without a rise.
    """

    epoch: int = 0
    value: float = float("-inf")
    waited: int = 0


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        epochs: Epochs that were trained, in all sessions of the run.
        best: The best validation.
        stopped_early: Whether the validation metric had stopped rising.
        seconds: Wall time of this session, in seconds.
    """

    epochs: int
    best: Best
    stopped_early: bool
    seconds: float
