"""A configuration as written: the files that extend each other, and the overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from famseg.config import _files
from famseg.config._check import check
from famseg.config._complete import complete, settle_lambda
from famseg.config._entry import Entry, Fault, Key, Place, dotted, merge
from famseg.config._strict import Strict
from famseg.config._yaml import UnreadableError, parse, parse_value
from famseg.messages import InputError, one_line

T = TypeVar("T", bound=Strict)

COMMAND_LINE = Place("command line")
_MAX_FILES = 32
_OVERRIDE_KEY = re.compile(r"[^\s.=]+(\.[^\s.=]+)*")


@dataclass(frozen=True)
class Document:
    """A configuration before it is checked against the sections of a pipeline.

    Args:
        name: The name of the file known to the user, for messages.
        files: The file, followed by those it extends.
        root: All values, each with its place in a file.
        faults: The errors found so far, which :meth:`validate` reports together with its own.
    """

    name: str
    files: tuple[Path, ...]
    root: Entry
    faults: tuple[Fault, ...] = ()

    @property
    def values(self) -> dict[str, object]:
        """The merged mapping: plain dicts, lists and scalars."""
        return {key: entry.plain() for key, entry in self.root.keys.items()}

    def where(self, *key: str | int) -> Place:
        """Return the place of ``key``, or else that of its section."""
        return list(self.root.walk(key))[-1].place

    def validate(self, config: type[T]) -> T:
        """Return the checked configuration.

        A partial section is completed from the default of its field in ``config``.

        Args:
            config: The section that describes a whole document.

        Raises:
            InputError: With every error of the document, one line each: ``skull.yaml:12:
                penalty.weihgt: unknown key (did you mean penalty.lambda?)``. Checks across sections
                run only if each section is valid by itself.
        """
        root, faults = settle_lambda(complete(self.root, config))
        unread = root.unread()
        result, found = check({key: entry.plain() for key, entry in root.keys.items()}, config)
        faults += unread
        faults += [
            Fault(self.where(*key), key, message)
            for key, message in found
            if not any(fault.key[: len(key)] == key for fault in unread)
        ]
        if result is None or faults or self.faults:
            raise self._error(faults)
        return result

    def fault(self, message: str, *key: str | int) -> InputError:
        """Return an error for ``key`` together with the errors found so far."""
        return self._error([Fault(self.where(*key), key, message)])

    def _error(self, faults: list[Fault]) -> InputError:
        files = [_files.shown(path) for path in self.files]

        def order(fault: Fault) -> tuple[int, int]:
            source = fault.place.source
            rank = files.index(source) if source in files else len(files)
            return rank, fault.place.line or 0

        lines = [str(fault) for fault in sorted([*self.faults, *faults], key=order)]
        return InputError(*dict.fromkeys(lines))


def read(name: str, overrides: Sequence[str] = ()) -> Document:
    """Read a configuration, the files it extends and the overrides of the command line.

    ``extends: FILE`` merges the file into another one: mappings are merged deeply, lists and
    scalars are replaced, and a mapping of another ``kind`` replaces the one in the base. At the top
    level, ``lambda`` is short for ``penalty.lambda``.

    Args:
        name: A path or a name, see :func:`find_config`.
        overrides: Texts ``key=value`` with dotted keys (``training.epochs=5``) and values in YAML
            (``model.channels=[8,16]``), which are taken literally if the key expects a text; of two
            for one key, the last one applies.

    Raises:
        InputError: If a file is not found or not readable as YAML, or an override is not
            ``key=value``. :meth:`Document.validate` reports errors that leave the rest readable.
    """
    faults: list[Fault] = []
    files: list[Path] = []
    root = _read_chain(_files.find_config(name), files, faults)
    name = _files.shown(files[0])
    over = _read_overrides(overrides, faults)
    _refuse_list_positions(root, over, (), faults)
    root = merge(root, over)
    root.place = Place(name)
    return Document(name, tuple(files), root, tuple(faults))


def _read_chain(path: Path, files: list[Path], faults: list[Fault]) -> Entry:
    """Return the file at ``path`` merged into the files it extends, and record the files read."""
    files.append(path)
    name = _files.shown(path)
    root, found = parse(_files.read_text(path), name)
    faults.extend(found)
    if not isinstance(root.value, dict):
        what = "a list" if isinstance(root.value, list) else "a single value"
        raise InputError(f"{name}: contains {what}. Write keys with values ('key: value').")
    base_name = root.value.pop("extends", None)
    _expand_lambda(root, faults)
    if base_name is None:
        return root

    def refuse(message: str) -> InputError:
        return InputError(*map(str, [*faults, Fault(base_name.place, ("extends",), message)]))

    if not isinstance(base_name.value, str) or not base_name.value.strip():
        raise refuse("must be the name of a single file.")
    base = _files.search(base_name.value, beside=path)
    if base is None:
        raise refuse(_files.not_found(base_name.value))
    if any(_files.same_file(base, each) for each in files) or len(files) == _MAX_FILES:
        chain = " -> ".join(_files.shown(each) for each in [*files, base])
        raise refuse(f"the files extend each other in a circle: {one_line(chain)}.")
    return merge(_read_chain(base, files, faults), root)


def _read_overrides(overrides: Sequence[str], faults: list[Fault]) -> Entry:
    """Return the overrides as one document."""
    root = Entry({}, COMMAND_LINE)
    for text in overrides:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not _OVERRIDE_KEY.fullmatch(name):
            message = f"'{one_line(text)}' is not of the form key=value, such as seed=1."
            faults.append(Fault(COMMAND_LINE, (), message))
            continue
        key = tuple(name.split("."))
        if key[0] == "extends":
            faults.append(Fault(COMMAND_LINE, key, "can only be given in a file."))
            continue
        try:
            entry = parse_value(value, key)
        except UnreadableError as error:
            faults.extend(error.found)
            continue
        _put(root, key, entry, faults)
    _expand_lambda(root, faults)
    return root


def _put(root: Entry, key: Key, entry: Entry, faults: list[Fault]) -> None:
    """Set ``key`` below ``root`` and create missing sections."""
    section = root
    for depth, part in enumerate(key, start=1):
        old = section.keys.get(str(part))
        last = depth == len(key)
        if old is not None and isinstance(old.value, dict) != (not last or bool(entry.keys)):
            message = f"{dotted(key[:depth])} is given as a section and as a value. Keep one."
            faults.append(Fault(COMMAND_LINE, key, message))
            return
        if last:
            section.keys[str(part)] = entry if old is None else merge(old, entry)
        else:
            section = section.keys.setdefault(str(part), Entry({}, COMMAND_LINE))


def _expand_lambda(root: Entry, faults: list[Fault]) -> None:
    """Move a top-level ``lambda`` to ``penalty.lambda``."""
    weight = root.keys.pop("lambda", None)
    if weight is None:
        return
    penalty = root.keys.setdefault("penalty", Entry({}, weight.place))
    if not isinstance(penalty.value, dict):
        return  # validation will report that the penalty is not a section
    if "lambda" in penalty.value:
        message = "is short for penalty.lambda, which is given as well. Keep one of them."
        faults.append(Fault(weight.place, ("lambda",), message))
        return
    penalty.value["lambda"] = weight


def _refuse_list_positions(base: Entry, over: Entry, key: Key, faults: list[Fault]) -> None:
    """Report overrides of single list items, which would replace the list by a section."""
    if isinstance(base.value, list) and over.keys and all(map(str.isdecimal, over.keys)):
        whole = f"Give the whole list: {dotted(key)}=[...]."
        message = f"a single item of a list cannot be changed. {whole}"
        faults.append(Fault(COMMAND_LINE, (*key, *list(over.keys)[:1]), message))
        over.value, over.place = base.value, base.place
    for name, entry in over.keys.items():
        if name in base.keys:
            _refuse_list_positions(base.keys[name], entry, (*key, name), faults)
