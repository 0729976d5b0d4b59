"""Reading of numbers from headers, which hold one value, several, or none."""

from __future__ import annotations

from typing import Any

from pydicom.multival import MultiValue


def numbers(value: object, count: int) -> tuple[float, ...] | None:
    """Return the numbers in a header value, or None if there are not as many as expected."""
    try:
        found = tuple(float(x) for x in as_list(value))
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(abs(x) < 1e7 for x in found) else None


def as_list(value: object) -> list[Any]:
    """Return the value of a header as a list, which may be empty."""
    if isinstance(value, list | tuple | MultiValue):
        return list(value)
    return [] if value is None else [value]
