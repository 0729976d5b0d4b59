"""What a pipeline hands to the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from famseg.engine._processes import Processes
from famseg.engine._scores import Row, scores_metrics, scores_table
from famseg.objectives import Objective

Batch = Mapping[str, Any]
History = Sequence[Mapping[str, float | None]]
Picture = npt.NDArray[np.uint8]
Saved = Literal["failed", "all"]


class Evaluate(Protocol):
    """The evaluation of a trained network on the cases that training never saw."""

    def __call__(
        self, model: nn.Module, folder: Path, *, processes: Processes
    ) -> Mapping[str, Any]:
        """Evaluate, write tables and pictures below ``folder``, return the JSON-safe summary."""
        ...


def _no_signs(history: History, summary: Mapping[str, Any]) -> Sequence[str]:
    return ()


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
        score: Maps outputs and batch to one row a case; the mean of each column of numbers is
            logged.
        key_metric: The column of the rows whose mean chooses the best epoch; larger is better.
        data_hash: Fingerprint of the data and its preparation.
        tests: Map-style data sets of the final evaluation, by name.
        evaluate: Final evaluation; None to score the cases of ``tests`` by ``score``.
        test_metrics: Maps the evaluation's summary to flat names and numbers for tracking.
        picture: Draws the network's present state, an RGB image of shape ``(h, w, 3)``; or None.
        write_manifest: Writes the subjects, their files and splits to a CSV file; or None.
        collate: Makes a batch of what a data set returns; None for torch's own way. A data set
            with ``__getitems__`` may return whole batches.
        augment: Changes a training batch on the device, before the forward pass; a pure function
            of the batch, which may hold the indices of its samples. None changes nothing.
        lengths: Length of each training sample, where samples of a batch shall be of like length.
        compilable: The part of the network that ``training.compile`` compiles: what runs before
            the penalised layer. None where nothing is to be compiled.
        monitor: Measures the network at the end of an epoch: names such as ``train/kappa`` and
            numbers.
        scores: Names of the test metrics that a comparison of runs shows, the foremost first.
        table: The evaluation's summary as a table in plain text.
        signs: Sentences about what went wrong, from the epochs' metrics and the summary.
        saving: Returns the final evaluation that also writes predictions: those of ``failed`` or
            of ``all`` cases. None where there is nothing to write.
    """

    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Callable[[float], float]
    train: Dataset[Mapping[str, Any]]
    validation: Dataset[Mapping[str, Any]]
    score: Callable[[Tensor, Batch], Sequence[Row]]
    key_metric: str
    data_hash: str
    tests: Mapping[str, Dataset[Mapping[str, Any]]] = field(default_factory=dict)
    evaluate: Evaluate | None = None
    test_metrics: Callable[[Mapping[str, Any]], Mapping[str, float]] = scores_metrics
    picture: Callable[[nn.Module], Picture] | None = None
    write_manifest: Callable[[Path], None] | None = None
    collate: Callable[[Any], Batch] | None = None
    augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    lengths: Sequence[int] | None = None
    compilable: nn.Module | None = None
    monitor: Callable[[nn.Module], Mapping[str, float]] | None = None
    scores: Sequence[str] = ()
    table: Callable[[Mapping[str, Any]], str] = scores_table
    signs: Callable[[History, Mapping[str, Any]], Sequence[str]] = _no_signs
    saving: Callable[[Saved], Evaluate] | None = None


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
