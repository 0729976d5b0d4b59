from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from famseg.tracking import _machine, free_memory, memory_limit, processor_quota, usable_cores

GIB = 1024**3


def test_a_containers_quota_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "cores", lambda: 8)
    monkeypatch.setattr(Path, "read_text", lambda self: "150000 100000\n")
    assert (processor_quota(), usable_cores()) == (1.5, 2)
    monkeypatch.setattr(Path, "read_text", lambda self: "20000 100000\n")
    assert usable_cores() == 1
    monkeypatch.setattr(Path, "read_text", lambda self: "max 100000\n")
    assert (processor_quota(), usable_cores()) == (None, 8)


def test_memory_is_free_on_the_machine_and_within_the_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * GIB))
    files = {"memory.max": str(4 * GIB), "memory.current": str(3 * GIB)}
    monkeypatch.setattr(Path, "read_text", lambda self: files[self.name])
    assert (memory_limit(), free_memory()) == ((4 * GIB, 3 * GIB), GIB)
    files["memory.current"] = str(5 * GIB)  # for a moment, before something is killed
    assert free_memory() == 0
    files.update({"memory.max": "max", "memory.limit_in_bytes": str(1 << 62)})
    assert (memory_limit(), free_memory()) == (None, 7 * GIB)
