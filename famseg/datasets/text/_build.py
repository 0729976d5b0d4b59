"""Building of labeled texts in three splits, from files or a seed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from famseg.datasets.images import TEST_LIMIT, TRAIN_LIMIT, VALIDATION, stratified
from famseg.datasets.text._read import FaultList, Format, Row, read_rows
from famseg.datasets.text._synthetic import CLASSES, synthetic_samples
from famseg.datasets.text._text import TextSample, TextSplits
from famseg.messages import InputError

_logger = logging.getLogger("famseg")

_MOST_CLASSES = 1000  # a column with more distinct labels does not contain classes


# Many parameters, because it offers the keys of the configuration to library users.
def text_files(
    train: Path,
    test: Path,
    *,
    form: Format,
    columns: Sequence[str],
    label: str,
    classes: Sequence[str] | None,
    validation: float,
    train_limit: int | None,
    test_limit: int | None,
    seed: int,
) -> TextSplits:
    """Read a training and a test file; hold out a share of the first for validation.

    Args:
        train: The training file.
        test: The test file; it must have labels.
        form: ``tsv`` or ``jsonl``, see `read_rows`.
        columns: Columns, or keys, of the sentences: one or two.
        label: Column, or key, of the label.
        classes: The labels in the order of their numbers; None for the sorted labels of the
            training file.
        validation: Share of the training file used to choose the best epoch, stratified by class.
        train_limit: Largest number of samples from the training file, stratified by class.
        test_limit: The same for the test file.
        seed: Seed of the draws.

    Raises:
        InputError: With the errors of both files, up to a limit for each.
    """
    rows: dict[Path, list[Row]] = {}
    faults: list[str] = []
    for path in (train, test):
        try:
            rows[path], found = read_rows(path, form=form, columns=columns, label=label)
        except InputError as error:
            faults += error.faults
            continue
        if not rows[path] and not found:
            faults.append(f"{path}: has no samples. Give a file with one sample per line.")
        faults += found
    if train not in rows or (faults and classes is None):
        raise InputError(*faults)
    names = tuple(classes) if classes is not None else _classes(rows[train], train, label)
    faults += [fault for path in rows for fault in _unknown_labels(rows[path], path, names)]
    if faults:
        raise InputError(*faults)
    texts = TextSplits(
        train=_drawn(_samples(rows[train], train, names, "train"), train_limit, seed, TRAIN_LIMIT),
        validation=(),
        test=_drawn(_samples(rows[test], test, names, "test"), test_limit, seed, TEST_LIMIT),
        classes=names,
    )
    _warn_of_known(texts, test)
    return _held_out(texts, validation, seed)


def synthetic_text(*, train: int, test: int, validation: float, seed: int) -> TextSplits:
    """Return the embedded task, see `synthetic_samples`.

    Args:
        train: Training samples, including those for validation.
        test: Test samples.
        validation: Share of ``train`` used to choose the best epoch.
        seed: Seed of sentences and splits.
    """
    texts = TextSplits(
        train=synthetic_samples(train, seed=seed, split="train"),
        validation=(),
        test=synthetic_samples(test, seed=seed, split="test"),
        classes=CLASSES,
    )
    return _held_out(texts, validation, seed)


def _classes(rows: Sequence[Row], path: Path, label: str) -> tuple[str, ...]:
    """Return the distinct labels, sorted numerically if they are integers, else alphabetically."""
    found = {row.label for row in rows}
    if not 2 <= len(found) <= _MOST_CLASSES:
        raise InputError(
            f"{path}: {len(found)} different labels in {len(rows)} samples: {label!r} does not "
            "contain classes. Name the label with data.label, or list the classes in data.classes."
        )
    numbers = all(each.lstrip("-").isdecimal() for each in found)
    return tuple(sorted(found, key=int) if numbers else sorted(found))


def _unknown_labels(rows: Sequence[Row], path: Path, classes: Sequence[str]) -> FaultList:
    faults = FaultList(path)
    for row in rows:
        if row.label not in classes:
            faults.add(
                row.line,
                f"the label {row.label!r} is none of {', '.join(classes)}. Fix it, or list it in "
                "data.classes.",
            )
    return faults


def _samples(
    rows: Sequence[Row], path: Path, classes: Sequence[str], split: str
) -> list[TextSample]:
    numbers = {name: number for number, name in enumerate(classes)}
    return [
        TextSample(
            f"{split}-{number:05d}", row.sentences, numbers[row.label], f"{path.name}:{row.line}"
        )
        for number, row in enumerate(rows)
    ]


def _drawn(
    samples: Sequence[TextSample], count: int | None, seed: int, stream: int
) -> Sequence[TextSample]:
    """Return ``count`` of the samples, stratified by class, in the given order; all for None."""
    if count is None or count >= len(samples):
        return samples
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    return [samples[index] for index in stratified(labels, count, seed, stream).tolist()]


def _held_out(texts: TextSplits, share: float, seed: int) -> TextSplits:
    """Move a share of the training samples to the validation, stratified by class."""
    count = max(round(share * len(texts.train)), 1)
    chosen = _drawn(texts.train, count, seed, VALIDATION)
    names = {sample.name for sample in chosen}
    train = [sample for sample in texts.train if sample.name not in names]
    left = {sample.label for sample in train}
    for number, name in enumerate(texts.classes):
        if number not in left:
            raise InputError(
                f"data: no sample of class {name} is left to train on. Give more samples, a larger "
                "data.train_limit or a smaller data.validation."
            )
    validation = [
        replace(sample, name=sample.name.replace("train", "validation")) for sample in chosen
    ]
    return replace(texts, train=train, validation=validation)


def _warn_of_known(texts: TextSplits, path: Path) -> None:
    known = {sample.sentences for sample in texts.train}
    count = sum(sample.sentences in known for sample in texts.test)
    if count:
        _logger.warning(
            "%s: %d of %d samples are also in the training file: the test metrics are too good "
            "because of them",
            path,
            count,
            len(texts.test),
        )
