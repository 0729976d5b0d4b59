"""Reading of labeled sentences, one per line: tab-separated as in GLUE, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from famseg.messages import InputError, is_text

Format = Literal["tsv", "jsonl"]

_MOST = 20  # a file with more errors has another format


class Row(NamedTuple):
    """The content of one line.

    Attributes:
        line: Its number, starting at 1.
        sentences: One or two sentences.
        label: The label's text.
    """

    line: int
    sentences: tuple[str, ...]
    label: str


class FaultList:
    """The errors of one file, of which the first are kept and the others counted.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[str] = []
        self._count = 0

    def add(self, line: int, message: str) -> None:
        """Add an error for a line."""
        self._count += 1
        if self._count <= _MOST:
            self._kept.append(f"{self.path}:{line}: {message}")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        yield from self._kept
        if self._count > _MOST:
            yield f"{self.path}: and {self._count - _MOST} more errors"


def read_rows(
    path: Path, *, form: Format, columns: Sequence[str], label: str
) -> tuple[list[Row], FaultList]:
    """Read the sentences and labels of a file.

    Lines end with a line feed, optionally preceded by a carriage return; other line separators of
    Unicode are part of the sentence. Empty lines are skipped. Quotation marks are ordinary text,
    since GLUE's files contain unpaired ones.

    Args:
        path: The file, in UTF-8.
        form: ``tsv``: a header names the columns, tabs separate cells. ``jsonl``: one object per
            line.
        columns: Names of the columns, or keys, of the sentences.
        label: Name of the column, or key, of the label.

    Returns:
        The rows that could be read, and the errors of the others.

    Raises:
        InputError: If the file does not exist, or its header lacks a column.
    """
    faults = FaultList(path)
    parse = _tsv if form == "tsv" else _jsonl
    return list(parse(_lines(path, faults), faults, columns, label)), faults


def _lines(path: Path, faults: FaultList) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(_missing(path)) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        stripped = line.removesuffix(b"\r")
        try:
            text = stripped.decode()
        except UnicodeDecodeError as error:
            faults.add(number, f"not UTF-8 at byte {error.start + 1}. Save the file as UTF-8.")
            continue
        if text.strip():
            yield number, text


def _tsv(
    lines: Iterator[tuple[int, str]], faults: FaultList, columns: Sequence[str], label: str
) -> Iterator[Row]:
    number, first = next(lines, (1, ""))
    header = first.split("\t")
    places = [_place(faults.path, number, header, name) for name in (*columns, label)]
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(header):
            faults.add(
                number,
                f"{_count(cells)}, the header has {len(header)} "
                f"({', '.join(header)}). Separate cells with one tab.",
            )
            continue
        *sentences, answer = (cells[place] for place in places)
        yield Row(number, tuple(sentences), answer)


def _place(path: Path, line: int, header: Sequence[str], name: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    what = "two columns" if name in header else "no column"
    raise InputError(
        f"{path}:{line}: {what} {name!r}. The header has {', '.join(header) or 'nothing'}. Name "
        "its columns with data.columns and data.label; a test file without labels cannot be scored."
    )


def _jsonl(
    lines: Iterator[tuple[int, str]], faults: FaultList, columns: Sequence[str], label: str
) -> Iterator[Row]:
    for number, line in lines:
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            faults.add(number, f"not JSON ({error.msg} at column {error.colno}). Write one object.")
            continue
        except (
            ValueError,
            RecursionError,
        ):  # numbers with thousands of digits; deeply nested brackets
            faults.add(number, "JSON that is too large to be a sample. Write one object.")
            continue
        fault = _object_fault(found, columns, label)
        if fault:
            faults.add(number, fault)
            continue
        yield Row(number, tuple(found[name] for name in columns), _label_text(found[label]))


def _object_fault(found: object, columns: Sequence[str], label: str) -> str | None:
    if not isinstance(found, dict):
        return f"a {type(found).__name__}, not an object. Write one object, {{...}}, per line."
    missing = [name for name in (*columns, label) if name not in found]
    if missing:
        return (
            f"no key {missing[0]!r}. It has {', '.join(found) or 'none'}. Name its keys with "
            "data.columns and data.label."
        )
    for name in columns:
        if not isinstance(found[name], str):
            return f"{name} is {json.dumps(found[name])}, not a text. Put quotes around it."
        if not is_text(found[name]):
            return f"{name} holds half a character (\\ud800 to \\udfff). Remove it."
    if not isinstance(found[label], str | int):  # in Python, true and false are integers
        return f"{label} is {json.dumps(found[label])}, but must be a text or a whole number."
    return None


def _label_text(value: str | int) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _count(cells: Sequence[str]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


def _missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"{folder}: there is no such folder. Set data.root to the folder with the files."
    others = sorted(each.name for each in folder.iterdir() if each.suffix in (".tsv", ".jsonl"))
    return (
        f"{path}: there is no such file. Its folder has {', '.join(others) or 'none like it'}. "
        "Name the files with data.train and data.test, and choose data.kind glue (tab-separated) "
        "or jsonl."
    )
