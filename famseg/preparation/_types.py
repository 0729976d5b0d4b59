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
"""What values are: CT numbers, intensities without a scale, or 0 and something else."""

Role = Literal["defective", "implant"]
Split = Literal["train", "validation", "test"]

View = Literal["axial", "coronal", "sagittal"]

Identity = tuple[tuple[str, str], ...]
"""Kind and value of what tells whose scan it is: ``patient``, ``study``, ``frame``. Personal."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume as it was read, its geometry corrected.

    Args:
        volume: Values on a grid at right angles, never sheared; RAS+ affine.
        kind: What the values are.
        notes: Corrections and oddities, one sentence each, without personal data.
        segments: Names of labels, as the file states them.
    """

    volume: Volume
    kind: Kind
    notes: tuple[str, ...] = ()
    segments: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Companion:
    """A second volume of a subject on the grid of its first: a defective skull or an implant.

    Args:
        role: What it is.
        defect: Class of the defect, as ``bilateral``; empty where there is but one.
        read: Reads it; can be sent to another process.
    """

    role: Role
    defect: str
    read: Callable[[], Scan]


@dataclass(frozen=True)
class Source:
    """One subject to prepare.

    Args:
        subject: Name, unique among the sources, fit for a file name, nothing personal.
        origin: Where it is below the folder that was searched, for readers; nothing personal.
        files: The files that it is read from: their bytes decide whether it must be done again.
        read: Reads it; can be sent to another process. Raises InputError.
        companions: Further volumes of the subject.
        split: What the layout of its collection says.
        identity: What its headers say of whose scan it is. Personal: it is only ever written as a
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
        subject: Name as of a source.
        origin: Where it is.
        reason: What is wrong and what to do, one line; nothing personal.
        left_out: It is not a skull and was not meant as one (a localizer, a report): nothing is
            wrong with the rest.
    """

    subject: str
    origin: str
    reason: str
    left_out: bool = False


@dataclass(frozen=True)
class Found:
    """What a folder or file contains.

    Args:
        layout: The layout that was recognized or named.
        sources: Subjects that can be tried.
        refused: Those that cannot.
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
        kind: What it is; the kinds of a subject are its flags.
        severity: ``note``: for information. ``look``: a person should look. ``unusable``: no skull;
            it does not come into the manifest.
        text: One sentence; nothing personal.
    """

    kind: FindingKind
    severity: Severity
    text: str


@dataclass(frozen=True)
class Quality:
    """Measurements and findings of a prepared skull.

    Args:
        volume_ml: Bone on the final grid, millilitres.
        box_mm: Edges of the box around it along right, front and top, in mm.
        components: Pieces of bone of at least 0.1 ml before all but the largest were removed.
        removed_ml: Bone that was removed, by reason (``"table and holder"``, ``"neck"``).
        truncated_vault: The bone reaches the top of the scan: the vault may be cut off.
        existing_defect: The vault has a hole that no anatomy explains.
        hole_cm2: Area of the largest hole in the vault, whether it counts as a defect or not.
        findings: What was found, by kind and severity; their texts are among the warnings.
        threshold: Bone is what lies above it, in the unit of the scan; None for masks.
        source_spacing_mm: Of the scan.
        spacing_mm: Of the result.
        alignment_residual_mm: Root mean square distance of the skull's surface to the template's
            after alignment; None without a template.
        asymmetry_mm: Root mean square distance of the skull's mirror image to the skull, where its
            plane of symmetry was looked for; None elsewhere.
        turned_deg: By how much the head was turned to stand upright, or as the template stands;
            None where it was left as it was.
        warnings: What to look at, one sentence each; nothing personal.
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
        """The kinds of what was found, notes left out, in alphabetical order."""
        return tuple(sorted({f.kind for f in self.findings if f.severity != "note"}))

    @property
    def usable(self) -> bool:
        """Whether it is plausibly a skull."""
        return all(f.severity != "unusable" for f in self.findings)


class Slices(NamedTuple):
    """Slices of one view, in the order of the reader: top, front or right first.

    Args:
        gray: The scan, shape ``(N, rows, columns)``.
        outline: The outermost pixels of the bone, same shape.
    """

    gray: NDArray[np.uint8]
    outline: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A skull that is ready, with its companions on the same grid.

    Args:
        skull: 0 and 1 as uint8, RAS+.
        quality: What is known of it.
        companions: Masks by role and class of defect.
        to_source: Maps mm of the skull's world to mm of the scan's: a rigid motion, shape
            ``(4, 4)``. Takes an implant back to its patient.
        slices: What the report shows of the scan, by view; empty where it shows nothing.
    """

    skull: Volume
    quality: Quality
    companions: Mapping[tuple[Role, str], Volume] = field(default_factory=dict)
    to_source: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    slices: Mapping[View, Slices] = field(default_factory=dict)
