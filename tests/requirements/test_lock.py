from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements"
CUDA_ONLY = re.compile(r"(nvidia|cuda)-|triton$")
ENTRY = re.compile(r"^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", re.MULTILINE)


def entries(name: str) -> dict[str, tuple[str, int]]:
    """Return a lock's packages: version and number of hashes."""
    text = (LOCKS / name).read_text()
    found = {
        entry: (version, hashes.count("sha256:")) for entry, version, hashes in ENTRY.findall(text)
    }
    assert len(found) == text.count("==")
    return found


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


@pytest.mark.parametrize("name", ["cuda.lock", "cuda12.lock", "cpu.lock"])
def test_every_package_has_hashes(name: str) -> None:
    assert all(hashes > 0 for _, hashes in entries(name).values())


@pytest.mark.parametrize("name", ["cuda.lock", "cuda12.lock", "cpu.lock"])
def test_versions_are_those_that_are_tested(name: str) -> None:
    pins = constraints()
    for package, (version, _) in entries(name).items():
        if CUDA_ONLY.match(package):
            assert package not in pins  # torch asks for these by itself
        elif (name, package) == ("cuda12.lock", "torch"):
            assert version.split(".") < pins["torch"].split(".")  # the newest for CUDA 12
        else:
            assert version.removesuffix("+cpu") == pins.get(package), package


@pytest.mark.parametrize("name", ["cuda.lock", "cuda12.lock", "cpu.lock"])
def test_what_famseg_asks_for_is_locked(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = entries(name)
    for text in [*project["dependencies"], *extras["language"], *extras["server"]]:
        asked = Requirement(text)
        version, _ = locked[canonicalize_name(asked.name)]
        assert asked.specifier.contains(version), text


def test_the_cpu_lock_differs_in_torch_alone() -> None:
    cuda, cpu = entries("cuda.lock"), entries("cpu.lock")
    assert {name for name in cuda if CUDA_ONLY.match(name)} == cuda.keys() - cpu.keys()
    assert {name for name in cpu if cpu[name] != cuda[name]} == {"torch"}
    assert cpu["torch"][0] == f"{cuda['torch'][0]}+cpu"


def test_the_lock_for_older_drivers_differs_in_torch_and_its_libraries_alone() -> None:
    cuda, older = entries("cuda.lock"), entries("cuda12.lock")
    rest = [
        {name: found for name, found in lock.items() if not CUDA_ONLY.match(name)}
        for lock in (cuda, older)
    ]
    assert {name for name in rest[0] if rest[0][name] != rest[1].get(name)} == {"torch"}
    assert {"nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12"} <= older.keys()
    assert not [name for name in older if name.endswith("-cu13")]


@pytest.mark.parametrize("name", ["cuda.lock", "cuda12.lock", "cpu.lock"])
def test_what_only_the_image_needs_is_locked(name: str) -> None:
    assert {"dumb-init", "setuptools"} <= entries(name).keys()


def test_a_file_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    stranger = tmp_path / "six-1.17.0-py2.py3-none-any.whl"
    stranger.write_bytes(b"not six")
    (text,) = [
        match[0] for match in ENTRY.finditer((LOCKS / "cpu.lock").read_text()) if match[1] == "six"
    ]
    (tmp_path / "six.lock").write_text(text)
    command = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-index"]
    command += ["--no-deps", "--find-links", str(tmp_path), "-r", str(tmp_path / "six.lock")]
    command += ["--dest", str(tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
