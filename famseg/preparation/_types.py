"""The data that steps of the preparation pass to each other and to the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from famseg.datasets import Flag
from famseg.volumes import Volume

Kind = Literal["hounsfield", "intensity", "mask"]
"""The kind of values: CT numbers, intensities without a unit, or 0 and another value."""

Role = Literal["defective", "implant"]
Split = Literal["train", "validation", "test"]

View = Literal["axial", "coronal", "sagittal"]

Identity = tuple[tuple[str, str], ...]
"""Kinds (``patient``, ``study``, ``frame``) and values that identify a person. Personal data."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume as it was read, with corrected geometry.

    Args:
        volume: Values on a rectangular grid, never sheared, with a RAS+ affine.
        kind: The kind of the values.
        notes: Corrections and oddities, one sentence each, without personal data.
        segments: Names of the labels as stated in the file.
    """

    volume: Volume
    kind: Kind
    notes: tuple[str, ...] = ()
    segments: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Companion:
    """A second volume of a subject on the grid of its first: a defective skull or an implant.

    Args:
        role: Whether it is a defective skull or an implant.
        defect: Class of the defect, such as ``bilateral``; empty if there is only one.
        read: Function that reads the companion; it can be sent to another process.
    """

    role: Role
    defect: str
    read: Callable[[], Scan]


@dataclass(frozen=True)
class Source:
    """One subject to prepare.

    Args:
        subject: Name, unique among the sources and valid as a file name; contains no personal data.
        origin: Its path below the folder that was searched, for readers; contains no personal data.
        files: The files it is read from; if their content changes, the subject is prepared again.
        read: Function that reads the scan; it can be sent to another process and raises InputError.
        companions: Further volumes of the subject.
        split: The split that the layout of its collection defines.
        identity: What its headers say about the person. Personal data: it is only written as a
            keyed hash.
    """

    subject: str
    origin: str
    files: tuple[Path, ...]
    read: Callable[[], Scan]
    companions: tuple[Companion, ...] = ()
    split: Split | None = None
    identity: Identity = field(default=(), repr=False)


@dataclass(frozen=True)
class Refused:
    """A file or series that cannot be used.

    Args:
        subject: Name, as for a source.
        origin: Its path below the folder that was searched.
        reason: What is wrong and what to do, in one line without personal data.
        left_out: Whether it is not meant to be a scan of a skull (a localizer, a report), so that
            nothing is wrong.
    """

    subject: str
    origin: str
    reason: str
    left_out: bool = False


@dataclass(frozen=True)
class Found:
    """What a folder or file contains.

    Args:
        layout: The layout that was recognized or specified.
        sources: Subjects that can be prepared.
        refused: Files and series that cannot be used.
    """

    layout: str
    sources: tuple[Source, ...]
    refused: tuple[Refused, ...] = ()


FindingKind = Flag
Severity = Literal["note", "look", "unusable"]


@dataclass(frozen=True)
class Finding:
    """A finding about a prepared skull, for the user and for training.

    Args:
        kind: Kind of the finding; the kinds found for a subject are its flags.
        severity: ``note``: for information only. ``look``: a person should check it. ``unusable``:
            not a skull, and not listed in the manifest.
        text: One sentence without personal data.
    """

    kind: FindingKind
    severity: Severity
    text: str


@dataclass(frozen=True)
class Quality:
    """Measurements and findings of a prepared skull.

    Args:
        volume_ml: Volume of the bone on the final grid in milliliters.
        box_mm: Extent of its bounding box to the right, front and top, in mm.
        components: Number of pieces of bone of at least 0.1 ml before all but the largest were
            removed.
        removed_ml: Volume of the bone that was removed, by reason (``"table and holder"``,
            ``"neck"``).
        truncated_vault: Whether the bone reaches the top of the scan, so that the vault may be cut
            off.
        existing_defect: Whether the vault has a hole that anatomy does not explain.
        hole_cm2: Area of the largest hole in the vault, even if it does not count as a defect.
        findings: Findings with kind and severity; their texts are also among the warnings.
        threshold: Threshold of bone in the unit of the scan; None for masks.
        source_spacing_mm: Spacing of the scan.
        spacing_mm: Spacing of the result.
        alignment_residual_mm: Root mean square distance of the skull's surface to the template's
            after alignment; None without a template.
        asymmetry_mm: Root mean square distance of the skull's mirror image to the skull; None if no
            plane of symmetry was determined.
        turned_deg: Angle by which the head was turned to be upright or aligned to the template;
            None if it was not turned.
        warnings: Warnings, one sentence each, without personal data.
    """

    volume_ml: float
    box_mm: tuple[float, float, float]
    components: int
    removed_ml: Mapping[str, float]
    truncated_vault: bool
    existing_defect: bool
    threshold: float | None
    source_spacing_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    alignment_residual_mm: float | None = None
    warnings: tuple[str, ...] = ()
    hole_cm2: float = 0.0
    findings: tuple[Finding, ...] = ()
    asymmetry_mm: float | None = None
    turned_deg: float | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """The kinds of the findings except notes, in alphabetical order."""
        return tuple(sorted({f.kind for f in self.findings if f.severity != "note"}))

    @property
    def usable(self) -> bool:
        """Whether the result is plausibly a skull."""
        return all(f.severity != "unusable" for f in self.findings)


class Slices(NamedTuple):
    """Slices of one view in reading order: from the top, the front or the right.

    Args:
        gray: The scan, shape ``(N, rows, columns)``.
        outline: The outermost pixels of the bone, same shape.
    """

    gray: NDArray[np.uint8]
    outline: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared skull, with its companions on the same grid.

    Args:
        skull: Mask of 0 and 1 as uint8, RAS+.
        quality: Its measurements and findings.
        companions: Masks by role and class of defect.
        to_source: Maps mm of the skull's world to mm of the scan's: a rigid motion, shape
            ``(4, 4)``. It maps an implant back to the patient.
        slices: Slices of the scan for the report, by view; empty if the report shows none.
    """

    skull: Volume
    quality: Quality
    companions: Mapping[tuple[Role, str], Volume] = field(default_factory=dict)
    to_source: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    slices: Mapping[View, Slices] = field(default_factory=dict)
