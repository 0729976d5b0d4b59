"""Names of subjects without personal data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

_PARTS = re.compile(r"[^a-z0-9]+")
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_TRIFLE = re.compile(r"[a-z]|[0-9]{1,2}")  # initials, house numbers: they identify nobody
_GERMAN = str.maketrans(
    {letter: base + "e" for letter, base in zip("äöüø", "aouo", strict=True)}
    | {"ß": "ss", "å": "aa"}
)
_LONG = 4  # shorter words match only whole words, since "Li" is part of many words


class PersonalWords:
    """Words from headers that must not appear in any output.

    Args:
        texts: Names, numbers, addresses and institutions as written in headers.
        dates: Dates as ``YYYYMMDD``; other notations are detected, too.
    """

    def __init__(self, texts: Iterable[str], dates: Iterable[str] = ()) -> None:
        words: set[str] = set()
        for text in texts:
            for spelling in _spellings(text):
                parts = [part for part in _PARTS.split(spelling) if part]
                words.add("".join(parts))
                if not _UID.fullmatch(spelling):
                    words.update(part for part in parts if not _TRIFLE.fullmatch(part))
        for date in dates:
            words.update(_ways_to_write(date.strip()))
        self.words = frozenset(words - {""})

    def in_text(self, text: str) -> bool:
        """Return whether a text contains any of the words.

        Example:
            >>> PersonalWords(["Müller^Eva"]).in_text("CT_mueller"), PersonalWords(
            ...     ["Li^An"]
            ... ).in_text("clinic")
            (True, False)
        """
        for spelling in _spellings(text):
            parts = {part for part in _PARTS.split(spelling) if part}
            squeezed = "".join(part for part in _PARTS.split(spelling))
            # "CT1an" must not hide "an", so letters and adjacent digits are separated, too.
            parts.update(re.findall(r"[a-z]+|[0-9]+", spelling))
            if any(w in parts or (len(w) >= _LONG and w in squeezed) for w in self.words):
                return True
        return False

    def masked(self, place: PurePosixPath) -> str:
        """Return a path with stars for each folder name that contains any of the words."""
        return "/".join("***" if self.in_text(part) else part for part in place.parts)


def _spellings(text: str) -> set[str]:
    """Return a text in lower case, once without accents and once with umlauts transliterated."""
    small = text.casefold()
    plain = unicodedata.normalize("NFKD", small).encode("ascii", "ignore").decode()
    written_out = unicodedata.normalize(
        "NFKD", unicodedata.normalize("NFC", text.lower()).translate(_GERMAN)
    )
    return {plain, written_out.encode("ascii", "ignore").decode()}


def _ways_to_write(date: str) -> set[str]:
    if not re.fullmatch(r"\d{8}", date):
        return set()
    year, month, day = date[:4], date[4:6], date[6:]
    return {
        *(year + month + day, day + month + year, month + day + year),
        *(year[2:] + month + day, day + month + year[2:], month + day + year[2:]),
    }
