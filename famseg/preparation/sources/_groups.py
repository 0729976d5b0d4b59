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
_ORDER = ("patient", "study", "frame")  # the first existing one names the group
# What stands for "removed" in place of an ID, small letters and digits only.
_NOBODY = re.compile(
    r"0*|x+|(de)?id(entified)?|anon\w{0,10}|none|null|na|nil|unknown|removed|nopatientid|noid|"
    r"patient(id)?|subject|test|phantom|default|empty|id|unnamed"
)
_STANDARD_FRAMES = "1.2.840.10008."  # atlases, which many people share


def identity_of(patient: str, study: str, frame_of_reference: str) -> Identity:
    """Return the identifiers by which scans of one person are linked.

    IDs that stand for "removed" (``anonymous``, ``0``) and frames of reference of the standard,
    such as an atlas, are of nobody and are left out.

    Args:
        patient: PatientID of the header; an empty text for each that it does not have.
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
        InputError: If it is not a regular expression, or no path has it.
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
    """Return the group of each subject; subjects of one group are one person.

    Two subjects are one person if they share the ID of the patient, the study or the frame of
    reference, or what the pattern finds in their paths; so are those that a third one links. A
    group that somebody set by hand stays, and subjects that are linked to no other join it.

    Args:
        sources: Subject, origin and identity of each.
        salt: Key of the hashes.
        pattern: What to find in an origin: the text of its groups, else of the whole match.
        given: Groups that subjects had before.

    Returns:
        The group by subject: what was set by hand, else what the pattern found, else ``person_``
        and twelve digits of a keyed hash of the ID of the patient (of the study, of the frame,
        if there is none before it). Subjects that nothing is known of have none.
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
    """Return the salt of a folder, and make it if there is none.

    Without it, nobody can find the ID of a hash by trying. It stays in the folder, readable only to
    its owner.

    Raises:
        InputError: If the file is there and is damaged.
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
    """Return the identifiers of a subject's person, the best name for the group first."""
    found = _by_path(origin, pattern) if pattern else ""
    by_path = [(0, found)] if found else []
    return by_path + [
        (1 + _ORDER.index(kind), f"person_{_hash(kind, value, salt)}") for kind, value in identity
    ]


def _hash(kind: str, value: str, salt: bytes) -> str:
    return hmac.new(salt, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()[:12]


def _by_path(origin: str, pattern: re.Pattern[str]) -> str:
    """Return what a pattern finds in a path; nothing where parts of it are hidden."""
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
