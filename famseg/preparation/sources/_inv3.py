"""Projects of InVesalius 3.

An ``.inv3`` file is a gzip-compressed tar archive. Its ``main.plist`` contains the patient, the
modality, the spacing in mm (x, y, z) and the name of the image file, which holds raw values of a
stated dtype and shape ``(z, y, x)``. InVesalius flips the rows when it reads DICOM, so that x runs
to the left, y to the front and z to the top. Masks and surfaces of the project are ignored: bone is
segmented in the image as in any other scan.
"""

from __future__ import annotations

import hashlib
import plistlib
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.parsers.expat import ExpatError

import numpy as np

from famseg.files import extract_tar
from famseg.messages import DAMAGED, InputError
from famseg.preparation._numbers import numbers
from famseg.preparation._types import Refused, Scan, Source
from famseg.preparation.sources._items import Item, local, told_as
from famseg.preparation.sources._names import PersonalWords
from famseg.preparation.sources._read import check_memory, understand
from famseg.volumes import Volume

_DTYPES = ("int16", "uint16", "uint8", "int8", "int32", "float32", "float64")
_AXIAL = 1
_MOST_PLIST_BYTES = 2**22


class _Image(NamedTuple):
    """The image of a project: its file, the format of its values and its geometry."""

    name: str
    dtype: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, ...]


def find_project(item: Item) -> Source | Refused:
    """Return a project as a source, or the reason why it is refused.

    The subject is named after the file. If the file name contains a part of the patient's name or
    the date stated in the project, it is ``project_`` and eight digits of a hash of the image.

    Args:
        item: The ``.inv3`` file.
    """
    wanted = item.place.with_suffix("").as_posix()
    subject, origin = item.subject, item.place.as_posix()
    fault = None
    try:
        with local([item]) as (path,), tempfile.TemporaryDirectory(prefix="famseg-") as folder:
            files = extract_tar(path, Path(folder), ("main.plist",))
            main = _main(files)
            date = "".join(c for c in str(main.get("date", ""))[:10] if c.isdigit())
            words = PersonalWords([str(main.get("name", ""))], [date])
            if words.in_text(wanted):
                subject = f"project_{_digest(path)}"
                folder_name = words.masked(PurePosixPath(origin))
                origin = f"{folder_name} ({subject})"
            _image(main)
    except InputError as error:
        fault = str(error)
    if fault is not None:
        return Refused(subject, origin, fault)
    return Source(subject, origin, (item.file,), partial(read_project, item, origin))


def read_project(item: Item, origin: str) -> Scan:
    """Read the image of a project.

    Args:
        item: The ``.inv3`` file.
        origin: What error messages begin with.

    Returns:
        The scan.

    Raises:
        InputError: If the archive is unsafe or damaged, or the image does not match its
            description.
    """
    with (
        told_as(origin),
        local([item]) as (path,),
        tempfile.TemporaryDirectory(prefix="famseg-") as folder,
    ):
        files = extract_tar(path, Path(folder), ("main.plist", ".dat"))
        main = _main(files)
        image = _image(main)
        check_memory(image.shape, np.dtype(image.dtype).itemsize)
        data = files.get(image.name)
        if data is None:
            raise InputError("the file of its image is missing: save the project again")
        need = int(np.prod(image.shape)) * np.dtype(image.dtype).itemsize
        if data.stat().st_size != need:
            raise InputError(
                f"its image has {data.stat().st_size} bytes, {need} are announced: save the "
                "project again"
            )
        values = np.fromfile(data, dtype=image.dtype).reshape(image.shape).transpose(2, 1, 0)
    kind, values, notes = understand(values)
    x, y, z = image.spacing_mm
    affine = np.diag([-x, y, z, 1.0])
    told = "x to the left, y to the front, z to the top"
    notes += (f"An InVesalius project: {told}, as InVesalius stores images.",)
    if main.get("orientation", _AXIAL) != _AXIAL:
        notes += ("The project was made from slices that are not axial: check the axes.",)
    return Scan(Volume(values, affine), kind, notes)


def _main(files: Mapping[str, Path]) -> dict[str, Any]:
    """Return the content of ``main.plist``."""
    path = files.get("main.plist")
    if path is None:
        raise InputError("not an InVesalius 3 project: there is no main.plist in it")
    main = None
    if path.stat().st_size <= _MOST_PLIST_BYTES:
        try:
            main = plistlib.loads(path.read_bytes())
        except (plistlib.InvalidFileException, ExpatError, OSError, *DAMAGED) as error:
            raise InputError("its main.plist cannot be read: save the project again") from error
    if not isinstance(main, dict):
        raise InputError("its main.plist cannot be read: save the project again")
    return main


def _image(main: Mapping[str, Any]) -> _Image:
    """Return the image described by ``main.plist``, or raise an error if it cannot be used."""
    modality = str(main.get("modality", "CT")).upper()
    if modality != "CT":
        shown = modality if modality in ("MRI", "MR", "UNKNOWN") else "unknown"
        raise InputError(f"modality {shown}, not CT: bone is found by CT numbers")
    matrix = main.get("matrix")
    matrix = matrix if isinstance(matrix, dict) else {}
    shape = numbers(matrix.get("shape"), 3)
    spacing = numbers(main.get("spacing"), 3)
    dtype = str(matrix.get("dtype"))
    if shape is None or min(shape) < 2 or dtype not in _DTYPES:
        raise InputError("its main.plist announces no image: save the project again")
    if spacing is None or min(spacing) <= 0:
        raise InputError("its spacing is missing or not above 0: save the project again")
    name = PurePosixPath(str(matrix.get("filename")).replace("\\", "/")).name
    return _Image(name, dtype, (int(shape[0]), int(shape[1]), int(shape[2])), spacing)


def _digest(path: Path) -> str:
    """Return eight digits of a hash of the image."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="famseg-") as folder:
        for _, data in sorted(extract_tar(path, Path(folder), ("matrix.dat",)).items()):
            with data.open("rb") as stream:
                while chunk := stream.read(2**20):
                    digest.update(chunk)
    return digest.hexdigest()[:8]
