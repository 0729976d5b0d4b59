"""Splits by subject: reproducible, whatever the order of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from famseg.config import InputError
from famseg.datasets._manifest import SkullSubject, Split


def split_subjects(
    subjects: Sequence[SkullSubject], validation: float, test: float, seed: int
) -> list[SkullSubject]:
    """Give every subject a split.

    Subjects are ranked by a hash of seed and id, so the order of files does not matter and a
    subject that is added moves few others. A split asked for gets at least one subject. Subjects
    that have a split keep it if all have one.

    Args:
        subjects: At least one more than there are splits asked for besides training.
        validation: Share of the subjects for validation, 0 to below 1.
        test: Share for the test, 0 to below 1; both together below 1.
        seed: Another seed, another split.

    Returns:
        The subjects in the given order, each with its split.

    Raises:
        InputError: If the shares are out of range, there are too few subjects, or only some have a
            split.
    """
    given = [s for s in subjects if s.split is not None]
    if given:
        return _given_splits(subjects, len(given))
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise InputError(
            f"split: validation {validation:g} and test {test:g} must be 0 or more, together "
            "below 1"
        )
    count = len(subjects)
    n_test = max(round(test * count), 1) if test > 0 else 0
    n_validation = max(round(validation * count), 1) if validation > 0 else 0
    if n_test + n_validation >= count:
        raise InputError(
            f"split: {count} subjects are too few for {n_validation} to validate and {n_test} to "
            "test: none is left to train on; add subjects or set data.validation or data.test to 0"
        )
    ranked = sorted(subjects, key=lambda s: hashlib.sha256(f"{seed}\0{s.id}".encode()).hexdigest())
    splits: dict[str, Split] = {s.id: "train" for s in subjects}
    splits |= {s.id: "test" for s in ranked[:n_test]}
    splits |= {s.id: "validation" for s in ranked[n_test : n_test + n_validation]}
    return [replace(s, split=splits[s.id]) for s in subjects]


def _given_splits(subjects: Sequence[SkullSubject], given: int) -> list[SkullSubject]:
    if given < len(subjects):
        first = next(s.id for s in subjects if s.split is None)
        raise InputError(
            f"split: {given} of {len(subjects)} subjects have a split, {first} has none: "
            "give one to all of them or to none"
        )
    if not any(s.split == "train" for s in subjects):
        raise InputError("split: no subject has the split train")
    return list(subjects)
