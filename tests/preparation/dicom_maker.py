"""Writes real DICOM series: a CT of a phantom skull, slice by slice, as scanners do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from famseg.datasets import phantom

SIZE = 64
SPACING_MM = 3.5
AIR, WATER, BONE = -1000.0, 40.0, 1000.0

PERSONAL = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PID4711",
    "PatientBirthDate": "19640812",
    "PatientAddress": "Heidestrasse 17",
    "AccessionNumber": "ACC0815",
    "InstitutionName": "Klinikum Musterstadt",
    "ReferringPhysicianName": "Sauerbruch^Ferdinand",
    "OperatorsName": "Roentgen^Conrad",
    "StudyDate": "20211103",
    "StudyID": "STUDY99",
    "SeriesDescription": "Schaedel Mustermann",
}


@cache
def head(subject: int = 0) -> NDArray[np.float64]:
    """HU of a phantom head ``(Z, Y, X)``: LPS order, feet first; not to be written to."""
    bone = phantom(subject, 0, SIZE)
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=4))
    values = np.where(inside, WATER, AIR)
    values[bone > 0] = BONE
    lps = values[::-1, ::-1].transpose(2, 1, 0).copy()
    lps.setflags(write=False)
    return lps


@dataclass
class Series:
    """The contents of a series; `write` saves it to disk.

    Args:
        values: HU ``(N, rows, columns)``, one slice after the other.
        heights_mm: Where each lies along the table.
        tilt_deg: Of the gantry, about the patient's left-right axis.
        spacing_mm: Of pixels.
        slope: HU are slope times stored values
        intercept: plus intercept.
        tags: Further values of headers, or None to leave one out.
        edit: Changes the header of a slice, given its number.
        syntax: Transfer syntax of the files.
    """

    values: NDArray[np.float64]
    heights_mm: Sequence[float]
    tilt_deg: float = 0.0
    spacing_mm: float = SPACING_MM
    slope: float = 1.0
    intercept: float = -1024.0
    tags: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[int, Dataset], None] | None = None
    syntax: str = ExplicitVRLittleEndian
    series_uid: str = field(default_factory=generate_uid)
    study_uid: str = field(default_factory=generate_uid)

    def headers(self) -> list[FileDataset]:
        """The slices in their order."""
        return [self._slice(i) for i in range(len(self.values))]

    def write(self, folder: Path, *, order: Sequence[int] | None = None) -> Path:
        """Write files named by their position in ``order``, which is unrelated to the geometry."""
        folder.mkdir(parents=True, exist_ok=True)
        headers = self.headers()
        for name, i in enumerate(order if order is not None else range(len(headers))):
            headers[i].save_as(folder / f"IM{name:04d}.dcm", enforce_file_format=True)
        return folder

    def _slice(self, i: int) -> FileDataset:
        angle = np.deg2rad(self.tilt_deg)
        rows, columns = self.values[i].shape
        data = _dataset(CTImageStorage, self.syntax)
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.SeriesInstanceUID, data.StudyInstanceUID = self.series_uid, self.study_uid
        data.SeriesNumber, data.InstanceNumber = 2, i + 1
        data.Rows, data.Columns = rows, columns
        data.PixelSpacing = [self.spacing_mm, self.spacing_mm]
        data.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle))]
        data.ImagePositionPatient = [
            -columns * self.spacing_mm / 2,
            -rows * self.spacing_mm / 2,
            float(self.heights_mm[i]),
        ]
        data.GantryDetectorTilt = self.tilt_deg
        data.RescaleSlope, data.RescaleIntercept = self.slope, self.intercept
        _pixels(data, self._stored(i))
        for name, value in self.tags.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        if self.edit is not None:
            self.edit(i, data)
        return data

    def _stored(self, i: int) -> NDArray[np.int16]:
        stored = (self.values[i] - self.intercept) / self.slope
        return np.round(stored).astype(np.int16)


def ct(every: int = 1, **options: Any) -> Series:
    """A CT without tilt of every n-th slice of the phantom, 3.5 mm apart: small and quick."""
    values = head()[::every]
    return Series(values, SPACING_MM * np.arange(len(values)), **options)


def sampled(heights_mm: Sequence[float], tilt_deg: float = 0.0, **options: Any) -> Series:
    """A CT whose slices are cut from the phantom at given heights, by a tilted gantry."""
    angle = np.deg2rad(tilt_deg)
    z0 = np.asarray(heights_mm, dtype=float)[:, None, None]
    down = (np.arange(SIZE) * SPACING_MM)[None, :, None]
    y = down * np.cos(angle) + 0 * z0 + np.zeros((1, 1, SIZE))
    z = z0 - down * np.sin(angle) + np.zeros((1, 1, SIZE))
    x = np.broadcast_to((np.arange(SIZE) * SPACING_MM)[None, None, :], z.shape)
    where = np.stack([z, y, x]) / SPACING_MM
    values = ndimage.map_coordinates(head(), where, order=1, cval=AIR)
    return Series(values, list(heights_mm), tilt_deg=tilt_deg, **options)


def write_packed(series: Series, folder: Path, compressor: str) -> Path:
    """Write a series whose pixels GDCM packs: ``JPEG`` (lossless), ``JPEG2000``."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    for i, data in enumerate(series.headers()):
        stored = np.frombuffer(data.PixelData, np.int16).reshape(data.Rows, data.Columns)
        writer.SetFileName(str(folder / "packed.tmp"))
        writer.Execute(SimpleITK.GetImageFromArray(stored))
        packed = pydicom.dcmread(folder / "packed.tmp", force=True)
        (folder / "packed.tmp").unlink()
        data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        data.BitsStored, data.HighBit = packed.BitsStored, packed.HighBit
        data.PixelData = packed.PixelData
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.save_as(folder / f"{i}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(folder: Path, values: NDArray[np.float64], heights_mm: Sequence[float]) -> Path:
    """Write all slices into one file, slope and intercept for each frame."""
    data = _dataset(EnhancedCTImageStorage, ExplicitVRLittleEndian)
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
    data.NumberOfFrames, data.Rows, data.Columns = len(values), *values[0].shape
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [SPACING_MM, SPACING_MM]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    frames, stored = [], []
    for i, height in enumerate(heights_mm):
        position, rescale, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-112.0, -112.0, float(height)]
        rescale.RescaleIntercept, rescale.RescaleSlope = -1024 - i, 1
        rescale.RescaleType = "HU"
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [rescale]
        frames.append(frame)
        stored.append(np.round(values[i] + 1024 + i).astype(np.int16))
    data.PerFrameFunctionalGroupsSequence = frames
    _pixels(data, np.stack(stored))
    folder.mkdir(parents=True, exist_ok=True)
    data.save_as(folder / "volume.dcm", enforce_file_format=True)
    return folder


def write_report(path: Path) -> Path:
    """Write a dose report: DICOM without an image."""
    data = _dataset("1.2.840.10008.5.1.4.1.1.88.67", ExplicitVRLittleEndian)
    data.Modality, data.SeriesInstanceUID = "SR", generate_uid()
    data.save_as(path, enforce_file_format=True)
    return path


def _dataset(kind: str, syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "Anonymous", "anonymous"
    return data


def _pixels(data: Dataset, stored: NDArray[np.int16]) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 1
    data.PixelData = stored.tobytes()
