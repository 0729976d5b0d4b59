"""Grouping of subjects by person: by hashed header values, or by a pattern in their paths."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from famseg.messages import InputError
from famseg.preparation._types import Identity, Source
from famseg.preparation.sources._items import fit_name

_SALT_BYTES = 32
_AUTOMATIC = re.compile(r"person_[0-9a-f]{12}")
_ORDER = ("patient", "study", "frame")  # the first one present names the group
# Placeholders for a removed ID, as lower-case letters and digits only.
_NOBODY = re.compile(
    r"0*|x+|(de)?id(entified)?|anon\w{0,10}|none|null|na|nil|unknown|removed|nopatientid|noid|"
    r"patient(id)?|subject|test|phantom|default|empty|id|unnamed"
)
_STANDARD_FRAMES = "1.2.840.10008."  # well-known frames such as atlases, which many people share


def identity_of(patient: str, study: str, frame_of_reference: str) -> Identity:
    """Return the identifiers that link the scans of one person.

    Placeholders for removed IDs (``anonymous``, ``0``) and well-known frames of reference, such as
    an atlas, do not identify a person and are ignored.

    Args:
        patient: PatientID in the header; like the others, empty if it is missing.
        study: StudyInstanceUID.
        frame_of_reference: FrameOfReferenceUID.

    Example:
        >>> identity_of("Anonymous", "1.2.3", "1.2.840.10008.1.4.1.1")
        (('study', '1.2.3'),)
    """
    if _NOBODY.fullmatch(re.sub(r"[^a-z0-9]+", "", patient.casefold())):
        patient = ""
    if frame_of_reference.startswith(_STANDARD_FRAMES):
        frame_of_reference = ""
    values = (patient.strip(), study.strip(), frame_of_reference.strip())
    return tuple((kind, value) for kind, value in zip(_ORDER, values, strict=True) if value)


def compiled(pattern: str | None, sources: Sequence[Source]) -> re.Pattern[str] | None:
    """Return the pattern that groups subjects by their paths.

    Raises:
        InputError: If it is not a regular expression, or no path matches it.
    """
    if pattern is None:
        return None
    try:
        compiled_pattern = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"--group-by {pattern!r}: is not a regular expression ({error}): give the part that "
            "the paths of a person's scans have in common, such as 'sub-[0-9]+'"
        ) from None
    if sources and not any(_by_path(s.origin, compiled_pattern) for s in sources):
        raise InputError(
            f"--group-by {pattern!r}: matches none of the {len(sources)} paths below the source, "
            f"such as {sources[0].origin!r}: give the part that the paths of a person's scans have "
            "in common"
        )
    return compiled_pattern


def group_labels(
    sources: Iterable[tuple[str, str, Identity]],
    salt: bytes,
    pattern: re.Pattern[str] | None,
    given: Mapping[str, str],
) -> dict[str, str]:
    """Return the group of each subject; the subjects of a group are one person.

    Two subjects are one person if they share the patient ID, the study, the frame of reference or
    the text that the pattern matches in their paths, directly or through other subjects. A group
    that was set by hand is kept, and subjects linked to it but to no other group join it.

    Args:
        sources: Subject, origin and identity of each.
        salt: Key of the hashes.
        pattern: Pattern for origins; compared is the text of its groups, or of the whole match
            without groups.
        given: Existing groups of subjects.

    Returns:
        The group by subject: the one set by hand, else the text that the pattern matched, else
        ``person_`` and twelve digits of a keyed hash of the first of patient ID, study and frame
        that is known. Subjects without any of these have no group.
    """
    tokens = {
        subject: _tokens(origin, identity, salt, pattern) for subject, origin, identity in sources
    }
    labels: dict[str, str] = {}
    for members in _together(tokens):
        automatic = min((t for m in members for t in tokens[m]), default=("", ""))[1]
        by_hand = {given[m] for m in members if _set_by_hand(given.get(m, ""))}
        joined = by_hand.pop() if len(by_hand) == 1 else automatic
        for member in members:
            own = given.get(member, "")
            labels[member] = own if _set_by_hand(own) else joined
    return {subject: label for subject, label in labels.items() if label}


def read_salt(path: Path) -> bytes:
    """Return the salt of a folder, which is created if it does not exist.

    Without the salt, an ID cannot be recovered from its hash by trying all IDs. It stays in the
    folder and is readable only by its owner.

    Raises:
        InputError: If the file exists but is damaged.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            salt = bytes.fromhex(path.read_text().strip())
        except (OSError, ValueError):
            salt = b""
        if len(salt) < _SALT_BYTES:
            raise InputError(
                f"{path}: is damaged: remove it; groups are then hashed again at the next run"
            ) from None
        return salt
    salt = secrets.token_bytes(_SALT_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(salt.hex() + "\n")
    return salt


def _set_by_hand(label: str) -> bool:
    return bool(label) and not _AUTOMATIC.fullmatch(label)


def _tokens(
    origin: str, identity: Identity, salt: bytes, pattern: re.Pattern[str] | None
) -> list[tuple[int, str]]:
    """Return the identifiers of a subject's person, those that best name a group first."""
    found = _by_path(origin, pattern) if pattern else ""
    by_path = [(0, found)] if found else []
    return by_path + [
        (1 + _ORDER.index(kind), f"person_{_hash(kind, value, salt)}") for kind, value in identity
    ]


def _hash(kind: str, value: str, salt: bytes) -> str:
    return hmac.new(salt, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:12]


def _by_path(origin: str, pattern: re.Pattern[str]) -> str:
    """Return the text that a pattern matches in a path; nothing if parts of it are masked."""
    match = pattern.search(origin) if "***" not in origin else None
    if match is None:
        return ""
    parts = [part for part in match.groups() if part] or [match.group()]
    return fit_name("_".join(parts)) if any(parts) else ""


def _together(tokens: Mapping[str, Sequence[tuple[int, str]]]) -> list[list[str]]:
    """Return the subjects in groups of those that share a token, directly or through others."""
    first: dict[tuple[int, str], str] = {}
    leader = linked(
        (first.setdefault(token, subject), subject)
        for subject, own in tokens.items()
        for token in own
    )
    members: dict[str, list[str]] = defaultdict(list)
    for subject in tokens:
        members[leader.get(subject, subject)].append(subject)
    return list(members.values())


def linked(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the representative of each name among all names that are linked.

    Example:
        >>> linked([("a", "b"), ("b", "c"), ("x", "y")])
        {'a': 'a', 'b': 'a', 'c': 'a', 'x': 'x', 'y': 'x'}
    """
    stands: dict[str, str] = {}

    def leader(name: str) -> str:
        while stands.setdefault(name, name) != name:
            name = stands[name]
        return name

    for pair in pairs:
        first, second = sorted((leader(pair[0]), leader(pair[1])))
        stands[second] = first
    return {name: leader(name) for name in sorted(stands)}
