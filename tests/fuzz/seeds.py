"""Seeds of fuzzing: a few small, valid files for each target, generated here."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
import plistlib
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
import trimesh
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from scipy import io as scipy_io

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
CUBE = np.arange(27, dtype=np.int16).reshape(3, 3, 3)


def _volume(ending: str, *, packed: bool = False, kind: type = np.int16) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{ending}")
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(CUBE.astype(kind)), str(path), packed)
        return path.read_bytes()


def _mesh(kind: str, **options: str) -> bytes:
    content = trimesh.creation.box().export(file_type=kind, **options)
    return content if isinstance(content, bytes) else str(content).encode()


def _tar(packed: bool) -> bytes:
    main = {
        "name": "x",
        "modality": "CT",
        "spacing": [1, 1, 1],
        "matrix": {"filename": "matrix.dat", "shape": [3, 3, 3], "dtype": "int16"},
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("main.plist", plistlib.dumps(main)), ("matrix.dat", CUBE.tobytes())):
            info = tarfile.TarInfo(f"x/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(stream.getvalue()) if packed else stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.nii", _volume(".nii"))
        archive.writestr("c", dicom())
    return stream.getvalue()


def dicom(syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A slice of CT."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = syntax
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = CTImageStorage, "1.2.3", "1.2"
    data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PatientName, data.StudyDate = "A^B", "20200101"
    data.Rows = data.Columns = 3
    data.PixelSpacing, data.ImagePositionPatient = [1, 1], [0, 0, 0]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = CUBE[0].tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def _image(kind: str, mode: str) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (9, 7), 1).save(stream, kind)
    return stream.getvalue()


def _mat(packed: bool) -> bytes:
    stream = io.BytesIO()
    arrays = {"X": np.zeros((4, 4, 3, 2), np.uint8), "y": np.ones((2, 1))}
    scipy_io.savemat(stream, arrays, do_compression=packed)
    return stream.getvalue()


def _cache() -> bytes:
    stream = io.BytesIO()
    mask = np.ones((2, 2, 2), np.uint8)
    np.savez(stream, bits=np.packbits(mask), shape=np.array(mask.shape), affine=np.eye(4))
    return stream.getvalue()


def _checkpoint(archive: bool) -> bytes:
    import torch

    stream = io.BytesIO()
    state = {"format": 1, "epoch": 2, "model": {"w": torch.ones(2, 2)}}
    torch.save(state, stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Return the seed files of a target, and inputs that led to earlier findings."""
    images = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, np.int64(2)]}
    configs = [ROOT / "configs" / name for name in ("skull.yaml", "skull_folder.yaml")]
    yaml = (
        *(path.read_bytes() for path in configs),
        b"a: &x [1, 2e3, ~, 'q']\nb: *x\n? c\n: |\n x\n",
    )
    tar, packed_tar = _tar(False), _tar(True)
    made: dict[str, tuple[bytes, ...]] = {
        "config": (*yaml[:2], b"pipeline: skull\nlambda: 0.1\nmodel: {channels: [4, 8]}\n"),
        "yaml": yaml,
        "override": (b"[8, 16]", b"{a: 1e-3}", b"'x'", b"*.nii.gz"),
        "pickle": tuple(pickle.dumps(images, protocol=protocol) for protocol in range(6)),
        "idx": (struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(8),),
        "mat": (_mat(False), _mat(True)),
        "nifti": (_volume(".nii"), _volume(".nii", kind=np.float32)),
        "nifti_gz": (_volume(".nii.gz"),),
        "nrrd": (_volume(".nrrd"), _volume(".nrrd", packed=True)),
        "nhdr": (_volume(".nhdr"),),
        "mha": (_volume(".mha"), _volume(".mha", packed=True)),
        "mhd": (_volume(".mhd"),),
        "stl": (_mesh("stl"), _mesh("stl_ascii")),
        "ply": (_mesh("ply"), _mesh("ply", encoding="ascii")),
        "inv3": (packed_tar, tar),
        "zip": (_zip(),),
        "tar": (tar,),
        "dicom": (dicom(), dicom(DeflatedExplicitVRLittleEndian)),
        "series": (dicom(),),
        "cache": (_cache(),),
        "png": (_image("PNG", "RGB"), _image("PNG", "P")),
        "jpeg": (_image("JPEG", "RGB"), _image("JPEG", "L")),
        "jsonl": (b'{"a": "x y", "b": "z", "l": 1}\n' * 3, b"[" * 100_000),
        "tsv": (b"a\tb\tl\nx\ty\t0\n",),
        "metrics": (b'{"epoch": 1, "time": 2.5, "val/dsc": null}',),
        "manifest": (b"subject,file,sha256,split\na,a.nii,,train\n",),
        "checkpoint": (_checkpoint(True), _checkpoint(False)),
    }
    found = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    return (*made[name], *(path.read_bytes() for path in found))
