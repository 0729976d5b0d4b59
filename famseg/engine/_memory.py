"""Reuse of freed memory by the process instead of returning it to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # constants of malloc.h
_KEPT_BYTES = 2**30
# The largest value that older versions of glibc accept.
_OLDER_BYTES = 2**25
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX")


def keep_freed_memory() -> bool:
    """Let the process keep freed memory, up to a gigabyte, instead of returning it.

    Activations of a volume take several megabytes each. By default, glibc requests each of them
    from the kernel again, which clears every page. With this setting, a training step of the skull
    autoencoder on 64 x 64 x 64 voxels takes 0.21 instead of 0.23 s of one core of an Intel Xeon
    (minimum of 7 steps, three times each), with larger savings on busy machines. Weights are
    bit-identical, and peak memory differs by less than 2 %.

    Returns:
        Whether it was set. It is not set with other C libraries, nor if the user has set a variable
        such as ``MALLOC_TRIM_THRESHOLD_`` or ``GLIBC_TUNABLES``.
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(name in os.environ for name in _VARIABLES) or "malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # another library may have its own mallopt
        mmap_set = any(
            library.mallopt(_MMAP_THRESHOLD, size) for size in (_KEPT_BYTES, _OLDER_BYTES)
        )
        return mmap_set and bool(library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
    return False
