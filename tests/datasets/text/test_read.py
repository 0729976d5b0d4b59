from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from famseg.datasets.text._read import read_rows
from famseg.messages import InputError

PAIR = ("sentence1", "sentence2")
HEADER = "index\tsentence1\tsentence2\tlabel"


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: str | bytes, name: str = "train.tsv", end: bytes = b"\n") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join((x.encode() if isinstance(x, str) else x) + end for x in lines))
        return path

    return write


def rows(path: Path, columns=PAIR, label: str = "label"):
    form = "jsonl" if path.suffix == ".jsonl" else "tsv"
    return read_rows(path, form=form, columns=columns, label=label)


def faults(path: Path, **options) -> list[str]:
    return [fault.removeprefix(str(path)) for fault in rows(path, **options)[1]]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_pair_is_read_as_it_stands(file, end: bytes) -> None:
    quote = 'He said "no, twice.'  # CSV would look for the other quotation mark, lines on
    odd = "a\u2028b\x85c\x0bd"  # ends of lines to str.splitlines
    path = file("\ufeff" + HEADER, f"0\t{quote}\t{odd}\tyes", "", "1\tc \t\tno", end=end)
    found, wrong = rows(path)
    assert not list(wrong)
    assert [tuple(row) for row in found] == [
        (2, (quote, odd), "yes"),
        (4, ("c ", ""), "no"),
    ]


def test_columns_are_found_by_name(file) -> None:
    path = file("Quality\t#1 String\t#2 String", "1\ta\tb")
    found, _ = rows(path, columns=("#2 String", "#1 String"), label="Quality")
    assert found[0].sentences == ("b", "a")
    found, _ = rows(file("sentence\tlabel", "fine\t1", name="sst.tsv"), columns=("sentence",))
    assert found[0].sentences == ("fine",)


def test_faulty_lines_are_named_and_the_rest_is_read(file) -> None:
    path = file(HEADER, "0\ta\tb", b"1\ta\t\xff\tyes", "2\ta\tb\tyes", "3\ta\tb\tyes\tmore")
    found, wrong = rows(path)
    assert [row.line for row in found] == [4]
    assert [fault.removeprefix(str(path)) for fault in wrong] == [
        ":2: 3 cells, the header has 4 (index, sentence1, sentence2, label). Separate cells with "
        "one tab.",
        ":3: not UTF-8 at byte 5. Save the file as UTF-8.",
        ":5: 5 cells, the header has 4 (index, sentence1, sentence2, label). Separate cells with "
        "one tab.",
    ]


def test_of_many_faults_the_first_are_shown(file) -> None:
    wrong = faults(file(HEADER, *["no tabs"] * 25))
    assert len(wrong) == 21
    assert wrong[-1] == ": and 5 more errors"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("index\tsentence1\tsentence2", "no column 'label'. The header has index, sentence1, se"),
        ("sentence1\tsentence1\tsentence2\tlabel", "two columns 'sentence1'"),
        ("", "no column 'sentence1'. The header has nothing. Name its columns with data.columns"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(file, header: str, message: str) -> None:
    path = file(header)
    with pytest.raises(InputError) as caught:
        rows(path)
    assert str(caught.value).startswith(f"{path}:1: {message}")


def test_a_missing_file_is_named_with_what_is_there(file, tmp_path: Path) -> None:
    file("x", name="train.jsonl")
    with pytest.raises(InputError, match=r"no such file\. Its folder has train\.jsonl\. Name the"):
        rows(tmp_path / "train.tsv")
    with pytest.raises(InputError, match=r"no such folder\. Set data\.root to the folder"):
        rows(tmp_path / "none" / "train.tsv")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        rows(tmp_path)


def test_json_lines_have_texts_and_labels_of_any_kind(file) -> None:
    path = file(
        '{"sentence1": "a\\tb", "sentence2": "c", "label": true, "idx": 7}',
        '{"sentence1": "", "sentence2": "c", "label": 1}',
        '{"sentence1": "a", "sentence2": "c", "label": "yes"}',
        name="train.jsonl",
    )
    found, wrong = rows(path)
    assert not list(wrong)
    assert [(row.sentences[0], row.label) for row in found] == [
        ("a\tb", "true"),
        ("", "1"),
        ("a", "yes"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "not JSON (Expecting ',' delimiter at column 8). Write one object."),
        ("[1]", "a list, not an object. Write one object, {...}, per line."),
        ('{"sentence1": "a", "x": 1}', "no key 'sentence2'. It has sentence1, x. Name its keys"),
        (
            '{"sentence1": null, "sentence2": "", "label": 1}',
            "sentence1 is null, not a text. Put quotes around it.",
        ),
        (
            '{"sentence1": "", "sentence2": "", "label": 0.5}',
            "label is 0.5, but must be a text or a whole number.",
        ),
    ],
)
def test_a_faulty_json_line_is_named(file, line: str, message: str) -> None:
    (fault,) = faults(file("", line, name="train.jsonl"))
    assert fault.startswith(f":2: {message}")


def test_json_that_is_no_sample(tmp_path: Path) -> None:
    lines = ("[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800", "l": 1}')
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows, faults = read_rows(tmp_path / "a.jsonl", form="jsonl", columns=("a",), label="l")
    assert rows == []
    large = "JSON that is too large to be a sample. Write one object."
    assert [fault.split(": ", 1)[1] for fault in faults] == [
        large,
        large,
        "a holds half a character (\\ud800 to \\udfff). Remove it.",
    ]
