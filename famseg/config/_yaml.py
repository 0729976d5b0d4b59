"""Parsing of YAML text into entries: safe, bounded, with line numbers.

PyYAML follows YAML 1.1: it reads ``1e-4`` as text and ``no`` as false, and silently accepts
repeated keys. Only its parser is used here; the values are converted below by the core schema of
YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema).

ruamel.yaml 0.19 would not shorten this: it follows YAML 1.2, but also reads ``2026-01-01`` as a
date, ``0b11`` and ``1_000`` as numbers, merge keys and an alias that contains itself. Line numbers
of values and messages for all repeated keys need the same builder on its nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import yaml

from famseg.config._entry import Entry, Fault, Key, Place
from famseg.messages import InputError

MAX_CHARACTERS = 256 * 1024
_MAX_VALUES = 20_000  # after aliases are expanded, since a few lines of them can mean billions
_MAX_DEPTH = 32
_MAX_DIGITS = 400  # more than in any float; very long numbers are slow to convert

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")

_HINTS = {
    "mapping values are not allowed here": (
        "Check the indentation, and put quotes around a text that contains ': '."
    ),
    "cannot start any token": "Put quotes around the text.",
    "unexpected end of stream": "Is a closing quote missing?",
    "found undefined alias": "A text that starts with * needs quotes.",
    "scanning an alias": "A text that starts with * needs quotes.",
    "scanning an anchor": "A text that starts with & needs quotes.",
    "another document": "Remove the second '---'.",
    "could not find expected ':'": "Write 'key: value', with a space after the colon.",
}


class UnreadableError(InputError):
    """A text is not YAML in the form used by configurations."""

    def __init__(self, *found: Fault) -> None:
        super().__init__(*map(str, found))
        self.found = found


def parse(text: str, source: str) -> tuple[Entry, list[Fault]]:
    """Read one YAML document.

    Args:
        text: The document.
        source: The name of the file, for messages.

    Returns:
        The document, and the errors that leave the rest of it readable (repeated keys).

    Raises:
        UnreadableError: If the text is not one safe YAML document of moderate size.
    """
    if len(text) > MAX_CHARACTERS:
        size = f"more than {MAX_CHARACTERS // 1024} KiB, too large. Is this a configuration?"
        raise UnreadableError(Fault(Place(source), (), size))
    with _faults_of(Place(source), text):
        node = yaml.compose(text, Loader=_Loader)
    if node is None:
        empty = "empty. Write at least 'pipeline: NAME' or 'extends: FILE'."
        raise UnreadableError(Fault(Place(source), (), empty))
    builder = _Builder(source)
    return builder.build(node, ()), builder.faults


def parse_value(text: str, key: Key) -> Entry:
    """Read a value of the command line by the rules of files, and keep the typed text.

    The type of the key later determines which of the two is used. A text that starts with a YAML
    indicator without meaning here (``*.nii.gz``, ``&``, ``!``, ``%``, ``@``, a backtick) is taken
    literally.

    Raises:
        UnreadableError: If the text is too long, or has invalid characters.
    """
    if len(text) > MAX_CHARACTERS or _UNUSABLE.search(text):
        return _yaml_value(text, key)
    try:
        return replace(_yaml_value(text, key), typed=text)
    except UnreadableError as error:
        return Entry(text, Place("command line"), typed=text, found=error.found)


def _yaml_value(text: str, key: Key) -> Entry:
    place = Place("command line")
    if text.startswith(("*", "&", "!", "%", "@", "`")) and not _UNUSABLE.search(text):
        return Entry(text, place)
    if len(text) > MAX_CHARACTERS:
        raise UnreadableError(Fault(place, key, "the value is too long. Write it into a file."))
    with _faults_of(place, text, key):
        node = yaml.compose(text, Loader=_Loader)
    if node is None:
        return Entry(None, place)
    builder = _Builder(place.source, lines=False)
    entry = builder.build(node, key)
    if builder.faults:
        raise UnreadableError(*builder.faults)
    return entry


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that is not allowed in a configuration."""


