"""NIfTI files: checks that ITK lacks, and reading of variants that ITK does not support.

ITK reads missing voxels and NaN as 0, and a spacing of 0 or NaN as 1 mm. It cannot read NIfTI-2 and
sheared axes, which nibabel can.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
import psutil
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from famseg.messages import InputError

_HEADER_BYTES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_LONGEST_HEADER = 540
_CHUNK = 2**22
_RATIO_FROM_BYTES = 2**30
_MOST_RATIO = 500  # largest compression ratio; masks reach 200
_MOST_EXTENSIONS = 2**26  # bytes between the header and the voxels
_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # meter, millimeter, micrometer
_TRAILING = 2**20  # extra bytes that some programs write after the voxels


def check_nifti(path: Path, max_voxels: int) -> None:
    """Raise InputError unless the header is usable and all voxels exist.

    The file is read once, in pieces, up to the length that its header states.

    Args:
        path: A .nii or .nii.gz file, or a .hdr file with its voxels in an .img file next to it.
        max_voxels: Largest number of voxels.
    """
    try:
        header = nifti_header(path)
        voxels = voxel_file(path)
        start, need = _bytes_needed(path, header, max_voxels)
        check_room(path, need)
        check_ratio(path, need, voxels.stat().st_size)
        with _opened(voxels) as stream:
            size, finite = _walk(
                path, _chunks(stream.read(_CHUNK), stream.read), header, start, need
            )
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: the file is cut short or damaged: copy it again") from error
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file, though its name says so") from error
    if size < need:
        raise InputError(
            f"{path}: cut short: it contains {size} bytes of the {need} that its header announces; "
            "copy it again"
        )
    _check_geometry(path, header)
    if not finite:
        raise InputError(not_finite(path))


def nifti_header(path: Path) -> nibabel.Nifti1Header:
    """Return the header of a NIfTI file.

    Args:
        path: A .nii, .nii.gz or .hdr file.

    Raises:
        InputError: If it is not NIfTI, or its suffix does not match the location of the voxels.
    """
    with _opened(path) as stream:
        head = stream.read(_LONGEST_HEADER)
    if len(head) >= 348:
        for order in "<>":
            length = struct.unpack(f"{order}i", head[:4])[0]
            if length in _HEADER_BYTES and len(head) >= length:
                kind = _HEADER_BYTES[length]
                found = kind(head[:length], endianness=order, check=False)
                _check_magic(path, bytes(found["magic"])[:2])
                return found
    raise InputError(f"{path}: its content is not NIfTI, though its name says so")


def _check_magic(path: Path, magic: bytes) -> None:
    pair = is_pair(path)
    if magic == b"ni" and not pair:
        raise InputError(f"{path}: its voxels are in another file (.img): name the header .hdr")
    if pair and magic != b"ni":
        raise InputError(
            f"{path}: an Analyze file, which does not tell left from right: convert it to NIfTI or "
            "NRRD"
        )


def is_pair(path: Path) -> bool:
    """Return whether a name is that of a header with voxels in a separate file.

    Example:
        >>> is_pair(Path("head.hdr")), is_pair(Path("head.nii.gz"))
        (True, False)
    """
    return path.suffix.lower() == ".hdr"


def voxel_file(path: Path) -> Path:
    """Return the file with the voxels: the file itself, or the one next to a header.

    Raises:
        InputError: If it is missing, or is a symbolic link that leads elsewhere.
    """
    if not is_pair(path):
        return path
    for ending in (".img", ".IMG", ".img.gz"):
        file = path.with_suffix(ending)
        if file.is_file():
            if Path(os.path.realpath(file)).parent != Path(os.path.realpath(file.parent)):
                raise InputError(
                    f"{path}: {file.name} is a symbolic link to another folder: copy the file"
                )
            return file
    raise InputError(
        f"{path}: the file with its voxels (.img) is missing: copy it next to this file"
    )


def nifti_affine(header: nibabel.Nifti1Header, path: Path) -> NDArray[np.float64]:
    """Return the RAS+ affine in mm: the sform if it is set and usable, else the qform.

    This is the rule of nibabel and most programs; ITK prefers the qform.

    Args:
        header: A header with a nonzero sform or qform code.
        path: Its file, for the message.

    Raises:
        InputError: If neither is usable. Left and right would be a guess.
    """
    forms = [header.get_sform(coded=True)[0], _qform(header)]
    usable = [
        form
        for form in forms
        if form is not None and np.isfinite(form).all() and abs(np.linalg.det(form[:3, :3])) > 0
    ]
    if not usable:
        raise InputError(
            f"{path}: the orientation in its header is damaged (sform and qform): left and right "
            "are not known; convert the original again"
        )
    affine = np.array(usable[0], dtype=np.float64)
    affine[:3] *= _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return affine


def _qform(header: nibabel.Nifti1Header) -> NDArray[np.float64] | None:
    """Return the qform; None if it is not set or its quaternion is longer than 1."""
    checked = header.copy()
    if checked["pixdim"][0] not in (-1, 1):
        checked["pixdim"][0] = 1  # the standard says so of 0, and nibabel of any other value
    try:
        affine: NDArray[np.float64] | None = checked.get_qform(coded=True)[0]
    except ValueError:
        return None
    return affine


def forms_disagree(header: nibabel.Nifti1Header) -> bool:
    """Return whether sform and qform are set and place a corner more than half a voxel apart."""
    sform, qform = header.get_sform(coded=True)[0], _qform(header)
    if sform is None or qform is None or not np.isfinite(sform).all():
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(header["dim"][1:4]) - 1)
    apart = corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3]
    finest = float(np.min(np.abs(header["pixdim"][1:4])))
    return bool(np.linalg.norm(apart, axis=1).max() > finest / 2)


def nifti_array(path: Path, *, flat: bool = False) -> NDArray[Any]:
    """Return the voxels of a checked file, scaled according to its header, shape ``(X, Y, Z)``.

    Args:
        path: The file.
        flat: Whether to accept slices, which get the shape ``(X, Y, 1)``.

    Raises:
        InputError: If they cannot be read, or have more than one component.
    """
    try:
        image = nibabel.load(path)
        array: NDArray[Any] = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as e:
        raise InputError(
            f"{path}: the header is readable, the voxels are not: the file is cut short or damaged"
        ) from e
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    size = "x".join(map(str, array.shape))
    if array.ndim > 3:
        raise InputError(f"{path}: {size} voxels is {array.ndim}D: give one 3D volume per file")
    if not has_room(array.shape, flat=flat):
        raise InputError(f"{path}: {size} voxels is not 3D: give a 3D volume")
    array = array if array.ndim == 3 else array[..., None]
    if array.dtype.kind not in "iufb":
        raise InputError(
            f"{path}: its voxels have more than one value each: a mask has one per voxel"
        )
    return array.astype(np.float32) if array.dtype == np.float64 else array


def has_room(shape: Sequence[int], *, flat: bool) -> bool:
    """Return whether a shape is that of a volume or, with ``flat``, of a slice.

    Example:
        >>> [has_room((6, 6, 1), flat=flat) for flat in (False, True)], has_room((6, 6), flat=True)
        ([False, True], True)
    """
    long = sum(length > 1 for length in shape)
    return long == 3 or (flat and long == 2 and len(shape) <= 3)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def check_room(path: Path, need: int) -> None:
    """Refuse voxels that do not fit into memory twice, which reading them needs.

    Args:
        path: The file, for the message.
        need: Bytes of the voxels.

    Raises:
        InputError: If more memory is needed than is free.
    """
    free = psutil.virtual_memory().available
    if 2 * need > free:
        raise InputError(
            f"{path}: its voxels need {2 * need / 2**30:.1f} GiB of memory while they are read, "
            f"{free / 2**30:.1f} GiB are free: resample it first, or use a larger machine"
        )


def check_ratio(path: Path, need: int, has: int) -> None:
    """Refuse voxels with an impossible compression ratio, which are meant to exhaust memory.

    Args:
        path: Beginning of the message.
        need: Bytes of the voxels.
        has: Bytes of the file that contains them.

    Raises:
        InputError: If there is more than 1 GiB, and more than 500 times the size of the file.
    """
    if need > _RATIO_FROM_BYTES and need > _MOST_RATIO * has:
        raise InputError(
            f"{path}: its voxels unpack to {need} bytes, {_MOST_RATIO} times its size or more: "
            "this may be a file made to fill the memory; do not use it"
        )


def _walk(
    path: Path, chunks: Iterable[bytes], header: nibabel.Nifti1Header, start: int, need: int
) -> tuple[int, bool]:
    """Return the length of a file, and whether voxels of a float type are finite."""
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
    """Yield the part that was already read, then the rest."""
    while head:
        yield head
        head = read(_CHUNK)


def _bytes_needed(path: Path, header: nibabel.Nifti1Header, max_voxels: int) -> tuple[int, int]:
    """Return the offset of the voxels and the length of the complete file."""
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
    start = int(offset)
    if not is_pair(path):
        start = max(start, int(header.structarr.dtype.itemsize))
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
    """Return the message for a header that states too many voxels."""
    return (
        f"{path}: the header announces {'x'.join(map(str, shape))} voxels, more than {max_voxels}: "
        "it is damaged, or the volume must be resampled first"
    )


def not_finite(path: Path) -> str:
    """Return the message for voxels that are not finite."""
    return f"{path}: the volume holds NaN or infinite values: repair it or mask them out"


def unusable_spacing(path: Path, spacing: list[float]) -> str:
    """Return the message for a spacing that is zero, negative or not a number."""
    return f"{path}: spacing {spacing} mm: each must be above 0; fix the header"
