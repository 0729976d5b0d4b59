"""What ITK lets pass in a NIfTI file.

It reads missing voxels and NaN as 0, and takes 1 mm for a spacing of 0 or NaN.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import psutil

from famseg.config import InputError

_HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_LONGEST_HEADER = 540
_CHUNK = 2**22
_RATIO_FROM_BYTES = 2**30
_MOST_RATIO = 500  # masks reach 200
_MOST_EXTENSIONS = 2**26  # bytes between the header and the voxels
_TRAILING = 2**20  # bytes behind the voxels, which some programs leave


def check_nifti(path: Path, max_voxels: int) -> None:
    """Raise InputError unless the header is usable and all voxels are there.

    The file is read once, in pieces, and at most as far as its header announces.

    Args:
        path: A file ending in .nii or .nii.gz.
        max_voxels: Bound for the number of voxels.
    """
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as stream:
            head = stream.read(_LONGEST_HEADER)
            header = _header(path, head)
            start, need = _bytes_needed(path, header, max_voxels)
            check_room(path, need)
            check_ratio(path, need, path.stat().st_size)
            size, finite = _walk(path, _chunks(head, stream.read), header, start, need)
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: the file is cut short or damaged: copy it again") from error
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file, though its name says so") from error
    if size < need:
        raise InputError(
            f"{path}: cut short: it holds {size} bytes of the {need} that its header announces; "
            "copy it again"
        )
    _check_geometry(path, header)
    if not finite:
        raise InputError(not_finite(path))


def check_room(path: Path, need: int) -> None:
    """Refuse voxels that do not fit into memory twice, as they are while they are read.

    Args:
        path: What the message begins with.
        need: Bytes of the voxels.

    Raises:
        InputError: If more would be needed than is free.
    """
    free = psutil.virtual_memory().available
    if 2 * need > free:
        raise InputError(
            f"{path}: its voxels need {2 * need / 2**30:.1f} GiB of memory while they are read, "
            f"{free / 2**30:.1f} GiB are free: resample it first, or use a larger machine"
        )


def check_ratio(path: Path, need: int, has: int) -> None:
    """Refuse voxels that shrank as no scan and no mask does: they were made to fill the memory.

    Args:
        path: What the message begins with.
        need: Bytes of the voxels.
        has: Bytes of the file that they are in.

    Raises:
        InputError: If there is more than a GiB of them, and 500 times as much as the file has.
    """
    if need > _RATIO_FROM_BYTES and need > _MOST_RATIO * has:
        raise InputError(
            f"{path}: its voxels unpack to {need} bytes, {_MOST_RATIO} times its size or more: a "
            "file made to fill the memory; leave it aside"
        )


def _walk(
    path: Path, chunks: Iterable[bytes], header: nibabel.Nifti1Header, start: int, need: int
) -> tuple[int, bool]:
    """Return the length of a file, and whether its voxels are finite where they are floats."""
    kind = header.get_data_dtype()
    size, finite, voxels = 0, True, b""
    for chunk in chunks:
        begin, size = size, size + len(chunk)
        if size > need + _TRAILING:
            raise InputError(
                f"{path}: unpacks to more than the {need} bytes that its header announces: not a "
                "volume"
            )
        if kind.kind == "f":
            voxels += chunk[max(0, start - begin) : max(0, need - begin)]
            whole = len(voxels) - len(voxels) % kind.itemsize
            finite &= bool(np.isfinite(np.frombuffer(voxels[:whole], kind)).all())
            voxels = voxels[whole:]
    return size, finite


def _chunks(head: bytes, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield what was read already, then the rest."""
    while head:
        yield head
        head = read(_CHUNK)


def _header(path: Path, head: bytes) -> nibabel.Nifti1Header:
    """Return the parsed header."""
    if len(head) >= 348:
        for order in "<>":
            length = struct.unpack(f"{order}i", head[:4])[0]
            if length in _HEADER_BYTES and len(head) >= length:
                kind = _HEADER_BYTES[length]
                found = kind(head[:length], endianness=order, check=False)
                if bytes(found["magic"])[:2] == b"ni":
                    raise InputError(
                        f"{path}: its voxels are in another file (.img): save it as one"
                    )
                return found
    raise InputError(f"{path}: its content is not NIfTI, though its name says so")


def _bytes_needed(path: Path, header: nibabel.Nifti1Header, max_voxels: int) -> tuple[int, int]:
    """Return where the voxels begin, and the length that a whole file has."""
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
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MOST_EXTENSIONS:
        raise InputError(f"{path}: the header is damaged: vox_offset {offset:g}")
    start = max(int(offset), int(header.structarr.dtype.itemsize))
    return start, start + voxels * item


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
