"""The evaluation of a classifier: one row per sample, aggregates and an image of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from famseg.engine import Processes, Row
from famseg.evaluation.classification._figures import classification_figure
from famseg.evaluation.classification._summary import ClassSummary, summarize_classes
from famseg.figures import files
from famseg.files import csv_text, write_atomically, write_json
from famseg.flatness import call_model
from famseg.messages import InputError

Batch = Mapping[str, Any]
Predict = Callable[[Any], Tensor]
Cases = Dataset[Mapping[str, Any]]
Progress = Callable[[str, int, int], None]

# Loss of a sample without finite logits, in nats: that of a true class whose probability is the
# smallest normal float32.
FAILED_LOSS = 87.34

_COLUMNS = ("set", "subject", "label", "prediction", "correct", "failed", "confidence", "loss")


def classification_rows(logits: Tensor, batch: Batch) -> list[Row]:
    """Return one row for each sample of a batch.

    A sample whose logits are not all finite has failed: it counts as a wrong prediction with
    confidence 1, and its loss as 87.34.

    Args:
        logits: The network's outputs, shape ``(n, classes)``.
        batch: ``label``, class numbers of shape ``(n,)``; ``subject``, a sequence of n names.

    Returns:
        Dicts of ``subject``, ``label``, ``prediction`` (-1 if it failed), ``accuracy`` (1 for a
        correct prediction, 0 for a wrong one), ``confidence`` (the largest probability), ``loss``
        (the
        cross-entropy in nats, without class weights and label smoothing) and ``failed``.

    Raises:
        ValueError: If the shapes do not fit, or a label is none of the classes.

    Example:
        >>> batch = {"label": torch.tensor([1]), "subject": ["a"]}
        >>> classification_rows(torch.tensor([[0.0, 0.0]]), batch)  # a tie goes to the first
        [{'subject': 'a', 'label': 1, 'prediction': 0, 'accuracy': 0.0, 'confidence': 0.5, \
'loss': 0.6931471805599453, 'failed': False}]
    """
    labels, subjects = batch["label"].cpu(), batch["subject"]
    if logits.ndim != 2 or len(logits) != len(labels):
        raise ValueError(
            f"logits must have shape (n, classes) for the {len(labels)} samples of the batch, got "
            f"{tuple(logits.shape)}."
        )
    classes = logits.shape[1]
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{subjects[first]}: label {int(labels[first])} is not one of the network's {classes} "
            f"classes, 0 to {classes - 1}."
        )
    values = logits.detach().cpu().double()
    failed = ~values.isfinite().all(1)
    logs = values.masked_fill(failed[:, None], 0.0).log_softmax(1)
    confidence = logs.amax(1).exp().masked_fill(failed, 1.0)
    prediction = logs.argmax(1).masked_fill(failed, -1)
    loss = (-logs.gather(1, labels[:, None])[:, 0]).masked_fill(failed, FAILED_LOSS)
    columns = {
        "subject": list(subjects),
        "label": labels.tolist(),
        "prediction": prediction.tolist(),
        "accuracy": (prediction == labels).double().tolist(),
        "confidence": confidence.tolist(),
        "loss": loss.tolist(),
        "failed": failed.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class Logits:
    """A trained network as a function from inputs to logits on the CPU, in evaluation mode.

    Args:
        model: The network.
        device: The device of the computation.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device

    def __call__(self, inputs: Any) -> Tensor:  # noqa: ANN401 - any type that the network accepts
        """Return the logits of a batch, shape ``(n, classes)``."""
        # Imported here because it takes seconds, and rows and tables do not need it.
        from monai.networks.utils import eval_mode

        from famseg.engine import to_device

        with torch.no_grad(), eval_mode(self.model):
            logits = call_model(self.model, to_device({"inputs": inputs}, self.device)["inputs"])
        if not isinstance(logits, Tensor):
            raise ValueError(f"the network must return logits, got a {type(logits).__name__}.")
        return logits.float().cpu()


