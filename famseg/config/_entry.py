"""Values with their place in a file, and the merging of a file into its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from famseg.messages import one_line

Key = tuple[str | int, ...]
"""The path from the top of a document to a value: keys of mappings and positions in lists."""


@dataclass(frozen=True)
class Place:
    """The place where a value is written.

    Args:
        source: The name of the file known to the user, or ``command line``.
        line: The line, counted from 1; None on the command line.
    """

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass
class Entry:
    """A value with its place; list items and values of mappings are entries, too.

    Args:
        value: The value, read as YAML.
        place: Where it was written.
        typed: Its text on the command line; None if it is from a file.
        found: Why the text is not valid YAML, which matters unless the key expects a text.
    """

    value: dict[str, Entry] | list[Entry] | str | int | float | bool | None
    place: Place
    typed: str | None = None
    found: tuple[Fault, ...] = ()

    @property
    def keys(self) -> dict[str, Entry]:
        """The entries of a mapping; empty for other values."""
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> object:
        """Return the value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def as_text(self) -> Entry:
        """Return the typed text without enclosing quotes."""
        text = self.typed
        if text is None:
            return self
        if (
            isinstance(self.value, str)
            and len(text) > 1
            and text[0] == text[-1]
            and text[0] in "'\""
        ):
            text = self.value
        return Entry(text, self.place)

    def unread(self) -> list[Fault]:
        """Return the errors of values, at any depth, that could not be read."""
        below = self.value.values() if isinstance(self.value, dict) else ()
        return [*self.found, *(fault for entry in below for fault in entry.unread())]

    def walk(self, key: Key) -> Iterator[Entry]:
        """Yield this entry and the existing ones below it along ``key``."""
        entry = self
        yield entry
        for part in key:
            inner = entry.value
            if isinstance(inner, dict):
                following = inner.get(str(part))
            elif isinstance(inner, list) and isinstance(part, int) and part < len(inner):
                following = inner[part]
            else:
                following = None
            if following is None:
                return
            entry = following
            yield entry


@dataclass(frozen=True)
class Fault:
    """An error in a document: where it is, what is wrong and what to do."""

    place: Place
    key: Key
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), dotted(self.key), self.message) if part)


def dotted(key: Key) -> str:
    """Return ``key`` as users write it.

    Example:
        >>> dotted(("model", "channels", 1))
        'model.channels[1]'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return one_line(text.removeprefix("."))


def merge(base: Entry, over: Entry) -> Entry:
    """Return ``over`` merged into ``base``; neither is changed.

    Mappings are merged deeply; lists and scalars are replaced. A mapping of another ``kind``
    replaces the one in the base, whose keys belong to the old kind.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, entry in over.value.items():
        old = merged.get(key)
        merged[key] = entry if old is None or kinds_differ(old, entry) else merge(old, entry)
    return Entry(merged, over.place)


def kinds_differ(base: Entry, over: Entry) -> bool:
    """Return whether both are mappings with a ``kind``, and the kinds differ."""
    old, new = base.keys.get("kind"), over.keys.get("kind")
    return old is not None and new is not None and old.plain() != new.plain()
