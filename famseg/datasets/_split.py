"""Splits by subject that do not depend on the order of the files."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from famseg.datasets._manifest import SkullSubject, Split
from famseg.messages import InputError

_MOST_CATEGORIES = 4  # numbers with more distinct values are grouped by quartiles


# Long because of its docstring.
def split_subjects(
    subjects: Sequence[SkullSubject],
    validation: float,
    test: float,
    seed: int,
    *,
    strata: Mapping[str, str] | None = None,
) -> list[SkullSubject]:
    """Give every subject a split.

    Subjects are ranked by a hash of seed and id, so the order of files does not matter and a
    subject that is added moves few others. Every requested split gets at least one subject. If all
    subjects have a split, they keep it.

    Groups (`SkullSubject.group`) are drawn whole, by a hash of seed and group, and count once: the
    shares are shares of the people, not of the scans. A subject without a group is one by itself.

    With strata, each stratum's groups are ranked by themselves, and the ranks spread evenly from
    0 to 1: the lowest of all go to the test, the next to validation. Each stratum gives its share,
    give or take one group, and the totals are the same as without. A group belongs to the stratum
    that most of its subjects are in.

    Args:
        subjects: At least one group more than there are requested splits besides training.
        validation: Share of the groups for validation, 0 to below 1.
        test: Share for the test, 0 to below 1; both together below 1.
        seed: Random seed of the split.
        strata: The stratum of each subject, by id, as `strata_of` makes them.

    Returns:
        The subjects in the given order, each with its split.

    Raises:
        InputError: If the shares are out of range, there are too few groups, only some subjects
            have a split, or the splits that they have divide a group.
    """
    given = [s for s in subjects if s.split is not None]
    if given:
        return _given_splits(subjects, len(given))
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise InputError(
            f"split: validation {validation:g} and test {test:g} must be 0 or more, together "
            "below 1"
        )
    members = _groups(subjects)
    count = len(members)
    n_test = max(round(test * count), 1) if test > 0 else 0
    n_validation = max(round(validation * count), 1) if validation > 0 else 0
    if n_test + n_validation >= count:
        people = f"{count} subjects are"
        if count < len(subjects):
            people = f"{len(subjects)} subjects in {count} groups (one per person) are"
        raise InputError(
            f"split: {people} too few for {n_validation} to validate and {n_test} to "
            "test: none is left to train on; add subjects or set data.validation or data.test to 0"
        )
    stratum = {key: _commonest(ids, strata or {}) for key, ids in members.items()}
    ranked = _ranked(list(members), seed, stratum)
    splits: dict[str, Split] = dict.fromkeys(members, "train")
    splits |= dict.fromkeys(ranked[:n_test], "test")
    splits |= dict.fromkeys(ranked[n_test : n_test + n_validation], "validation")
    return [replace(s, split=splits[_key(s)]) for s in subjects]


def strata_of(values: Mapping[str, str]) -> dict[str, str]:
    """Return the stratum of each subject from one column of a table.

    Numbers of more than four values are cut at their quartiles; other values are used unchanged, an
    empty cell as a separate stratum.

    Args:
        values: The column's cell, by subject.

    Returns:
        The stratum, by subject.

    Example:
        >>> strata_of({"a": "f", "b": "m", "c": ""})
        {'a': 'f', 'b': 'm', 'c': '(empty)'}
        >>> strata_of({name: name for name in "12345678"})["3"]
        '2.75 to 4.5'
    """
    stripped = {subject: value.strip() for subject, value in values.items()}
    filled = [value for value in stripped.values() if value]
    numbers = [_number(value) for value in filled]
    finite = [n for n in numbers if n is not None]
    if len(finite) < len(filled) or len(set(finite)) <= _MOST_CATEGORIES:
        return {subject: value or "(empty)" for subject, value in stripped.items()}
    edges = np.quantile(finite, [0, 0.25, 0.5, 0.75, 1])
    names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return {
        subject: names[int(np.searchsorted(edges[1:-1], float(value)))] if value else "(empty)"
        for subject, value in stripped.items()
    }


def _key(subject: SkullSubject) -> str:
    """Return the key of a subject in the draw: its group, or else its id."""
    # The prefix avoids collisions with subjects of the same name. Ids have none, so that splits
    # without groups do not change.
    return f"group\0{subject.group}" if subject.group else subject.id


def _groups(subjects: Sequence[SkullSubject]) -> dict[str, list[str]]:
    """Return the ids of each group, in the order of the subjects."""
    members: dict[str, list[str]] = defaultdict(list)
    for subject in subjects:
        members[_key(subject)].append(subject.id)
    return members


def _commonest(ids: Sequence[str], strata: Mapping[str, str]) -> str | None:
    """Return the most frequent stratum; the first by name in case of a tie."""
    counts = Counter(strata[i] for i in ids if i in strata)
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None


def _ranked(ids: Sequence[str], seed: int, strata: Mapping[str, str | None]) -> list[str]:
    """Return the ids in the order in which they are drawn."""
    hashes = {i: hashlib.sha256(f"{seed}\0{i}".encode()).hexdigest() for i in ids}
    members: dict[str | None, list[str]] = defaultdict(list)
    for i in sorted(ids, key=hashes.__getitem__):
        members[strata.get(i)].append(i)
    place = {i: (n + 0.5) / len(own) for own in members.values() for n, i in enumerate(own)}
    return sorted(ids, key=lambda i: (place[i], hashes[i]))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _given_splits(subjects: Sequence[SkullSubject], given: int) -> list[SkullSubject]:
    if given < len(subjects):
        first = next(s.id for s in subjects if s.split is None)
        raise InputError(
            f"split: {given} of {len(subjects)} subjects have a split, {first} has none: "
            "give one to all of them or to none"
        )
    if not any(s.split == "train" for s in subjects):
        raise InputError("split: no subject has the split train")
    faults = divided_groups(subjects)
    if faults:
        raise InputError(*(f"{fault}, or change the column group" for fault in faults))
    return list(subjects)


def divided_groups(subjects: Sequence[SkullSubject]) -> list[str]:
    """Return an error message for each group whose subjects have different splits."""
    first: dict[str, SkullSubject] = {}
    faults = {}
    for subject in subjects:
        other = first.setdefault(_key(subject), subject)
        if other.split != subject.split:
            faults[_key(subject)] = (
                f"split: {other.id} is in {other.split} and {subject.id}, of the same group "
                f"{subject.group}, in {subject.split}: split again with famseg split --force"
            )
    return list(faults.values())
