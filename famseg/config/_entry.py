"""Values that remember where they were written, and how a file is laid over its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from famseg.messages import one_line

Key = tuple[str | int, ...]
"""The way from the top of a document to a value: keys of mappings and positions in lists."""


@dataclass(frozen=True)
class Place:
    """Where something is written.

    Args:
        source: The file as the user knows it, or ``command line``.
        line: The line, counted from 1; None where lines say nothing.
    """

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass
class Entry:
    """A value and its place; the items of a list and the values of a mapping are entries again.

    Args:
        value: The value, read as YAML.
        place: Where it was written.
        typed: The characters that stand on the command line for it; None if it is from a file.
        found: Why they are not YAML, which matters where the key expects no text.
    """

    value: dict[str, Entry] | list[Entry] | str | int | float | bool | None
    place: Place
    typed: str | None = None
    found: tuple[Fault, ...] = ()

    @property
    def keys(self) -> dict[str, Entry]:
        """The entries of a mapping; nothing where the value is none."""
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> object:
        """Return the value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def as_text(self) -> Entry:
        """Return what was typed as it stands, but for quotes around all of it."""
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
        """Return the faults of the values, at any depth, that could not be read."""
        below = self.value.values() if isinstance(self.value, dict) else ()
        return [*self.found, *(fault for entry in below for fault in entry.unread())]

    def walk(self, key: Key) -> Iterator[Entry]:
        """Yield this entry and those below it along ``key``, as far as they exist."""
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
    """Something to mend: where in the document, what is wrong and what to do."""

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
    """Return ``base`` with ``over`` laid on top; neither is changed.

    Mappings merge deeply; lists and scalars replace. A mapping of another ``kind`` replaces the
    one below it, whose keys belong to the old kind.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, entry in over.value.items():
        old = merged.get(key)
        merged[key] = entry if old is None or kinds_differ(old, entry) else merge(old, entry)
    return Entry(merged, over.place)


def kinds_differ(base: Entry, over: Entry) -> bool:
    """Return whether both are mappings with a ``kind``, and not the same one."""
    old, new = base.keys.get("kind"), over.keys.get("kind")
    return old is not None and new is not None and old.plain() != new.plain()
