"""The interface of a pipeline to the engine: data as attributes, task-specific steps as methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# Pipelines derive their classes when a configuration is read, which must not import torch: slow
# imports are therefore inside the functions that use them.
if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.data import Dataset

    from famseg.engine._config import RunConfig
    from famseg.engine._observer import RGBImage
    from famseg.engine._processes import Processes
    from famseg.engine._scores import Row
    from famseg.objectives import Objective

    Cases = Dataset[Mapping[str, Any]]

Batch = Mapping[str, Any]
History = Sequence[Mapping[str, float | None]]
Saved = Literal["failed", "all"]

# Cases per forward pass; an evaluation saves nothing for a backward pass.
_BATCH = 64


class Experiment(ABC):
    """Everything that is special to one task.

    A pipeline derives a class from it, sets ``key_metric`` and overrides `score`; every other
    method has a default and is overridden only where the task needs more. The engine calls the
    methods.

    Args:
        config: The configuration of the run. Optimizer and learning rate come from it.
        objective: Batch to terms, around the network.
        train: Map-style data set. It is indexed by ``epoch * len + sample`` and draws its
            randomness from that index only. Items are mappings.
        validation: Map-style data set of fixed items; it chooses the best epoch.
        tests: Map-style data sets of the final evaluation, by name.
        data_hash: Fingerprint of the data and its preparation.

    Attributes:
        key_metric: The column of the rows of `score` whose mean chooses the best epoch; larger is
            better. Set by the derived class.
        scores: Names of the test metrics that a comparison of runs shows, the most important first.
        saves_predictions: Whether `evaluate` can write predictions to files.
        optimizer: Makes the optimizer of given parameters.
        schedule: Maps a moment in epochs to the factor of the base learning rate.
        collate: Collates items of a data set; None for torch's own way. A data set with
            ``__getitems__`` may return whole batches. It is an attribute, not a method: workers get
            it, and not the network with it.
        lengths: Length of each training sample, if a batch should hold samples of similar length;
            None otherwise.
        compilable: The part of the network that ``training.compile`` compiles: what runs before
            the penalized layer. None if nothing can be compiled.

    Raises:
        TypeError: If the derived class has no ``key_metric``.
    """

    key_metric: str
    scores: Sequence[str] = ()
    saves_predictions: bool = False
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Callable[[float], float]
    collate: Callable[[Any], Batch] | None = None
    lengths: Sequence[int] | None = None
    compilable: nn.Module | None = None

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        *,
        train: Cases,
        validation: Cases,
        tests: Mapping[str, Cases] | None = None,
        data_hash: str,
    ) -> None:
        if not hasattr(self, "key_metric"):
            raise TypeError(
                f"{type(self).__name__} has no key_metric. Name the column of its scores whose "
                "mean chooses the best epoch."
            )
        self.config = config
        self.objective = objective
        self.optimizer = config.optimizer.build()
        self.schedule = config.schedule.build(config.training.epochs)
        self.train = train
        self.validation = validation
        self.tests = dict(tests or {})
        self.data_hash = data_hash

    @abstractmethod
    def score(self, outputs: Tensor, batch: Batch) -> Sequence[Row]:
        """Return one row per case of a batch; the mean of each column of floats is logged.

        Args:
            outputs: What the network makes of the batch.
            batch: The batch, on the device of the outputs.
        """

    def augment(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a training batch, on the device, as the network should see it: by default as is.

        Must be a pure function of the batch, which may hold the indices of its samples.
        """
        return batch

    def monitor(self, model: nn.Module) -> Mapping[str, float]:
        """Measure the network at the end of an epoch; by default nothing.

        Returns:
            Names such as ``train/kappa`` and numbers, recorded with the metrics of the epoch.
        """
        return {}

    def image(self, model: nn.Module) -> RGBImage | None:
        """Draw the network's current output, an RGB image of shape ``(h, w, 3)``; or None."""
        return None

    def evaluate(
        self, model: nn.Module, folder: Path, *, processes: Processes, save: Saved | None = None
    ) -> Mapping[str, Any]:
        """Evaluate the trained network on the cases of ``tests``, which training never saw.

        By default `score` is applied to each case. Every rank must call.

        Args:
            model: The network.
            folder: Where to write tables and images; ``cases.csv`` and ``summary.json`` at least.
            processes: The processes of the run; only the first one writes.
            save: Whose predictions to write, those of ``failed`` or of ``all`` cases; None for
                none. Always None unless ``saves_predictions``.

        Returns:
            The summary, which fits JSON; in the first process at least.
        """
        from famseg.engine._scores import write_scores
        from famseg.engine._validation import Validator

        device = next(model.parameters()).device
        rows = {
            name: Validator(
                self, model, processes=processes, device=device, batch_size=_BATCH, data=data
            ).rows()
            for name, data in self.tests.items()
        }
        return write_scores(rows, folder) if processes.main else {}

    def test_metrics(self, summary: Mapping[str, Any]) -> Mapping[str, float]:
        """Return the evaluation's summary as flat names and numbers, for tracking."""
        from famseg.engine._scores import scores_metrics

        return scores_metrics(summary)

    def table(self, summary: Mapping[str, Any]) -> str:
        """Return the evaluation's summary as a table in plain text."""
        from famseg.engine._scores import scores_table

        return scores_table(summary)

    def signs(self, history: History, summary: Mapping[str, Any]) -> Sequence[str]:
        """Return sentences about what went wrong; by default none.

        Args:
            history: One mapping per epoch, as in ``metrics.jsonl``.
            summary: What `evaluate` returned.
        """
        return ()

    def write_manifest(self, path: Path) -> None:  # noqa: B027  # most tasks have none
        """Write the subjects, their files and splits to a CSV file; by default nothing."""
