"""JSON files: safe reading of untrusted ones, with one-line errors, and atomic writing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from famseg.files._atomic import open_to_read, write_atomically
from famseg.messages import InputError, visible

MAX_BYTES = 64 * 2**20
"""Largest size of a file; the largest one in use, a summary of cases, has some hundred KiB."""


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: The file.
        advice: A sentence that says what to do if it cannot be used.

    Returns:
        The object as a dictionary; all numbers are finite.

    Raises:
        InputError: If it is missing, not a regular file, too large, not JSON or nested too deeply,
            contains a number that is not finite (``NaN``, ``1e999``), or is not an object.
    """
    try:
        with open_to_read(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). {advice}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: cannot be read (more than {MAX_BYTES} bytes). {advice}")
    try:
        content = parse_json(data)
    except ValueError as error:
        reason = visible(str(error).partition("\n")[0])[:200]
        raise InputError(f"{path}: cannot be read ({reason}). {advice}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must contain a JSON object. {advice}")
    return content


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  # any JSON value
    """Return the value of a JSON text.

    Raises:
        ValueError: If it is not JSON in UTF-8, is nested too deeply, or contains a number that is
            not finite.

    Example:
        >>> parse_json('{"loss": 1e999}')
        Traceback (most recent call last):
        ValueError: 1e999 is not a finite number
    """
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refused(text)
    return value


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not a finite number")


def write_json(path: Path, content: object) -> None:
    """Write a JSON file so that a kill leaves either the old file or the new one.

    Args:
        path: The file.
        content: What JSON can hold; not finite floats are an error.

    Raises:
        ValueError: If a float in it is not finite.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"seed": 0})
        >>> json.loads(path.read_text())
        {'seed': 0}
    """
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(Path(path), f"{text}\n".encode())
