"""Names of subjects without personal data."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

_PARTS = re.compile(r"[^a-z0-9]+")
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_TRIFLE = re.compile(r"[a-z]|[0-9]{1,2}")  # an initial, the number of a house: parts say nothing
_GERMAN = str.maketrans(
    {letter: base + "e" for letter, base in zip("äöüø", "aouo", strict=True)}
    | {"ß": "ss", "å": "aa"}
)
_LONG = 4  # shorter words count only where they stand alone: "Li" is part of many words


class PersonalWords:
    """Words of headers that must not appear in anything that is written.

    Args:
        texts: Names, numbers, addresses, institutions as they are in headers.
        dates: Dates as ``YYYYMMDD``; other ways to write them are looked for, too.
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
        """Say whether a text holds any of the words.

        Example:
            >>> PersonalWords(["Müller^Eva"]).in_text("CT_mueller"), PersonalWords(
            ...     ["Li^An"]
            ... ).in_text("clinic")
            (True, False)
        """
        for spelling in _spellings(text):
            parts = {part for part in _PARTS.split(spelling) if part}
            squeezed = "".join(part for part in _PARTS.split(spelling))
            # "CT1an" must not hide "an": letters and digits that touch are parted, too.
            parts.update(re.findall(r"[a-z]+|[0-9]+", spelling))
            if any(w in parts or (len(w) >= _LONG and w in squeezed) for w in self.words):
                return True
        return False

    def masked(self, place: PurePosixPath) -> str:
        """Return a place with stars for each folder whose name holds any of the words."""
        return "/".join("***" if self.in_text(part) else part for part in place.parts)


def _spellings(text: str) -> set[str]:
    """Return a text in small letters, accents dropped, and umlauts written out."""
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
