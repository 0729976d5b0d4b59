from __future__ import annotations

import pytest

from famseg.config._entry import Entry, Fault, Place, dotted, merge
from famseg.config._yaml import parse


def laid(base, over):
    return merge(parse(base, "base.yaml")[0], parse(over, "over.yaml")[0])


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ("a: {b: 1, c: 2}", "a: {c: 3, d: 4}", {"a": {"b": 1, "c": 3, "d": 4}}),
        ("a: [1, 2, 3]", "a: [4]", {"a": [4]}),
        ("a: 1", "a: {b: 2}", {"a": {"b": 2}}),
        ("a: {b: 2}", "a: 1", {"a": 1}),
        ("a: {b: 2}", "a: null", {"a": None}),
        ("a: {kind: x, b: 1}", "a: {kind: y, c: 2}", {"a": {"kind": "y", "c": 2}}),
        ("a: {kind: x, b: 1}", "a: {kind: x, c: 2}", {"a": {"kind": "x", "b": 1, "c": 2}}),
        ("a: {kind: x, b: 1}", "a: {c: 2}", {"a": {"kind": "x", "b": 1, "c": 2}}),
        ("a: {b: 1}", "a: {kind: x}", {"a": {"b": 1, "kind": "x"}}),
        ("a: {s: {kind: x, b: 1}}", "a: {s: {kind: y}}", {"a": {"s": {"kind": "y"}}}),
        ("kind: x\nb: 1", "kind: y", {"kind": "y", "b": 1}),  # the document has no kind
    ],
)
def test_mappings_merge_deeply_and_the_rest_replaces(base, over, result):
    assert laid(base, over).plain() == result


def test_merging_changes_neither_side():
    base, over = parse("a: {b: 1}", "base.yaml")[0], parse("a: {c: 2}", "over.yaml")[0]
    merge(base, over)
    assert base.plain() == {"a": {"b": 1}}
    assert over.plain() == {"a": {"c": 2}}


def test_each_value_keeps_its_own_place():
    merged = laid("a:\n  b: 1\n  c: 2", "\na:\n\n  c: 3")
    places = {key: str(entry.place) for key, entry in merged.keys["a"].keys.items()}
    assert places == {"b": "base.yaml:2", "c": "over.yaml:4"}
    assert str(merged.keys["a"].place) == "over.yaml:2"


def test_walking_ends_where_the_document_ends():
    entry = Entry({"a": Entry([Entry(1, Place("f", 2))], Place("f", 1))}, Place("f"))
    assert [e.place.line for e in entry.walk(("a", 0, "x"))] == [None, 1, 2]
    assert [e.place.line for e in entry.walk(("a", 5))] == [None, 1]
    assert [e.place.line for e in entry.walk(("b",))] == [None]


def test_a_fault_is_one_line_whatever_the_key_holds():
    fault = Fault(Place("a.yaml", 3), ("a\nb", 0, "c"), "bad")
    assert str(fault) == r"a.yaml:3: a\nb[0].c: bad"
    assert str(Fault(Place("a.yaml"), (), "bad")) == "a.yaml: bad"
    assert len(dotted(("x" * 1000,))) == 203
