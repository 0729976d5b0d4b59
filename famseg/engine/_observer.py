"""What watches a training: the recorder, the command's progress bar, a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

RGBImage = npt.NDArray[np.uint8]
"""An RGB image of shape ``(h, w, 3)``."""


class Observer(Protocol):
    """Sees the progress of a training; called in the main process only."""

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Training begins at ``step`` of ``steps`` forward passes in ``epochs`` epochs."""
        ...

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """A forward pass ended; ``penalty`` is None where none was computed."""
        ...

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch ended."""
        ...

    def image(self, epoch: int, image: RGBImage) -> None:
        """An image of the network's present state was drawn."""
        ...
