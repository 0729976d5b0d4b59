"""Checks of NRRD and MetaImage headers before a library reads them.

Both formats reference the file of their voxels, which may be any file on this machine. The library
that reads NRRD aborts the whole process on some headers, or allocates memory for missing voxels.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.messages import InputError, one_line
from famseg.volumes._nifti_header import check_ratio, too_many_voxels

_HEADER_BYTES = 2**20
_MOST_DIMENSIONS = 16
# The libraries copy lines and paths into fixed-size buffers without checking their length.
_LONGEST_LINE = {"nrrd": 400, "meta": 240}
_LONGEST_NOTE = 10_000
_LONGEST_PATH = 900  # bytes
_NRRD_FIELDS = {
    *("content", "number", "type", "dimension", "space", "space dimension", "sizes", "spacings"),
    *("thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs", "centers", "centerings"),
    *("labels", "units", "kinds", "encoding", "endian", "min", "max", "old min", "oldmin"),
    *("old max", "oldmax", "data file", "datafile", "line skip", "lineskip", "byte skip"),
    *("byteskip", "sample units", "sampleunits", "space units", "space origin"),
    *("space directions", "measurement frame"),
}
_OTHER_FORMAT = "its content does not have the format of its file name"
_META_END = re.compile(rb"\s*ElementDataFile\s*=")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DEFLATE = 1032  # no deflated byte can expand to more
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8"), 1),
    **dict.fromkeys(("uint8_t", "char"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16"), 2),
    **dict.fromkeys(("int16_t", "ushort", "unsigned short", "unsigned short int", "uint16"), 2),
    **dict.fromkeys(("uint16_t",), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int"), 4),
    **dict.fromkeys(("uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long"), 8),
    **dict.fromkeys(("signed long long int", "int64", "int64_t", "ulonglong"), 8),
    **dict.fromkeys(("unsigned long long", "unsigned long long int", "uint64"), 8),
    **dict.fromkeys(("uint64_t", "double"), 8),
}
_UNITS_MM = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "\u00c2\u00b5m", "micron", "microns"), 1e-3),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
}
_META_BYTES = {
    **{"met_char": 1, "met_uchar": 1, "met_short": 2, "met_ushort": 2, "met_int": 4},
    **{"met_uint": 4, "met_float": 4, "met_double": 8, "met_long": 4, "met_ulong": 4},
    **{"met_long_long": 8, "met_ulong_long": 8},
}


@dataclass(frozen=True)
class _Header:
    """The fields of a header with lower-case keys, and the offset of voxels in the same file."""

    keys: Mapping[str, str]
    length: int


def check_text_header(path: Path, max_voxels: int) -> None:
    """Refuse a header that is unsafe for libraries; other files pass.

    Args:
        path: The file.
        max_voxels: Larger images are refused.

    Raises:
        InputError: If voxels are missing or in another folder; one line that begins with the path.
    """
    suffix = path.suffix.lower()
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise InputError(
            f"{path}: a path of more than {_LONGEST_PATH} bytes: move the file to a shorter path"
        )
    if suffix in (".nrrd", ".nhdr"):
        _check_nrrd(path, max_voxels)
    elif suffix in (".mha", ".mhd"):
        _check_meta(path, max_voxels)


def data_file(path: Path) -> Path | None:
    """Return the voxel file that a detached header (.mhd, .nhdr) references.

    Returns:
        The file, next to the header; None if the voxels are in the header's file or no file is
        named.

    Raises:
        InputError: If it references several files, or one in another folder.
    """
    suffix = path.suffix.lower()
    if suffix == ".nhdr":
        keys = _nrrd(path).keys
        return _beside(path, keys.get("data file") or keys.get("datafile"))
    return _beside(path, _meta(path).keys.get("elementdatafile")) if suffix == ".mhd" else None


def unit_mm(path: Path) -> float:
    """Return the unit of length of a header in mm; 1 if it is missing or unknown.

    Args:
        path: A file that passed `check_text_header`.

    Raises:
        InputError: If its axes have different units.
    """
    if path.suffix.lower() in (".mha", ".mhd"):
        return _UNITS_MM.get(_meta(path).keys.get("distanceunits", "").strip('"').lower(), 1.0)
    keys = _nrrd(path).keys
    named = keys.get("space units") or keys.get("units") or ""
    units = re.findall(r'"([^"]*)"', named) or named.split()
    known = {_UNITS_MM[unit.strip().lower()] for unit in units if unit.strip().lower() in _UNITS_MM}
    if len(known) > 1:
        raise InputError(
            f"{path}: its axes have several units ({one_line(named, 60)}): save it in mm"
        )
    return known.pop() if known else 1.0


def _check_nrrd(path: Path, max_voxels: int) -> None:
    header = _nrrd(path)
    keys = header.keys
    unknown = sorted(set(keys) - _NRRD_FIELDS)
    if unknown:
        raise InputError(f"{path}: the header is damaged: no field '{one_line(unknown[0], 40)}'")
    named = keys.get("data file") or keys.get("datafile")
    if named is not None and path.suffix.lower() == ".nrrd":
        raise InputError(f"{path}: its voxels are in another file: name the header .nhdr")
    shape = _shape(path, keys.get("dimension"), keys.get("sizes"), max_voxels)
    kind = keys.get("type", "").lower()
    if kind not in _NRRD_BYTES:
        raise InputError(f"{path}: unknown type of voxels '{one_line(kind, 40)}'")
    encoding = keys.get("encoding", "").lower()
    known = {
        **dict.fromkeys(("raw",), _NRRD_BYTES[kind]),
        **dict.fromkeys(("gz", "gzip"), _NRRD_BYTES[kind] / _DEFLATE),
        **dict.fromkeys(("txt", "text", "ascii"), 1),
        "hex": 2 * _NRRD_BYTES[kind],
    }
    if encoding not in known:
        raise InputError(f"{path}: encoding '{one_line(encoding, 40)}' is not supported: use gzip")
    need = math.prod(shape) * _NRRD_BYTES[kind]
    _check_size(path, _beside(path, named), header, need, math.prod(shape) * known[encoding])


def _check_meta(path: Path, max_voxels: int) -> None:
    header = _meta(path)
    keys = header.keys
    named = keys.get("elementdatafile", "")
    file = _beside(path, named)
    if file is not None and path.suffix.lower() == ".mha":
        raise InputError(f"{path}: its voxels are in another file: name the header .mhd")
    shape = _shape(path, keys.get("ndims"), keys.get("dimsize"), max_voxels)
    kind = keys.get("elementtype", "").lower()
    if kind not in _META_BYTES:
        raise InputError(f"{path}: unknown type of voxels '{one_line(kind, 40)}'")
    true = ("true", "1")
    least: float = _META_BYTES[kind]
    if keys.get("compresseddata", "").lower() in true:
        least /= _DEFLATE
    elif keys.get("binarydata", "true").lower() not in true:
        least = 1
    need = math.prod(shape) * _META_BYTES[kind]
    _check_size(path, file, header, need, math.prod(shape) * least)


def _nrrd(path: Path) -> _Header:
    """Return the header of an NRRD file, which ends at an empty line or with the file."""
    content = _start(path)
    if not content.startswith(b"NRRD000"):
        raise InputError(f"{path}: {_OTHER_FORMAT}")
    lines: list[bytes] = []
    place = 0
    for line in content.split(b"\n"):
        place += len(line) + 1
        if line in (b"", b"\r"):
            break
        if b":=" not in line and not line.startswith(b"#"):  # a custom key-value pair, a comment
            _check_length(path, line, _LONGEST_LINE["nrrd"])
            lines.append(line)
    return _Header(_pairs(path, lines[1:], b":"), place)


def _meta(path: Path) -> _Header:
    """Return the header of a MetaImage file, which ends with the reference to the voxels."""
    content = _start(path)
    lines: list[bytes] = []
    place = 0
    for line in content.split(b"\n"):
        place += len(line) + 1
        own = line.partition(b"=")[0].strip().isalpha() and not line.startswith(b"Comment")
        _check_length(path, line, _LONGEST_LINE["meta"] if own else _LONGEST_NOTE)
        lines += [line] if line.strip() else []
        if _META_END.match(line):
            return _Header(_pairs(path, lines, b"="), place)
    raise InputError(f"{path}: {_OTHER_FORMAT}")


def _check_length(path: Path, line: bytes, longest: int) -> None:
    if len(line) > longest:
        text = one_line(line.decode("latin-1"), 40)
        raise InputError(
            f"{path}: the header is damaged: '{text}' has {len(line)} bytes, more than {longest}"
        )


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEADER_BYTES)


def _pairs(path: Path, lines: Sequence[bytes], mark: bytes) -> dict[str, str]:
    """Return the fields of a header; refuse those that programs interpret differently."""
    keys: dict[str, str] = {}
    for line in lines:
        key, found, value = (part.strip() for part in line.removesuffix(b"\r").partition(mark))
        name = key.decode("latin-1").lower()
        if not found or b":" in key or name in keys or _CONTROL.search(line.removesuffix(b"\r")):
            text = one_line(line.decode("latin-1"), 60)
            raise InputError(f"{path}: the header is damaged: '{text}' cannot be read")
        keys[name] = value.decode("latin-1")
    return keys


def _shape(path: Path, dimensions: str | None, sizes: str | None, max_voxels: int) -> list[int]:
    try:
        count, shape = int(dimensions or ""), [int(n) for n in (sizes or "").split()]
    except ValueError:
        count, shape = 0, []
    if count != len(shape) or not 1 <= count <= _MOST_DIMENSIONS or min(shape) < 1:
        raise InputError(
            f"{path}: the header is damaged: dimension {one_line(str(dimensions), 20)}, sizes "
            f"{one_line(str(sizes), 60)}"
        )
    if math.prod(shape) > max_voxels:
        raise InputError(too_many_voxels(path, shape, max_voxels))
    return shape


def _beside(path: Path, named: str | None) -> Path | None:
    """Return the file that a header references, which must be next to it."""
    if named is None or named.upper() == "LOCAL":
        return None
    if named.upper().startswith("LIST") or "%" in named:
        raise InputError(f"{path}: its voxels are in several files: save it as one")
    if not named or "/" in named or "\\" in named or named in (".", ".."):
        raise InputError(
            f"{path}: names '{one_line(named, 80)}' for its voxels: they must be in a file beside "
            "it; copy it there, and write only its name"
        )
    file = path.parent / named
    if Path(os.path.realpath(file)).parent != Path(os.path.realpath(path.parent)):
        raise InputError(
            f"{path}: {one_line(named, 80)} is a symbolic link to another folder: copy the file"
        )
    return file


def _check_size(path: Path, file: Path | None, header: _Header, need: int, least: float) -> None:
    """Refuse a file that is too small for the stated voxels, before memory is allocated."""
    if file is not None and not file.is_file():
        return  # the library reports it
    has = path.stat().st_size - header.length if file is None else file.stat().st_size
    if has < least:
        raise InputError(
            f"{path}: the header is readable, the voxels are not: the file is cut short or damaged"
        )
    check_ratio(path, need, has)
