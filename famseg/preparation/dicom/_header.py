"""Reading of DICOM headers without their pixels."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from famseg.preparation._numbers import as_list, numbers
from famseg.preparation.dicom._enhanced import frames_of
from famseg.preparation.dicom._slice import Slice, geometry_fault
from famseg.preparation.sources import Item, Opener

_MODALITIES = (
    *(
        "CT",
        "MR",
        "PT",
        "NM",
        "US",
        "CR",
        "DX",
        "DR",
        "MG",
        "RF",
        "XA",
        "SC",
        "SR",
        "PR",
        "KO",
    ),
    *("KO", "SEG", "REG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "DOC", "ES", "XC", "OP", "IO"),
)
_PERSONAL = (
    *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName"),
    *("PatientMotherBirthName", "PatientAddress", "PatientTelephoneNumbers", "AccessionNumber"),
    *("MedicalRecordLocator", "ResponsiblePerson"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
    *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "RequestingPhysician"),
    *("ScheduledPerformingPhysicianName", "ConsultingPhysicianName", "ContentCreatorName"),
    *("ReviewerName", "VerifyingObserverName", "PersonName", "OrderEnteredBy"),
    *("NamesOfIntendedRecipientsOfResults", "AdmissionID", "DeviceSerialNumber"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"),
)
# "1" and "CT" are common values without personal information.
_PERSONAL_IF_LONG = ("StudyID", "StationName", "IssuerOfPatientID")
_LONG = 4
_MOST_INFLATED = 2**28  # bytes of a file that uses the deflated transfer syntax
_DATES = (
    *("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"),
    *("InstanceCreationDate", "PerformedProcedureStepStartDate"),
)
_NEEDED = (
    *("SOPClassUID", "Modality", "ImageType", "SeriesNumber", "Rows", "Columns"),
    *("SamplesPerPixel", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue"),
    *("PixelRepresentation", "GantryDetectorTilt", "NumberOfTemporalPositions"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("ConvolutionKernel", "AcquisitionNumber", "SliceThickness", "ContrastBolusAgent"),
    *("PhotometricInterpretation", "SliceLocation", "SpacingBetweenSlices"),
    *("SliceLocationVector", "GridFrameOffsetVector"),
)


# Looked up once, since a header contains only few of them.
_TAGS = [Tag(name) for name in (*_NEEDED, *_PERSONAL, *_PERSONAL_IF_LONG, *_DATES)]


@dataclass(frozen=True)
class Header:
    """The content of a header, read without the pixels.

    Args:
        item: The file.
        series: Identifier of its series: the UID, or the folder if there is none.
        instance: UID of the image.
        number: Number of the series.
        kind: Name of the SOP class in the standard; empty if the standard does not define it.
        modality: Modality from the header if the standard defines it, else ``unknown``.
        image_type: Values such as ``ORIGINAL`` or ``LOCALIZER``.
        syntax: UID of the transfer syntax.
        samples: Samples per pixel.
        has_image: Whether the file contains pixels.
        tilt_deg: Tilt of the gantry stated in the header.
        times: Number of time points in the series.
        rescaled: Whether the header states the conversion to HU.
        slices: Its slices; if empty, ``fault`` states the reason.
        fault: What is missing or wrong, or None.
        texts: Personal texts.
        dates: Personal dates.
        patient: ID of the patient. Together with the next two it identifies the person; none of the
            three is ever written unhashed.
        study: UID of the study.
        frame_of_reference: UID of the frame of reference of the positions.
        kernel: Reconstruction kernel in capitals; empty if it is not stated.
        acquisition: Number of the acquisition in its study; 0 if it is not stated.
        thickness_mm: Slice thickness according to the header; 0 if it is not stated.
        contrast: Whether a contrast agent was given.
        notes: Assumptions that were necessary, one sentence each.
    """

    item: Item
    series: str
    instance: str
    number: int
    kind: str
    modality: str
    image_type: tuple[str, ...]
    syntax: UID
    samples: int
    has_image: bool
    tilt_deg: float
    times: int
    rescaled: bool
    slices: tuple[Slice, ...]
    fault: str | None
    texts: frozenset[str]
    dates: frozenset[str]
    patient: str = ""
    study: str = ""
    frame_of_reference: str = ""
    kernel: str = ""
    acquisition: int = 0
    thickness_mm: float = 0.0
    contrast: bool = False
    notes: tuple[str, ...] = ()


def read_header(item: Item, opener: Opener) -> Header | None:
    """Return the header of a file; None if it cannot be read as DICOM."""
    try:
        with silent(), opener.open(item) as stream:
            _check_deflated(stream)
            data = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            return _header(item, data)
    except Exception:  # pydicom may raise any exception, with values of the header in its message
        return None


def _check_deflated(stream: IO[bytes]) -> None:
    """Refuse a file that libraries would inflate without limit; else rewind the stream."""
    pydicom.filereader.read_preamble(stream, True)
    meta = pydicom.filereader._read_file_meta_info(stream)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while packed := stream.read(2**13):  # inflates to at most a thousand times as much
            size += len(inflate.decompress(packed))
            if size > _MOST_INFLATED:
                raise ValueError(f"inflates to more than {_MOST_INFLATED} bytes")
    stream.seek(0)


def pixel_digest(slices: Sequence[Slice]) -> str:
    """Return a hash of the stored pixels of slices, in their order."""
    digest = hashlib.sha256()
    with Opener() as opener, silent():
        for item in dict.fromkeys(part.item for part in slices):
            try:
                with opener.open(item) as stream:
                    data = pydicom.dcmread(stream, force=True, specific_tags=["PixelData"])
                digest.update(data.PixelData)
            except Exception:  # as above; a slice without pixels is not a copy of any other
                digest.update(item.place.as_posix().encode())
    return digest.hexdigest()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Prevent pydicom from printing values of headers, which may be personal data."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _header(item: Item, data: pydicom.Dataset) -> Header | None:
    if "SOPClassUID" not in data and "Rows" not in data:
        return None
    modality = str(data.get("Modality") or "").strip().upper()
    frames = int(data.get("NumberOfFrames") or 1)
    many = frames > 1 or "PerFrameFunctionalGroupsSequence" in data
    slices, fault, notes = frames_of(item, data, frames) if many else _slice(item, data)
    return Header(
        item=item,
        series=str(data.get("SeriesInstanceUID") or f"folder {item.place.parent}"),
        instance=str(data.get("SOPInstanceUID") or item.place),
        number=int(data.get("SeriesNumber") or 0),
        kind=standard_name(str(data.get("SOPClassUID", ""))),
        modality=modality if modality in _MODALITIES else "unknown",
        image_type=_words(data.get("ImageType")),
        syntax=_syntax(data),
        samples=int(data.get("SamplesPerPixel") or 1),
        has_image="Rows" in data and "Columns" in data,
        tilt_deg=float(data.get("GantryDetectorTilt") or 0),
        times=int(data.get("NumberOfTemporalPositions") or 1),
        rescaled="PerFrameFunctionalGroupsSequence" in data or "RescaleIntercept" in data,
        slices=slices,
        fault=fault,
        texts=frozenset(_personal(data)),
        dates=frozenset(text for tag in _held(data, _DATES) for text in _texts(data.get(tag))),
        patient=_first(data, "PatientID"),
        study=_first(data, "StudyInstanceUID"),
        frame_of_reference=_first(data, "FrameOfReferenceUID"),
        kernel=_first(data, "ConvolutionKernel").upper(),
        acquisition=int(_amount(data, "AcquisitionNumber")),
        thickness_mm=_amount(data, "SliceThickness"),
        contrast=bool(_first(data, "ContrastBolusAgent")),
        notes=notes,
    )


def _amount(data: pydicom.Dataset, name: str) -> float:
    """Return an optional number; 0 if it is missing or malformed."""
    try:
        found = numbers(data.get(name), 1)
    except Exception:  # pydicom may raise any exception
        return 0.0
    return found[0] if found is not None else 0.0


def _first(data: pydicom.Dataset, name: str) -> str:
    """Return the first text of a value, or an empty text if there is none."""
    return next(iter(_texts(data.get(name))), "").strip()


def standard_name(uid: str) -> str:
    """Return the name of a UID in the standard; an empty text if it is not defined there."""
    return UID(uid).name if uid in UID_dictionary else ""


def _syntax(data: pydicom.Dataset) -> UID:
    """Return the transfer syntax; files without a preamble have the default one."""
    meta = getattr(data, "file_meta", None)
    return UID(str(getattr(meta, "TransferSyntaxUID", ImplicitVRLittleEndian)))


def _slice(
    item: Item, data: pydicom.Dataset
) -> tuple[tuple[Slice, ...], str | None, tuple[str, ...]]:
    position = numbers(data.get("ImagePositionPatient"), 3)
    orientation = numbers(data.get("ImageOrientationPatient"), 6)
    spacing = numbers(data.get("PixelSpacing"), 2)
    fault = geometry_fault(position, orientation, spacing)
    if fault is not None or position is None or orientation is None or spacing is None:
        return (), fault, ()
    padding = data.get("PixelPaddingValue")
    part = Slice(
        item=item,
        frame=None,
        position_mm=(position[0], position[1], position[2]),
        row=(orientation[0], orientation[1], orientation[2]),
        column=(orientation[3], orientation[4], orientation[5]),
        spacing_mm=(spacing[1], spacing[0]),  # rows first (DICOM PS3.3, 10.7.1.3)
        size=(int(data.get("Columns", 0)), int(data.get("Rows", 0))),
        slope=float(data.get("RescaleSlope") or 1),
        intercept=float(data.get("RescaleIntercept") or 0),
        padding=float(padding) if isinstance(padding, int) else None,
        syntax=str(_syntax(data)),
        inverted=data.get("PhotometricInterpretation") == "MONOCHROME1",
        location_mm=next(iter(numbers(data.get("SliceLocation"), 1) or ()), None),
    )
    return (part,), None, ()


def _personal(data: pydicom.Dataset) -> list[str]:
    always = [text for tag in _held(data, _PERSONAL) for text in _texts(data.get(tag))]
    long = [text for tag in _held(data, _PERSONAL_IF_LONG) for text in _texts(data.get(tag))]
    return [*always, *(text for text in long if len(text.strip()) >= _LONG)]


def _held(data: pydicom.Dataset, names: Sequence[str]) -> list[str]:
    """Return those of the names that a header contains; querying it for each name is slow."""
    tags = set(data.keys())
    return [name for name in names if tag_for_keyword(name) in tags]


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(word).strip().upper() for word in as_list(value))


def _texts(value: object) -> list[str]:
    return [str(text) for text in as_list(value) if str(text).strip()]
