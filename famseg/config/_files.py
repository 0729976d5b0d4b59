"""Search for configuration files, and reading of their text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from famseg.config._yaml import MAX_CHARACTERS
from famseg.files import open_to_read
from famseg.messages import InputError, listed, near, one_line

_SUFFIXES = ("", ".yaml", ".yml")


def find_config(name: str) -> Path:
    """Return the file of a configuration.

    It is searched for in this order: ``name`` as a path, ``configs/`` below the working folder, the
    configurations shipped with famseg. The suffix may be left out, as may ``configs/`` before the
    name of a shipped configuration.

    Args:
        name: A path or the name of a configuration: ``skull``, ``skull.yaml``,
            ``configs/skull.yaml``, ``smoke/skull``.

    Returns:
        The path of a file that exists.

    Raises:
        InputError: If there is none, with near names and the folders searched.

    Example:
        >>> find_config("smoke/skul")
        Traceback (most recent call last):
        famseg.messages._errors.InputError: smoke/skul: there is no such configuration. ...
    """
    found = search(name)
    if found is None:
        raise InputError(not_found(name))
    return found


def search(name: str, *, beside: Path | None = None) -> Path | None:
    """Return the file of the configuration ``name``, or None.

    Args:
        name: As in :func:`find_config`.
        beside: The file that extends ``name``: its folder is searched first, and the file itself is
            skipped, so that a user's ``skull.yaml`` can extend the shipped one.
    """
    if not name.strip():
        return None
    folders = [Path(), Path("configs"), shipped_folder()]
    if beside is not None:
        folders.insert(0, beside.parent)
    inside = name.removeprefix("configs/")
    candidates = [folder / name for folder in folders] + [shipped_folder() / inside]
    for candidate in candidates:
        for suffix in _SUFFIXES:
            path = Path(os.path.normpath(f"{candidate}{suffix}"))
            if _is_file(path) and not (beside is not None and same_file(path, beside)):
                return path
    return None


_MANY = 20


def shipped_folder() -> Path:
    """Return the folder of the configurations that come with famseg."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_configs"  # the wheel contains configs/ of the repository here
    return installed if installed.is_dir() else package.parent / "configs"


def not_found(name: str) -> str:
    """Return the message for an unknown name."""
    if not name.strip():
        return "the name of the configuration is empty. Give a file."
    if _is_folder(Path(name)):
        return f"{one_line(name)}: is a folder. Give the file in it."
    known = _known()
    inside = name.removeprefix("configs/")
    # Without the suffix, which would make any two names similar.
    meant = near(inside.removesuffix(".yaml"), [each.removesuffix(".yaml") for each in known])
    ending = ".yaml" if inside.endswith(".yaml") else ""
    advice = f"Did you mean {meant}{ending}?" if meant else f"Known: {listed(_shortened(known))}."
    return (
        f"{one_line(name)}: there is no such configuration. {advice} Looked in the working folder, "
        f"in configs/ below it and in {shipped_folder()}."
    )


def _shortened(known: Sequence[str]) -> list[str]:
    """Return names for a message; if there are many, folders are summarized by their number."""
    if len(known) <= _MANY:
        return list(known)
    folders = Counter(name.partition("/")[0] for name in known if "/" in name)
    single = [name for name in known if "/" not in name]
    return [*single, *(f"{folder}/... ({n})" for folder, n in folders.items())]


def read_text(path: Path) -> str:
    """Return the text of a configuration.

    Raises:
        InputError: If it is not a regular file (reading a pipe would wait), cannot be read or is
            not UTF-8.
    """
    try:
        with open_to_read(path) as file:
            data = file.read(4 * MAX_CHARACTERS + 1)  # UTF-8 uses at most four bytes per character
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}. Check the path and its permissions."
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) > 4 * MAX_CHARACTERS:  # truncated within a character
            return data.decode("utf-8-sig", errors="replace")
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 text. Save the file as UTF-8.") from error


def shown(path: Path) -> str:
    """Return ``path`` in the form known to users: as given, or relative to the working folder."""
    if path.is_absolute():
        try:
            return str(path.relative_to(Path.cwd()))
        except (ValueError, OSError):
            return str(path)
    return str(path)


def same_file(one: Path, other: Path) -> bool:
    """Return whether both paths refer to the same file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _known() -> list[str]:
    """Return the names of the configurations that can be found by name."""
    names: set[str] = set()
    for folder in (Path("configs"), shipped_folder()):
        names |= {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
    return sorted(names)


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()  # pipes and devices are refused when reading
    except (OSError, ValueError):  # no permission, a name too long, a NUL in it
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
