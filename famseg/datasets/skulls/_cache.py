"""A cache of prepared masks: packed bits in npz files, read without unpickling.

MONAI's PersistentDataset pickles its items, so that a cache folder writable by others could execute
code. The files here contain only a mask and an affine, and are written atomically, so that a killed
process leaves no damaged file.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from famseg.files import open_to_read, write_atomically
from famseg.messages import DAMAGED

Prepared = tuple[NDArray[np.uint8], NDArray[np.float64]]


def default_cache_folder() -> Path:
    """Return the folder of caches: FAMSEG_CACHE, or famseg in XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("FAMSEG_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "famseg"


class MaskCache:
    """A folder of prepared masks.

    Several processes may share it: files are written atomically. If the folder is not writable, a
    warning is given once, and everything is prepared again.

    Args:
        folder: The folder of the files; created when it is first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writable = True

    def get(self, key: Mapping[str, object], prepare: Callable[[], Prepared]) -> Prepared:
        """Return the result of ``prepare``, from the folder if it exists there.

        Args:
            key: Everything that the result depends on, in JSON types.
            prepare: Computes the mask (0 and 1) and its affine.
        """
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
        found = _load(path)
        if found is None:
            found = prepare()
            self._save(path, found)
        return found

    def _save(self, path: Path, prepared: Prepared) -> None:
        if not self._writable:
            return
        mask, affine = prepared
        content = io.BytesIO()
        np.savez(content, bits=np.packbits(mask), shape=np.array(mask.shape), affine=affine)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getbuffer())
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"{self.folder}: cannot be written ({error.strerror or error}): continuing without "
                "a cache; set data.cache or FAMSEG_CACHE to another folder",
                stacklevel=2,
            )


def _load(path: Path) -> Prepared | None:
    """Return the stored mask and affine; None if they do not exist or are damaged.

    Memory is at most eight times the size of the file, one byte per bit.
    """
    try:
        # Opened here, because np.load does not close a damaged file.
        with open_to_read(path) as stream, np.load(stream, allow_pickle=False) as stored:
            if sum(part.file_size for part in stored.zip.infolist()) > path.stat().st_size:
                return None  # compressed, which the cache never writes; it may unpack to any size
            shape, bits, affine = (stored[name] for name in ("shape", "bits", "affine"))
            if bits.dtype != np.uint8 or affine.shape != (4, 4) or not _fits(shape, bits):
                return None
            count = math.prod(shape.tolist())
            mask = np.unpackbits(bits, count=count).reshape(shape)
            return mask, affine.astype(np.float64)
    except (OSError, RuntimeError, SyntaxError, TokenError, zipfile.BadZipFile, *DAMAGED):
        return None


def _fits(shape: NDArray[np.generic], bits: NDArray[np.generic]) -> bool:
    """Return whether the bits contain enough voxels, since unpacking pads with zeros."""
    if shape.ndim != 1 or shape.dtype.kind not in "iu" or min(shape, default=1) < 1:
        return False
    return bits.shape == (-(-math.prod(shape.tolist()) // 8),)