def evaluate_classification(
    predict: Predict,
    sets: Mapping[str, Cases],
    folder: Path,
    *,
    classes: Sequence[str],
    collate: Callable[[Any], Batch] | None = None,
    inputs: str = "image",
    batch_size: int = 256,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> ClassSummary:
    """Score a classifier sample by sample; write a table, a summary and an image.

    The batches of a set are dealt out whole to the processes, so that the result does not depend
    on their number. Every process must call this function and gets the summary; the first one
    writes ``cases.csv``, ``classification.png``, the same figure as SVG and, last,
    ``summary.json``: if it exists, the evaluation is complete. An older one is removed first.

    Args:
        predict: Maps the inputs of a batch to logits ``(n, classes)``. It must not communicate with
            other processes (unwrap a module from DDP) and must be deterministic.
        sets: Map-style data sets by name: ``test``, and ``train`` for the gap between the two, of
            training samples without augmentation. Batches hold the inputs, ``label``
            (class numbers) and ``subject`` (names).
        folder: The output folder; created if it does not exist.
        classes: Names of the classes.
        collate: Collates items of a data set; None for torch's own way.
        inputs: Key of the inputs in a batch.
        batch_size: Samples per batch.
        processes: The processes of the run; None for a single process.
        progress: Called in the first process after each of its batches with the set's name, its
            finished and all its samples of the set.

    Returns:
        See ``summarize_classes``.

    Raises:
        ValueError: If a set is empty, or an output or item does not fit; with the set.
        InputError: If the folder cannot be written to.
    """
    # Nine parameters; an object for the five keyword options would be used only once.
    processes = processes or Processes()
    sizes = {name: len(cases) for name, cases in sets.items()}  # type: ignore[arg-type]  # map-style data sets have a length
    if not sizes or not all(sizes.values()):
        raise ValueError(f"every evaluation set needs a sample, got sizes {sizes}.")
    if processes.main:
        _make(folder)
    rows: list[Row] = []
    for name, cases in sets.items():
        dealt = _Dealt(sizes[name], batch_size, processes)
        parts: list[tuple[int, list[Row]]] = []
        for number, batch in dealt.batches(cases, collate):
            parts.append((number, _scored(predict, batch, name, inputs, len(classes))))
            if progress is not None and processes.main:
                progress(name, sum(len(part) for _, part in parts), dealt.samples)
        gathered = [part for share in processes.gather(parts) for part in share]
        for _, part in sorted(gathered, key=lambda part: part[0]):
            rows += [{"set": name} | row for row in part]
    summary = summarize_classes(rows, classes=classes)
    if processes.main:
        write_atomically(folder / "cases.csv", _table(rows))
        figure = classification_figure(rows, summary, classes=classes)
        for ending, content in files(figure).items():
            write_atomically(folder / f"classification{ending}", content)
        write_json(folder / "summary.json", summary)
    return summary


class _Dealt:
    """This rank's batches of a set: every ``world``-th batch."""

    def __init__(self, samples: int, batch_size: int, processes: Processes) -> None:
        starts = range(0, samples, batch_size)
        self.indices = {
            number: list(range(start, min(start + batch_size, samples)))
            for number, start in enumerate(starts)
            if number % processes.world == processes.rank
        }
        self.samples = sum(map(len, self.indices.values()))

    def batches(
        self, cases: Cases, collate: Callable[[Any], Batch] | None
    ) -> Iterator[tuple[int, Batch]]:
        """Yield each batch with its number."""
        loader = DataLoader(
            cases,
            batch_sampler=list(self.indices.values()),
            collate_fn=collate,
            generator=torch.Generator(),  # instead of the global one
        )
        yield from zip(self.indices, loader, strict=True)


def _scored(predict: Predict, batch: Batch, name: str, inputs: str, classes: int) -> list[Row]:
    logits = predict(batch[inputs])
    try:
        if logits.ndim == 2 and logits.shape[1] != classes:
            raise ValueError(f"the network has {logits.shape[1]} outputs for {classes} classes.")
        return classification_rows(logits, batch)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _table(rows: Sequence[Row]) -> bytes:
    return csv_text(_COLUMNS, (row | {"correct": int(row["accuracy"])} for row in rows)).encode()


def _make(folder: Path) -> None:
    """Create the folder and check that it is writable before the work begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)
        write_atomically(folder / "cases.csv", b"")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written to ({error.strerror}). Choose another folder."
        ) from error
