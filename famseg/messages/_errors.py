"""The two errors that users see: wrong input, and a failed run."""

from __future__ import annotations

import struct
import zlib


class InputError(Exception):
    """Input that the user has to fix: a configuration, a file, a folder, an argument.

    The command prints one line per error and ends with exit status 2, without a traceback.

    Args:
        *faults: One line each: where it is wrong, what is wrong and what to do.

    Example:
        >>> error = InputError("a.yaml:3: seed: -1 is negative. Give 0 or more.", "b.nii.gz: empty")
        >>> len(error.faults)
        2
        >>> print(error)
        a.yaml:3: seed: -1 is negative. Give 0 or more.
        b.nii.gz: empty
    """

    def __init__(self, *faults: str) -> None:
        self.faults = tuple(dict.fromkeys(faults))  # one line for an error that many files share
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, ...]]:
        # Between processes, an exception is recreated from its text, which would join the errors.
        return InputError, self.faults


class RunError(Exception):
    """A run that failed although its input is correct: a training that diverged.

    The command prints the message, one line, and ends with exit status 1.
    """


DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    RecursionError,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Exceptions of third-party parsers for damaged or malicious bytes, without a specific type.

Use it only around calls of third-party parsers: around our own code it would hide bugs.
"""
