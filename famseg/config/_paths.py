"""Paths in configurations: expansion of the home folder and of environment variables."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expanded(path: str) -> str:
    """Return a path with ``~`` and ``${VARIABLE}`` expanded.

    Raises:
        ValueError: If a variable is not set.

    Example:
        >>> os.environ["FAMSEG_EXAMPLE"] = "/data"
        >>> expanded("${FAMSEG_EXAMPLE}/skulls")
        '/data/skulls'
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise ValueError(f"the environment variable {match[1]} is not set. Set it.")
        return found

    return os.path.expanduser(_VARIABLE.sub(value, path))  # noqa: PTH111  # the user's own spelling


PathText = Annotated[str, AfterValidator(expanded)]
"""The type of a key that holds a path."""