class _Loader(yaml.SafeLoader):
    """PyYAML's composer without tags and with a limit on the depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _Refused(
                problem="tags ('!...') are not allowed. Put quotes around a text that starts "
                "with '!'.",
                problem_mark=event.start_mark,
            )
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Refused(
                problem=f"nested more than {_MAX_DEPTH} levels deep. Flatten it.",
                problem_mark=event.start_mark,
            )
        node = super().compose_node(parent, index)  # type: ignore[arg-type]
        self.depth -= 1
        return node


@contextmanager
def _faults_of(place: Place, text: str, key: Key = ()) -> Iterator[None]:
    """Convert an error of PyYAML to one line with the line number."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is not None and place.source != "command line":
            place = replace(place, line=mark.line + 1)
        raise UnreadableError(Fault(place, key, _explain(error))) from error
    except yaml.reader.ReaderError as error:
        if place.source != "command line":
            place = replace(place, line=text.count("\n", 0, error.position) + 1)
        message = f"the character {chr(int(error.character))!r} is not allowed. Remove it."
        raise UnreadableError(Fault(place, key, message)) from error
    except (ValueError, OverflowError) as error:
        # PyYAML converts escapes (\U00110000) and version numbers without checking their range.
        raise UnreadableError(Fault(place, key, f"not valid YAML: {error}.")) from error


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or error).replace("\n", " ")
    if isinstance(error, _Refused):
        return problem
    if "'\\t'" in problem:
        return "a tab is used where YAML requires spaces. Indent with spaces."
    hint = next((hint for part, hint in _HINTS.items() if part in f"{error.context} {problem}"), "")
    if not hint and error.context and "while parsing" in error.context:
        hint = f"The error occurred {error.context}: is a bracket, a quote or a comma missing?"
    return f"not valid YAML: {problem}. {hint}".rstrip()


class _Builder:
    """Converts PyYAML's nodes to entries, counts values and collects repeated keys."""

    def __init__(self, source: str, *, lines: bool = True) -> None:
        self.faults: list[Fault] = []
        self._source = source
        self._lines = lines
        self._values = 0
        self._open: set[int] = set()  # containers being built; an alias to one would never end

    def build(self, node: yaml.Node, key: Key) -> Entry:
        place = self._place(node)
        self._values += 1
        if self._values > _MAX_VALUES:
            self._refuse(place, key, f"more than {_MAX_VALUES} values. Are there aliases of lists?")
        if isinstance(node, yaml.ScalarNode):
            return Entry(self._scalar(node, key), place)
        if id(node) in self._open:
            self._refuse(place, key, "the alias contains itself. Write the value out.")
        self._open.add(id(node))
        entry = Entry({}, place)
        if isinstance(node, yaml.SequenceNode):
            entry.value = [self.build(item, (*key, i)) for i, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            entry.value = self._mapping(node, key)
        self._open.remove(id(node))
        return entry

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(place, key, "a key must be a plain name, not a list or a mapping.")
            name: str = key_node.value
            inner = (*key, name)
            if name == "<<" and key_node.style is None:
                message = "merge keys (<<) are not supported. Use 'extends', or write the keys out."
                self.faults.append(Fault(place, key, message))
                continue
            if _UNUSABLE.search(name):
                self._refuse(
                    place, key, "a key contains a character that cannot be stored. Remove it."
                )
            entry = self.build(value_node, inner)
            if name in entries:
                first = entries[name].place.line
                also = "" if first is None else f" (first on line {first})"
                self.faults.append(Fault(place, inner, f"given twice{also}. Keep one."))
                continue
            # The line of the key, since its value may start on a later one.
            entries[name] = Entry(entry.value, place)
        return entries

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> str | int | float | bool | None:
        text: str = node.value
        if _UNUSABLE.search(text):
            self._refuse(
                self._place(node),
                key,
                "the text contains a character that cannot be stored. Remove it.",
            )
        if node.style is not None:  # quoted, or a block
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        numeric = any(kind.fullmatch(text) for kind in (_INTEGER, _OCTAL, _HEXADECIMAL, FLOAT))
        if numeric and len(text) > _MAX_DIGITS:
            self._refuse(self._place(node), key, f"a number of more than {_MAX_DIGITS} digits.")
        if _INTEGER.fullmatch(text):
            return int(text)
        if _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
            return int(text, base=0)
        if FLOAT.fullmatch(text):
            return float(text)
        return float(text.replace(".", "", 1)) if _SPECIAL.fullmatch(text) else text

    def _place(self, node: yaml.Node) -> Place:
        return Place(self._source, node.start_mark.line + 1 if self._lines else None)

    def _refuse(self, place: Place, key: Key, message: str) -> None:
        raise UnreadableError(*self.faults, Fault(place, key, message))
