"""DICOM segmentations (PS3.3, A.51) of a series, which viewers overlay on its scan."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import famseg
from famseg.messages import InputError
from famseg.preparation.dicom import Plan

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from famseg.preparation import Source

Mask = NDArray[np.bool_]

_NEEDED = "needs the package highdicom: pip install famseg[dicom-seg]"
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
# SNOMED CT codes with meanings for the category and the type of each segment.
_CODES = {
    "skull": (("91723000", "Anatomical Structure"), ("89546000", "Skull")),
    "implant": (("260787004", "Physical object"), ("40388003", "Implant")),
}


def check_dicom_seg() -> None:
    """Raise InputError unless the package that writes DICOM segmentations is installed."""
    from importlib.util import find_spec

    if find_spec("highdicom") is None:
        raise InputError(f"--dicom-seg: {_NEEDED}")


def plan_of(source: Source) -> Plan | None:
    """Return the plan of a DICOM series; None for other sources."""
    found = getattr(source.read, "args", (None,))[0]
    return found if isinstance(found, Plan) else None


def on_slices(plan: Plan) -> bool:
    """Return whether the voxels of a series are its pixels, without correction of tilt or gaps."""
    whole = bool(np.all(plan.shifts == 0)) and len(plan.levels_mm) == len(plan.slices)
    return whole and all(part.frame is None and part.item.member is None for part in plan.slices)


def dicom_seg(plan: Plan, segments: Mapping[str, Mask], affine: NDArray[np.float64]) -> bytes:
    """Return a DICOM segmentation of a series.

    The standard requires data on patient and study: name, ID, birth date and sex of the patient and
    the study's identifiers are copied from the series. No other file that famseg writes contains
    them. UIDs are derived from the content, and the date is that of the study, so that the same
    masks give the same bytes.

    Args:
        plan: Plan of the series, whose voxels must be its pixels (`on_slices`).
        segments: Masks ``(X, Y, Z)`` in the voxels of the series, by name.
        affine: Affine of the masks, from which UIDs are derived, too.

    Raises:
        InputError: If highdicom is not installed.
    """
    check_dicom_seg()
    import highdicom
    import pydicom

    headers = [pydicom.dcmread(part.item.file) for part in plan.slices]
    for header in headers:
        _complete(header, float(np.linalg.norm(plan.affine[:3, 2])))
    stack = np.stack([mask.transpose(2, 1, 0) for mask in segments.values()], axis=-1)
    digest = hashlib.sha256(np.packbits(stack).tobytes())
    digest.update(headers[0].SeriesInstanceUID.encode() + np.ascontiguousarray(affine).tobytes())
    written = highdicom.seg.Segmentation(
        source_images=headers,
        pixel_array=stack.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(k, name) for k, name in enumerate(segments, start=1)],
        series_instance_uid=_uid(digest, "series"),
        series_number=9000,
        sop_instance_uid=_uid(digest, "instance"),
        instance_number=1,
        manufacturer="famseg",
        manufacturer_model_name="famseg reconstruct",
        software_versions=famseg.__version__,
        device_serial_number="0",
        series_description="famseg: skull and implant, for research only",
        omit_empty_frames=True,
    )
    _make_repeatable(written, headers[0], digest)
    stream = io.BytesIO()
    written.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _described(number: int, name: str) -> Any:  # noqa: ANN401 - highdicom ships no types
    import highdicom
    from pydicom.sr.coding import Code

    category, kind = (Code(code, "SCT", meaning) for code, meaning in _CODES[name])
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="famseg reconstruct",
            family=Code("123110", "DCM", "Artificial Intelligence"),
            version=famseg.__version__,
        ),
    )


def _complete(header: Dataset, step_mm: float) -> None:
    """Add empty values for missing attributes that every DICOM object of a patient must have."""
    for name in _EMPTY:
        if name not in header:
            setattr(header, name, "")
    if not header.get("SliceThickness"):
        header.SliceThickness = round(step_mm, 6)
    if "FrameOfReferenceUID" not in header:
        own = hashlib.sha256(str(header.SeriesInstanceUID).encode())
        header.FrameOfReferenceUID = _uid(own, "frame")


def _uid(digest: Any, what: str) -> str:  # noqa: ANN401 - a hash of hashlib
    own = digest.copy()
    own.update(what.encode())
    return f"2.25.{int.from_bytes(own.digest()[:15], 'big')}"


def _make_repeatable(written: Dataset, header: Dataset, digest: Any) -> None:  # noqa: ANN401
    """Replace values that are random or read from the clock."""
    date, time = str(header.get("StudyDate") or "19000101"), "000000"
    for name, value in (("ContentDate", date), ("ContentTime", time)):
        setattr(written, name, value)
    for name in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if name in written:
            setattr(written, name, date if name.endswith("Date") else time)
    known: dict[str, str] = {}
    for element in written.iterall():
        if element.keyword == "ContributionDateTime":
            element.value = date + time
        if element.keyword == "DimensionOrganizationUID":
            known.setdefault(str(element.value), _uid(digest, f"dimension{len(known)}"))
            element.value = known[str(element.value)]
