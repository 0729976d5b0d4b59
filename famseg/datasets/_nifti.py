"""What ITK lets pass in a NIfTI file.

It reads missing voxels and NaN as 0, and takes 1 mm for a spacing of 0 or NaN.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np

from famseg.config import InputError

_HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_LARGEST_VOXEL_BYTES = 32


def check_nifti(path: Path, max_voxels: int) -> None:
    """Raise InputError unless the header is usable and all voxels are there.

    A compressed file is unpacked once, in pieces, and at most as far as ``max_voxels`` need.

    Args:
        path: A file ending in .nii or .nii.gz.
        max_voxels: Bound for the number of voxels.
    """
    if path.name.lower().endswith(".gz"):
        head, size = _unpack(path, _LARGEST_VOXEL_BYTES * max_voxels + 2**20)
    else:
        with path.open("rb") as stream:
            head, size = stream.read(540), path.stat().st_size
    header = _header(path, head)
    need = _bytes_needed(path, header, max_voxels)
    if size < need:
        raise InputError(
            f"{path}: cut short: it holds {size} bytes of the {need} that its header announces; "
            "copy it again"
        )
    _check_geometry(path, header)
    if header.get_data_dtype().kind == "f":
        voxels = nibabel.load(path).dataobj.get_unscaled()
        if not np.isfinite(voxels).all():
            raise InputError(not_finite(path))


def _unpack(path: Path, limit: int) -> tuple[bytes, int]:
    """Return the first bytes of a gzip file and the length of all of them."""
    head, size = b"", 0
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(2**22):
                head = head or chunk[:540]
                size += len(chunk)
                if size > limit:
                    raise InputError(f"{path}: unpacks to more than {limit} bytes: not a volume")
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: the file is cut short or damaged: copy it again") from error
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file, though its name says so") from error
    return head, size


def _header(path: Path, head: bytes) -> nibabel.Nifti1Header:
    """Return the parsed header."""
    if len(head) >= 348:
        for order in "<>":
            length = struct.unpack(f"{order}i", head[:4])[0]
            if length in _HEADER_BYTES and len(head) >= length:
                kind = _HEADER_BYTES[length]
                return kind.from_fileobj(io.BytesIO(head), endianness=order, check=False)
    raise InputError(f"{path}: its content is not NIfTI, though its name says so")


def _bytes_needed(path: Path, header: nibabel.Nifti1Header, max_voxels: int) -> int:
    """Return the length that a whole file has."""
    dimensions = int(header["dim"][0])
    shape = [int(n) for n in header["dim"][1 : dimensions + 1]]
    if not 1 <= dimensions <= 7 or min(shape) < 1:
        raise InputError(f"{path}: the header is damaged: dim {header['dim'].tolist()}")
    voxels = int(np.prod(shape, dtype=object))
    if voxels > max_voxels:
        raise InputError(too_many_voxels(path, shape, max_voxels))
    try:
        item = int(header.get_data_dtype().itemsize)
    except KeyError:
        raise InputError(f"{path}: unknown datatype {int(header['datatype'])}") from None
    start = max(int(header["vox_offset"]), int(header.structarr.dtype.itemsize))
    return start + voxels * item


def _check_geometry(path: Path, header: nibabel.Nifti1Header) -> None:
    spacing = header["pixdim"][1:4].astype(float)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputError(unusable_spacing(path, spacing.tolist()))
    codes = int(header["sform_code"]), int(header["qform_code"])
    if codes == (0, 0):
        raise InputError(
            f"{path}: no orientation: sform_code and qform_code are 0, so left and right are not "
            "known; set one of them"
        )
    if codes[0] > 0 and not np.isfinite(header.get_sform()).all():
        raise InputError(f"{path}: the header's origin or direction is not a number (sform)")


def too_many_voxels(path: Path, shape: list[int], max_voxels: int) -> str:
    """Return the message for a header that announces too much."""
    return (
        f"{path}: the header announces {'x'.join(map(str, shape))} voxels, more than {max_voxels}: "
        "it is damaged, or the volume must be resampled first"
    )


def not_finite(path: Path) -> str:
    """Return the message for voxels that are no numbers."""
    return f"{path}: the volume holds NaN or infinite values: repair it or mask them out"


def unusable_spacing(path: Path, spacing: list[float]) -> str:
    """Return the message for a spacing that is zero, negative or no number."""
    return f"{path}: spacing {spacing} mm: each must be above 0; mend the header"
