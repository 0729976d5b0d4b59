from __future__ import annotations

import math
import time

import pytest

from famseg.config._yaml import parse, parse_value
from famseg.messages import InputError


def values(text):
    entry, found = parse(text, "a.yaml")
    assert not found
    return entry.plain()


def refusal(text):
    with pytest.raises(InputError) as caught:
        parse(text, "a.yaml")
    (line,) = caught.value.faults
    return line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5e1", -5.0),
        ("3", 3),
        ("+3", 3),
        ("-0", 0),
        ("007", 7),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("e5", "e5"),
        (".", "."),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    result = values(f"a: {text}")["a"]
    assert result == value
    assert type(result) is type(value)


def test_nan_is_a_number():
    assert math.isnan(values("a: .nan")["a"])


def test_lists_mappings_blocks_and_aliases():
    text = "a: &x [1, {b: 2}]\nc: *x\nd: |\n  two\n  lines\n1: one\nyes: 2\n"
    assert values(text) == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
        "d": "two\nlines\n",
        "1": "one",
        "yes": 2,
    }


def test_every_value_knows_its_line():
    entry, _ = parse("a:\n  b:\n    - 1\n    - 2\n\nc: >\n  text\n", "a.yaml")
    assert [str(each.place) for each in entry.walk(("a", "b", 1))] == [
        "a.yaml:1",
        "a.yaml:1",
        "a.yaml:2",
        "a.yaml:4",
    ]
    assert str(entry.keys["c"].place) == "a.yaml:6"


def test_repeated_keys_are_found_with_both_lines():
    entry, found = parse("a: 1\nb: {c: 1,\n  c: 2}\na: 3\na: 4\n", "a.yaml")
    assert entry.plain() == {"a": 1, "b": {"c": 1}}
    assert [str(fault) for fault in found] == [
        "a.yaml:3: b.c: given twice (first on line 2). Keep one.",
        "a.yaml:4: a: given twice (first on line 1). Keep one.",
        "a.yaml:5: a: given twice (first on line 1). Keep one.",
    ]


def test_merge_keys_are_refused_with_advice():
    _, found = parse("a: &x {b: 1}\nc: {<<: *x}\n", "a.yaml")
    assert [str(fault) for fault in found] == [
        "a.yaml:2: c: merge keys (<<) are not supported. Use 'extends', or write the keys out."
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml: empty. Write at least 'pipeline: NAME' or 'extends: FILE'."),
        ("# nothing\n", "a.yaml: empty. Write at least 'pipeline: NAME' or 'extends: FILE'."),
        (
            "a: 1\n\tb: 2\n",
            "a.yaml:2: a tab is used where YAML requires spaces. Indent with spaces.",
        ),
        (
            "a: 1\nb: c: d\n",
            "a.yaml:2: not valid YAML: mapping values are not allowed here. Check the indentation, "
            "and put quotes around a text that contains ': '.",
        ),
        (
            "a: [1, 2\nb: 3\n",
            "a.yaml:2: not valid YAML: expected ',' or ']', but got ':'. The error occurred while "
            "parsing a flow sequence: is a bracket, a quote or a comma missing?",
        ),
        (
            "a: 'open\n",
            "a.yaml:2: not valid YAML: found unexpected end of stream. Is a closing quote missing?",
        ),
        (
            "root: *.nii.gz\n",
            "a.yaml:1: not valid YAML: expected alphabetic or numeric character, but found '.'. A "
            "text that starts with * needs quotes.",
        ),
        (
            "root: *x\n",
            "a.yaml:1: not valid YAML: found undefined alias 'x'. A text that starts with * needs "
            "quotes.",
        ),
        (
            "a: @x\n",
            "a.yaml:1: not valid YAML: found character '@' that cannot start any token. Put quotes "
            "around the text.",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "a.yaml:2: not valid YAML: but found another document. Remove the second '---'.",
        ),
        (
            "a: 1\nb\n",
            "a.yaml:3: not valid YAML: could not find expected ':'. Write 'key: value', with a "
            "space after the colon.",
        ),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "a.yaml:1: tags ('!...') are not allowed. Put quotes around a text that starts with "
            "'!'.",
        ),
        (
            "a: !x 1\n",
            "a.yaml:1: tags ('!...') are not allowed. Put quotes around a text that starts with "
            "'!'.",
        ),
        ("a: 1\nb: \x07\n", r"a.yaml:2: the character '\x07' is not allowed. Remove it."),
        ("a: \x00", r"a.yaml:1: the character '\x00' is not allowed. Remove it."),
        (
            'a: "\\ud800"',
            "a.yaml:1: a: the text contains a character that cannot be stored. Remove it.",
        ),
        (
            'a: "x\\0"',
            "a.yaml:1: a: the text contains a character that cannot be stored. Remove it.",
        ),
        (
            '"x\\0": 1',
            "a.yaml:1: a key contains a character that cannot be stored. Remove it.",
        ),
        ("a: &x [*x]\n", "a.yaml:1: a[0]: the alias contains itself. Write the value out."),
        ("[a]: 1\n", "a.yaml:1: a key must be a plain name, not a list or a mapping."),
        (f"a: {'9' * 401}", "a.yaml:1: a: a number of more than 400 digits."),
        ("a: " + "[" * 40, "a.yaml:1: nested more than 32 levels deep. Flatten it."),
        ("a: 1\n" * 60_000, "a.yaml: more than 256 KiB, too large. Is this a configuration?"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, message):
    assert refusal(text) == message


def test_escapes_beyond_unicode_are_one_line():
    assert refusal('a: "\\U00110000"').startswith("a.yaml: not valid YAML: ")


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    start = time.process_time()
    assert "more than 20000 values. Are there aliases of lists?" in refusal("\n".join(lines))
    assert time.process_time() - start < 10  # without a bound it would take hours


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("[8,16]", [8, 16]),
        ("{a: 1}", {"a": 1}),
        ("", None),
        ("no", "no"),
        ("'5'", "5"),
        ("../shared data/x", "../shared data/x"),
        ("*.nii.gz", "*.nii.gz"),
        ("!x", "!x"),
        ("@x", "@x"),
        ("# note", None),
    ],
)
def test_values_of_the_command_line(text, value):
    assert parse_value(text, ("a",)).plain() == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[1",
            "command line: a.b: not valid YAML: expected ',' or ']', but got '<stream end>'. The "
            "error occurred while parsing a flow sequence: is a bracket, a quote or a comma "
            "missing?",
        ),
        ("{c: 1, c: 2}", "command line: a.b.c: given twice. Keep one."),
    ],
)
def test_what_is_not_yaml_waits_for_the_type_of_its_key(text, message):
    entry = parse_value(text, ("a", "b"))
    assert [str(fault) for fault in entry.found] == [message]
    assert entry.as_text().plain() == text
    assert entry.as_text().unread() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\udcff", r"command line: a.b: the character '\udcff' is not allowed. Remove it."),
        ("x" * 300_000, "command line: a.b: the value is too long. Write it into a file."),
    ],
)
def test_faulty_values_of_the_command_line(text, message):
    with pytest.raises(InputError) as caught:
        parse_value(text, ("a", "b"))
    assert caught.value.faults == (message,)
