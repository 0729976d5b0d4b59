"""Counted nouns in messages: 1 sample, 2 samples."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, which is singular for 1.

    Args:
        n: The number.
        noun: The noun in the singular.
        plural: Its plural; None appends an s.

    Example:
        >>> counted(1, "sample"), counted(0, "sample"), counted(2, "batch", "batches")
        ('1 sample', '0 samples', '2 batches')
    """
    return f"{n} {noun if n == 1 else plural or f'{noun}s'}"
