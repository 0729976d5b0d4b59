"""Similar names for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the name in ``known`` that ``name`` most likely means, or None.

    A unique prefix, or initials (``lr``), take precedence over similarity.

    Args:
        name: What was written.
        known: The valid names.
        cutoff: The required similarity, from 0 (none) to 1 (equal except for case).

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
    """Return names as a list in a sentence.

    Example:
        >>> listed(["skull", "language"])
        'skull, language'
        >>> listed([])
        'none'
    """
    return ", ".join(names) or "none"
