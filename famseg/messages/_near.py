"""Near names for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the name of ``known`` that ``name`` was most likely meant to be, None if no one is.

    The beginning of one name alone, or its initials (``lr``), count before likeness.

    Args:
        name: What was written.
        known: What could have been written.
        cutoff: How alike the two must be, from 0 (not at all) to 1 (the same but for capitals).

    Example:
        >>> near("Weihgt", ["weight", "height", "layer"])
        'weight'
        >>> near("lr", ["learning_rate", "decay"]), near("relative", ["relative_flatness", "none"])
        ('learning_rate', 'relative_flatness')
    """
    by_folded = {candidate.casefold(): candidate for candidate in known}
    folded = name.casefold()[:200]
    short_for = [each for each in by_folded if each.startswith(folded) or _initials(each) == folded]
    if len(folded) > 1 and len(short_for) == 1:
        return by_folded[short_for[0]]
    found = get_close_matches(folded, by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def listed(names: Iterable[str]) -> str:
    """Return names as a list to read.

    Example:
        >>> listed(["skull", "language"])
        'skull, language'
        >>> listed([])
        'none'
    """
    return ", ".join(names) or "none"
