from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Page faults of a megabyte that is taken and given back again and again, as a tensor is.
COUNT = """
import ctypes, resource
from famseg.engine._memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(36 << 20)))
        ctypes.memset(block, 1, 36 << 20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, kept, second = faults(), keep_freed_memory(), faults()
print(kept, first // 1000, second // 1000)
"""


def told(**environment: str) -> tuple[bool, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, timeout=60, env=environment
    )
    kept, first, second = done.stdout.split()
    return kept == "True", int(first), int(second)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_that_is_freed_is_used_again_without_asking_for_it() -> None:
    kept, first, second = told()
    assert kept
    assert first >= 32  # thousands: 4 times 9,216 pages
    assert second <= 12  # once


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize(
    "variable", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"}]
)
def test_what_a_user_says_about_memory_stays(variable: dict[str, str]) -> None:
    kept, first, second = told(**variable)
    assert not kept
    assert second == first
