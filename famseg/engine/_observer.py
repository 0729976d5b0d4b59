"""Observers of a training: the recorder, the command's progress bar, a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

RGBImage = npt.NDArray[np.uint8]
"""An RGB image of shape ``(h, w, 3)``."""


class Observer(Protocol):
    """Receives the progress of a training; called only in rank 0."""

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Handle the start of the training at ``step`` of ``steps`` passes in ``epochs`` epochs."""
        ...

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """Handle the end of a forward pass; ``penalty`` is None if none was computed."""
        ...

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Handle the end of an epoch."""
        ...

    def image(self, epoch: int, image: RGBImage) -> None:
        """Handle an image of the network's current state."""
        ...
