"""Packages use only each other's public names, never private modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# These use private modules on purpose.
EXEMPT = (
    "tests/fuzz/",  # bytes for the private readers
    "tests/test_",  # tests of all of famseg
    "tests/conftest.py",
    "tests/support/forking_sweep.py",  # another way to start trials
    "tests/engine/lose_a_process.py",  # a training of its own in place of the command's
    "tests/messages/test_errors.py",  # errors of parsers of damaged text
    "tests/preparation/",  # lowered limits of archives and meshes
    "tests/tracking/test_courier.py",  # the server that the command starts
    "benchmarks/study/_networks.py",  # a closed form for all seeds of a cell at once
    "docs/_site/configuration.py",  # the reference is written from the sections
)


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names of all imports of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def owner(name: str) -> str | None:
    """Return the package whose private module a dotted name contains, or None.

    Example:
        >>> owner("famseg.files._atomic.write"), owner("famseg.files.write")
        ('famseg.files', None)
    """
    parts = name.split(".")
    private = [i for i, part in enumerate(parts) if part.startswith("_") and part[1:2] != "_"]
    return ".".join(parts[: private[0]]) if parts[0] == "famseg" and private else None


def trespasses(files: Iterator[Path], root: Path = ROOT) -> list[str]:
    """List the imports of private modules by files outside of their package."""
    found = []
    for path in files:
        place = path.relative_to(root)
        if place.as_posix().startswith(EXEMPT):
            continue
        # A test may use private modules of the package that it mirrors: tests/files/test_atomic.py
        # into famseg.files.
        package = ".".join(place.parent.parts).replace("tests.", "famseg.", 1)
        for name in imported(path):
            home = owner(name)
            mirrored = place.parts[0] == "tests" and package.split(".")[:2] == name.split(".")[:2]
            if home and not mirrored and not f"{package}.".startswith(f"{home}."):
                found.append(f"{place}: {name}")
    return found


def test_no_package_imports_a_private_module_of_another() -> None:
    folders = ("famseg", "pipelines", "benchmarks", "tests", "docs")
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert trespasses(files) == []


def test_the_rule_sees_what_it_forbids(tmp_path: Path) -> None:
    """Otherwise a rule that detects nothing would always pass."""
    package = tmp_path / "famseg" / "models"
    package.mkdir(parents=True)
    (package / "_net.py").write_text(
        "from famseg.models._norms import norm\n"
        "from famseg.files._atomic import write_text\n"
        "from famseg.files import _json\n"
        "from famseg.files import write_bytes\n"
    )
    assert trespasses(tmp_path.rglob("*.py"), tmp_path) == [
        "famseg/models/_net.py: famseg.files._atomic.write_text",
        "famseg/models/_net.py: famseg.files._json",
    ]
