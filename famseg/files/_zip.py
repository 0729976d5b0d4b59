"""Unpacking of named files from a ZIP archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from famseg.files._atomic import write_atomically
from famseg.messages import InputError

_MAX_BYTES = 2**30


def unpack_files(archive: Path, names: Sequence[str], folder: Path) -> None:
    """Unpack files, each atomically.

    A file may be at the top level of the archive or in a folder there. Its destination depends only
    on its name, so that no path in the archive can lead elsewhere.

    Args:
        archive: The archive.
        names: Names of the files.
        folder: The existing folder to write to. Files of these names there are replaced.

    Raises:
        InputError: If the archive is damaged, or a file is missing or too large.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = {
                PurePosixPath(info.filename).name: info
                for info in opened.infolist()
                if len(PurePosixPath(info.filename).parts) <= 2 and not info.is_dir()
            }
            missing = [name for name in names if name not in found]
            if missing:
                raise InputError(f"{archive}: {', '.join(missing)}: not in the archive")
            for name in names:
                with opened.open(found[name]) as source:
                    content = source.read(_MAX_BYTES + 1)
                if len(content) > _MAX_BYTES:
                    raise InputError(f"{archive}: {name}: contains more than {_MAX_BYTES} bytes")
                write_atomically(folder / name, content)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{archive}: is not a ZIP archive, or it is encrypted, cut short or damaged"
        ) from error
