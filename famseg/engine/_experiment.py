"""What a pipeline hands to the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from famseg.engine._processes import Processes
from famseg.objectives import Objective

Row = dict[str, Any]
Batch = Mapping[str, Any]
Picture = npt.NDArray[np.uint8]


class Evaluate(Protocol):
    """The evaluation of a trained network on the cases that training never saw."""

    def __call__(
        self, model: nn.Module, folder: Path, *, processes: Processes
    ) -> Mapping[str, Any]:
        """Evaluate, write tables and pictures below ``folder``, return the JSON-safe summary."""
        ...


@dataclass(frozen=True)
class Experiment:
    """Everything that is special to one task.

    Attributes:
        objective: Batch to terms, around the network.
        optimizer: Makes the optimizer of given parameters.
        schedule: Maps a moment in epochs to the factor of the base learning rate.
        train: Map-style data set. It is asked for ``epoch * len + sample`` and draws its
            randomness from that index alone. Items are mappings.
        validation: Map-style data set of fixed items; chooses the best epoch.
        score: Maps outputs and batch to one row of numbers a case.
        key_metric: The column of the rows whose mean chooses the best epoch; larger is better.
        evaluate: Final evaluation.
        test_metrics: Maps the evaluation's summary to flat names and numbers for tracking.
        picture: Draws the network's present state, an RGB image of shape ``(h, w, 3)``; or None.
        data_hash: Fingerprint of the data and its preparation.
        write_manifest: Writes the subjects, their files and splits to a CSV file.
        tests: Map-style data sets of the final evaluation, by name.
    """

    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Callable[[float], float]
    train: Dataset[Mapping[str, Any]]
    validation: Dataset[Mapping[str, Any]]
    score: Callable[[Tensor, Batch], Sequence[Row]]
    key_metric: str
    evaluate: Evaluate
    test_metrics: Callable[[Mapping[str, Any]], Mapping[str, float]]
    picture: Callable[[nn.Module], Picture] | None
    data_hash: str
    write_manifest: Callable[[Path], None]
    tests: Mapping[str, Dataset[Mapping[str, Any]]] = field(default_factory=dict)


class Observer(Protocol):
    """Sees the progress of a training; called in the main process alone."""

    def started(self, *, epochs: int, steps: int, step: int) -> None:
        """Training begins at ``step`` of ``steps`` forward passes in ``epochs`` epochs."""
        ...

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        """A forward pass ended; ``penalty`` is None where none was computed."""
        ...

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch ended."""
        ...

    def picture(self, epoch: int, picture: Picture) -> None:
        """A picture of the network's present state was drawn."""
        ...
