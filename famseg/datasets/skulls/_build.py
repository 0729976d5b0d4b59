"""Building of prepared skulls in three splits, from phantoms or a folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from famseg.datasets._manifest import SkullSubject, scan_folder
from famseg.datasets._selection import select_subjects
from famseg.datasets._split import split_subjects
from famseg.datasets.phantoms import PHANTOM_VERSION, phantom
from famseg.datasets.skulls._cache import MaskCache, Prepared
from famseg.datasets.skulls._skulls import PreparedSkull, Skulls
from famseg.messages import InputError

Progress = Callable[[int, int], None]

_logger = logging.getLogger("famseg")

# Part of every cache key; increased when the same arguments give another mask.
_PREPARATION_VERSION = 1


def phantom_skulls(
    *,
    subjects: int,
    size: int,
    spacing_mm: float,
    validation: float,
    test: float,
    seed: int,
    cache: Path,
    progress: Progress | None = None,
) -> Skulls:
    """Return synthetic skulls, made once and cached.

    Args:
        subjects: How many.
        size: Voxels along each edge.
        spacing_mm: Edge of a voxel in mm.
        validation: Share of the subjects for validation.
        test: Share for the test.
        seed: Decides shapes and splits.
        cache: Folder of the cache.
        progress: Called with the number of finished skulls and their total.

    Raises:
        InputError: If an argument is out of range.
    """
    width = len(str(subjects - 1))
    settings = {"phantom": PHANTOM_VERSION, "size": size, "spacing_mm": spacing_mm, "seed": seed}
    people = [
        SkullSubject(f"phantom_{i:0{width}d}", None, _digest({**settings, "subject": i}))
        for i in range(subjects)
    ]
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -(size - 1) / 2 * spacing_mm

    def prepare(index: int) -> Prepared:
        return phantom(index, seed, size, spacing_mm), affine

    people = split_subjects(people, validation, test, seed)
    return _gather(people, settings, MaskCache(cache / "phantom"), prepare, progress)


# Long, with many parameters, because it offers the keys of `FolderData` to library users.
def folder_skulls(
    root: Path,
    *,
    pattern: str,
    size: int,
    spacing_mm: float,
    fit: Literal["pad", "resize"],
    center: Literal["head", "keep"],
    threshold: float,
    validation: float,
    test: float,
    seed: int,
    cache: Path,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    progress: Progress | None = None,
) -> Skulls:
    """Return the skulls of a folder, prepared once and cached by content and settings.

    Subjects that the manifest excludes, and incomplete skulls, are left out, and a warning in the
    log gives their number: see `select_subjects`.

    Args:
        root: The folder; see `scan_folder`.
        pattern: Glob of the file names to take.
        size: Voxels along each edge.
        spacing_mm: Edge of a voxel in mm.
        fit: See `prepare_transform`.
        center: See `prepare_transform`.
        threshold: See `prepare_transform`.
        validation: Share of the subjects for validation, unless the manifest has splits.
        test: Share for the test.
        seed: Decides the splits.
        cache: Folder of the cache.
        exclude: Flags of subjects to leave out.
        include: Flags that do not exclude a subject.
        progress: Called with the number of finished skulls and their total.

    Raises:
        InputError: One line for each file or flag that cannot be used.
    """
    selection = select_subjects(
        scan_folder(root, pattern), exclude=exclude, include=include, prefix="data."
    )
    if selection.left_out:
        _logger.warning("%s: %s", root, selection.sentence("data."))
    people = split_subjects(selection.used, validation, test, seed)
    settings: dict[str, object] = {
        "preparation": _PREPARATION_VERSION,
        "size": size,
        "spacing_mm": spacing_mm,
        "fit": fit,
        "centre": center,  # as the key was called, so that fingerprints of earlier runs hold
        "threshold": threshold,
    }
    transform = None

    def prepare(index: int) -> Prepared:
        # Imported here because MONAI takes seconds to import, and a cached set does not need it.
        from famseg.datasets.skulls import _grid_transforms as _preparation

        nonlocal transform
        transform = transform or _preparation.prepare_transform(
            size, spacing_mm, fit=fit, center=center, threshold=threshold
        )
        file = people[index].file
        if file is None:
            raise InputError(f"{people[index].id}: has no file")
        return _preparation.prepare_file(file, transform)

    return _gather(people, settings, MaskCache(cache / "volumes"), prepare, progress)


def _gather(
    people: Sequence[SkullSubject],
    settings: Mapping[str, object],
    cache: MaskCache,
    prepare: Callable[[int], Prepared],
    progress: Progress | None,
) -> Skulls:
    """Prepare every subject, and report all errors at once."""
    ready: dict[str, list[PreparedSkull]] = {"train": [], "validation": [], "test": []}
    faults: list[str] = []
    for index, person in enumerate(people):
        try:
            mask, affine = cache.get({**settings, "sha256": person.sha256}, partial(prepare, index))
        except InputError as error:
            faults += error.faults
            continue
        ready[person.split or "train"].append(PreparedSkull(person.id, mask, affine))
        if progress is not None:
            progress(index + 1, len(people))
    if faults:
        raise InputError(*faults)
    content = sorted((p.id, p.sha256, p.split) for p in people)
    fingerprint = _digest({**settings, "subjects": content})
    return Skulls(ready["train"], ready["validation"], ready["test"], fingerprint, tuple(people))


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
