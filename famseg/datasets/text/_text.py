"""Labeled sentences and pairs of sentences in three splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.datasets._manifest import SPLITS, Split
from famseg.files import csv_text, write_atomically

_COLUMNS = ("split", "subject", "label", "class", "source", "sha256")


@dataclass(frozen=True)
class TextSample:
    """One sample.

    Args:
        name: Unique in the data set: its split and its number in the file it came from, from 0,
            such as ``test-00017``.
        sentences: One sentence or two.
        label: Number of the class.
        source: File and line it was read from, ``train.tsv:19``; empty for a synthetic sample.
    """

    name: str
    sentences: tuple[str, ...]
    label: int
    source: str = ""


@dataclass(frozen=True)
class TextSplits:
    """A labeled set of texts in three splits.

    Args:
        train: Samples to learn from.
        validation: Samples that choose (best epoch, early stopping), held out from the training
            file.
        test: Samples that are scored once. Of GLUE's tasks it is ``dev.tsv``, since the labels of
            ``test.tsv`` are not public.
        classes: Names of the classes in the order of their numbers.
    """

    train: Sequence[TextSample]
    validation: Sequence[TextSample]
    test: Sequence[TextSample]
    classes: tuple[str, ...]

    def split(self, name: Split) -> Sequence[TextSample]:
        """Return the samples of a split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sentences, labels, classes and splits: equal for the same data alone."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for name in SPLITS:
            for each in self.split(name):
                digest.update(json.dumps([each.name, each.label, each.sentences]).encode())
        return digest.hexdigest()

    def write_manifest(self, path: Path) -> None:
        """Write which sample is in which split as CSV, whole or not at all.

        The columns are split, subject, label, class, source (file and line) and sha256 (of the
        sentences as a JSON list).

        Args:
            path: The file; its folder must exist.
        """
        rows: list[list[object]] = []
        for name in SPLITS:
            for each in self.split(name):
                digest = hashlib.sha256(json.dumps(each.sentences).encode()).hexdigest()
                label = (each.label, self.classes[each.label])
                rows.append([name, each.name, *label, each.source, digest])
        write_atomically(path, csv_text(_COLUMNS, rows).encode())
