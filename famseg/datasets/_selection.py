"""Selection of the subjects that are used, by flags and by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from famseg.datasets._manifest import SkullSubject
from famseg.messages import InputError, counted, listed, near

Flag = Literal[
    "cut_vault",
    "existing_defect",
    "metal",
    "streaks",
    "frame",
    "table",
    "second_head",
    "vessels",
    "alignment",
    "thin_bone",
    "implausible",
]
FLAGS: tuple[Flag, ...] = get_args(Flag)
"""Flags that ``famseg prepare`` assigns to subjects; ``docs/prepare.md`` explains them."""

NOT_TARGETS: tuple[Flag, ...] = ("cut_vault", "existing_defect")
"""Skulls with these flags are incomplete and not used as targets, unless they are included."""

Prefix = Literal["--", "data."]
"""Notation in messages: options of the command, or keys of a configuration."""

_EXCLUDED = "excluded in the manifest"
_LISTED = "on the list"


@dataclass(frozen=True)
class Selection:
    """The subjects of a data set that are used.

    Args:
        used: The used subjects; at least one.
        left_out: The reasons for each other subject, by id: its flags, or that it was left out by
            name.
        included: Flags of subjects that the manifest excludes although the caller includes them.
    """

    used: tuple[SkullSubject, ...]
    left_out: Mapping[str, tuple[str, ...]]
    included: tuple[str, ...] = ()

    def sentence(self, prefix: Prefix) -> str:
        """Return how many are left out, why, and how to use them; empty if all are used.

        Args:
            prefix: How options are written: ``--`` on the command line.
        """
        if not self.left_out:
            return ""
        total = len(self.used) + len(self.left_out)
        what = "is not used as a target" if len(self.left_out) == 1 else "are not used as targets"
        return (
            f"{len(self.left_out)} of {counted(total, 'subject')} {what}: "
            f"{_reasons(self.left_out)}.{_advice(self.left_out, prefix, self.included)}"
        )


def select_subjects(
    subjects: Sequence[SkullSubject],
    *,
    exclude: Collection[str] = (),
    include: Collection[str] = (),
    unwanted: Collection[str] = (),
    prefix: Prefix = "--",
) -> Selection:
    """Leave out subjects by their flags, by name, and those that the manifest excludes.

    Subjects with a cut vault or an existing defect are left out unless ``include`` names the flag:
    they are incomplete, and a network that learns from them learns to leave defects.

    Args:
        subjects: All of a data set.
        exclude: Flags; subjects with one of them are left out, too.
        include: Flags that do not exclude a subject, although they do by default.
        unwanted: Names of subjects to leave out.
        prefix: How options are written in messages.

    Returns:
        The subjects that are used, in the given order, and why the others are not.

    Raises:
        InputError: If a flag is unknown (neither of ``FLAGS`` nor a subject's), or both excluded
            and included, or if no subject is left.

    Example:
        >>> people = [SkullSubject("a", None, ""), SkullSubject("b", None, "", flags=("metal",))]
        >>> select_subjects(people, exclude=["metal"]).left_out
        {'b': ('metal',)}
    """
    known = dict.fromkeys((*FLAGS, *(flag for s in subjects for flag in s.flags)))
    faults = [*_unknown(f"{prefix}exclude", exclude, known)]
    faults += _unknown(f"{prefix}include", include, known)
    faults += [
        f"{prefix}include: {flag} is excluded by {prefix}exclude: name it in only one of them"
        for flag in include
        if flag in exclude
    ]
    if faults:
        raise InputError(*faults)
    reasons = {*NOT_TARGETS, *exclude} - set(include)
    left_out = {
        s.id: why for s in subjects if (why := tuple(_why(s, reasons, set(unwanted)))) != ()
    }
    used = tuple(s for s in subjects if s.id not in left_out)
    excluded = {flag for s in subjects if s.id in left_out and s.excluded for flag in s.flags}
    included = tuple(flag for flag in include if flag in excluded)
    if not used:
        raise InputError(
            f"no subject is left to use: {_reasons(left_out)}.{_advice(left_out, prefix, included)}"
        )
    return Selection(used, left_out, included)


def read_subject_list(path: Path, known: Iterable[str]) -> tuple[str, ...]:
    """Read names of subjects from a text file, one per line; empty lines are ignored.

    Args:
        path: The file; the report of ``famseg prepare`` offers such a list for download.
        known: Names of the existing subjects.

    Raises:
        InputError: If it cannot be read; one line for each unknown name.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not readable text in UTF-8 ({error})") from error
    names, there = {n: line.strip() for n, line in enumerate(lines, start=1)}, set(known)
    faults = []
    for number, name in names.items():
        if name and name not in there:
            meant = near(name, there)
            advice = f"did you mean {meant}?" if meant else "write one name per line"
            faults.append(f"{path}:{number}: there is no subject {name}: {advice}")
    if faults:
        raise InputError(*faults)
    return tuple(dict.fromkeys(name for name in names.values() if name))


def _unknown(where: str, flags: Iterable[str], known: Collection[str]) -> Iterator[str]:
    for flag in flags:
        if flag not in known:
            meant = near(flag, known)
            advice = f"did you mean {meant}?" if meant else f"there are {listed(known)}"
            yield f"{where}: there is no flag {flag!r}: {advice}"


def _why(subject: SkullSubject, reasons: Collection[str], unwanted: Collection[str]) -> list[str]:
    why = [flag for flag in subject.flags if flag in reasons]
    return [
        *why,
        *([_LISTED] if subject.id in unwanted else ()),
        *([_EXCLUDED] if subject.excluded else ()),
    ]


def _reasons(left_out: Mapping[str, Sequence[str]]) -> str:
    """Return the number of subjects left out for each reason; one subject may have several."""
    # Most subjects that the manifest excludes also have a flag, and are counted only once.
    reasons = ([r for r in why if r != _EXCLUDED] or why for why in left_out.values())
    counts = Counter(reason for why in reasons for reason in why)
    return ", ".join(
        f"{n} {reason}" if reason in (_LISTED, _EXCLUDED) else f"{n} with {reason}"
        for reason, n in counts.items()
    )


def _advice(left_out: Mapping[str, Sequence[str]], prefix: Prefix, included: Sequence[str]) -> str:
    """Return a sentence that says how to use the subjects that were not left out by name."""
    reasons = {reason for why in left_out.values() for reason in why}
    flags = ",".join(flag for flag in NOT_TARGETS if flag in reasons)
    steps = []
    if _EXCLUDED in reasons:
        wanted = ",".join(filter(None, (flags, *included)))
        steps.append("famseg split --force" + (f" --include {wanted}" if wanted else ""))
    if flags:
        steps.append(f"--include {flags}" if prefix == "--" else f"data.include=[{flags}]")
    others = reasons - {*NOT_TARGETS, _EXCLUDED}  # the user chose the others by name
    who = "them" if not others else f"those with {flags.replace(',', ' or ')}" if flags else "those"
    return f" To use {who}: {', then '.join(steps)}." if steps else ""
