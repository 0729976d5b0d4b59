from __future__ import annotations

from pathlib import Path

import pytest

from famseg.config import read
from famseg.messages import InputError


@pytest.fixture
def values(write):
    """Return the merged mapping of files given as ``name=text``; the first is read."""

    def _values(files, *overrides):
        for name, text in files.items():
            write(name, text)
        return read(next(iter(files)), overrides).values

    return _values


@pytest.fixture
def refused(values):
    def _refused(files, *overrides):
        with pytest.raises(InputError) as caught:
            values(files, *overrides)
        return list(caught.value.faults)

    return _refused


def test_a_file_is_laid_over_what_it_extends(values):
    files = {
        "a.yaml": "extends: b\ntrain: {epochs: 5}\nchannels: [4]\n",
        "b.yaml": "extends: deep/c.yaml\ntrain: {epochs: 9, lr: 1e-3}\n",
        "deep/c.yaml": "extends: d.yml\nchannels: [8, 16]\n",
        "deep/d.yml": "seed: 3\n",
    }
    assert values(files) == {
        "seed": 3,
        "channels": [4],
        "train": {"epochs": 5, "lr": 1e-3},
    }
    assert read("a.yaml").files == tuple(map(Path, files))


def test_another_kind_leaves_no_stale_keys(values):
    files = {"a.yaml": "extends: b.yaml\np: {kind: y}\n", "b.yaml": "p: {kind: x, layer: fc}\n"}
    assert values(files) == {"p": {"kind": "y"}}
    assert values(files, "p.kind=z", "p.probes=2") == {"p": {"kind": "z", "probes": 2}}
    assert values(files, "p.probes=2", "p.kind=z") == {"p": {"kind": "z", "probes": 2}}


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("", "a.yaml:2: extends: must be the name of a single file."),
        ("[b, c]", "a.yaml:2: extends: must be the name of a single file."),
        ("3", "a.yaml:2: extends: must be the name of a single file."),
        ("' '", "a.yaml:2: extends: must be the name of a single file."),
        ("deep", "a.yaml:2: extends: deep: is a folder. Give the file in it."),
        (
            "a.yaml",
            "a.yaml:2: extends: a.yaml: there is no such configuration.",
        ),
    ],
)
def test_a_faulty_base(refused, folder, extends, message):
    (folder / "deep").mkdir()
    (line,) = refused({"a.yaml": f"seed: 1\nextends: {extends}\n"})
    assert line.startswith(message)


def test_a_missing_base_lists_near_names(refused, write):
    write("configs/skull_paper.yaml", "")
    (line,) = refused({"a.yaml": "extends: skull_papr\n"})
    assert line.startswith(
        "a.yaml:1: extends: skull_papr: there is no such configuration. Did you mean skull_paper?"
    )


def test_a_circle_is_refused(refused):
    files = {
        "a.yaml": "extends: b.yaml\n",
        "b.yaml": "\nextends: c.yaml\n",
        "c.yaml": "extends: ./a.yaml\n",
    }
    assert refused(files) == [
        "c.yaml:1: extends: the files extend each other in a circle: "
        "a.yaml -> b.yaml -> c.yaml -> a.yaml."
    ]


def test_faults_of_a_base_name_the_base(refused):
    assert refused({"a.yaml": "extends: b.yaml\n", "b.yaml": "seed: 1\nx: [\n"})[0].startswith(
        "b.yaml:3: not valid YAML: "
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "a.yaml: contains a list. Write keys with values ('key: value')."),
        ("just words", "a.yaml: contains a single value. Write keys with values ('key: value')."),
        ("", "a.yaml: empty. Write at least 'pipeline: NAME' or 'extends: FILE'."),
    ],
)
def test_what_is_no_mapping_is_refused(refused, text, message):
    assert refused({"a.yaml": text}) == [message]


def test_overrides_change_and_add(values):
    files = {"a.yaml": "model: {channels: [8, 16], size: 64}\n"}
    assert values(files, "model.channels=[4]", "train.lr=1e-4", "name=no", "root=*.nii") == {
        "model": {"channels": [4], "size": 64},
        "train": {"lr": 1e-4},
        "name": "no",
        "root": "*.nii",
    }


def test_of_two_overrides_the_last_holds(values):
    assert values({"a.yaml": "seed: 1"}, "seed=2", "seed=3") == {"seed": 3}
    assert values({"a.yaml": "seed: 1"}, "t={a: 1, b: 2}", "t.b=3")["t"] == {"a": 1, "b": 3}


def test_a_value_may_hold_an_equals_sign(values):
    assert values({"a.yaml": "seed: 1"}, "uri=http://x/?a=b")["uri"] == "http://x/?a=b"


def test_a_list_may_be_emptied_and_replaced_by_a_section(values):
    assert values({"a.yaml": "a: [1]\nb: [1]\n"}, "a=[]", "b.c=1") == {"a": [], "b": {"c": 1}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["foo"], "command line: 'foo' is not of the form key=value, such as seed=1."),
        (["=3"], "command line: '=3' is not of the form key=value, such as seed=1."),
        (["a..b=3"], "command line: 'a..b=3' is not of the form key=value, such as"),
        (["a b=3"], "command line: 'a b=3' is not of the form key=value, such as"),
        (["a\n=3"], None),
        (["extends=b.yaml"], "command line: extends: can only be given in a file."),
        (["seed=["], "command line: seed: not valid YAML: expected the node content, but found"),
        (["t=3", "t.a=4"], "command line: t.a: t is given as a section and as a value. Keep one."),
        (["t.a=4", "t=3"], "command line: t: t is given as a section and as a value. Keep one."),
        (
            ["model.channels.1=3"],
            "command line: model.channels.1: a single item of a list cannot be changed. Give the "
            "whole list: model.channels=[...].",
        ),
        (
            ["lambda=3", "penalty.lambda=4"],
            "command line: lambda: is short for penalty.lambda, which is given as well. Keep one "
            "of them.",
        ),
    ],
)
def test_a_faulty_override_is_reported_and_the_rest_checked(faults, overrides, message):
    base = "model: {channels: [8, 16]}\npenalty: {kind: relative_flatness, layer: x, lambda: 1}\n"
    found = faults(base + "sead: 1\n", *overrides)
    assert found[0] == "a.yaml:4: sead: unknown key (did you mean seed?)"
    if message is not None:
        assert found[1].startswith(message)
    assert all(line.isprintable() for line in found)


def test_lambda_stands_for_the_weight_of_the_penalty(values):
    base = {"a.yaml": "lambda: 1e-3\npenalty: {kind: k}\n"}
    assert values(base) == {"penalty": {"kind": "k", "lambda": 1e-3}}
    assert values(base, "lambda=2") == {"penalty": {"kind": "k", "lambda": 2}}
    assert values(base, "penalty.lambda=2") == {"penalty": {"kind": "k", "lambda": 2}}


def test_lambda_of_a_file_wins_over_its_base(values):
    files = {
        "a.yaml": "extends: b.yaml\nlambda: 3\n",
        "b.yaml": "penalty: {kind: k, lambda: 1}\n",
    }
    assert values(files) == {"penalty": {"kind": "k", "lambda": 3}}
    assert str(read("a.yaml").where("penalty", "lambda")) == "a.yaml:2"


def test_lambda_given_twice_in_a_file(faults):
    penalty = "penalty: {kind: relative_flatness, layer: x, lambda: 1}\n"
    assert faults(penalty + "lambda: 2\n") == [
        "a.yaml:3: lambda: is short for penalty.lambda, which is given as well. Keep one of them."
    ]


def test_lambda_with_a_penalty_that_is_no_section(faults):
    assert faults("penalty: 3\nlambda: 2\n") == [
        "a.yaml:2: penalty: expected keys with values, got 3"
    ]


@pytest.mark.parametrize("text", ["penalty: {kind: none}\n", ""])  # none is the sample's default
def test_lambda_zero_without_a_penalty_is_the_baseline(checked, text):
    assert checked(text, "lambda=0").penalty.kind == "none"
    assert checked(text, "penalty.lambda=0.0").penalty.kind == "none"


@pytest.mark.parametrize("value", ["0.1", "-1", "true", "fast", "null"])
def test_lambda_without_a_penalty_is_a_fault(faults, value):
    assert faults("penalty: {kind: none}\n", f"lambda={value}") == [
        "command line: penalty.lambda: has no effect, since penalty.kind is none. "
        "Choose a penalty with penalty.kind, or set lambda to 0."
    ]


def test_a_penalty_chosen_together_with_its_lambda(checked):
    config = checked(
        "penalty: {kind: none}\n",
        "lambda=0.1",
        "penalty.kind=relative_flatness",
        "penalty.layer=expand",
    )
    assert config.penalty.weight == 0.1


def test_places_are_those_of_what_holds(write):
    write("b.yaml", "seed: 1\ntrain:\n  epochs: 5\n  lr: 1\n")
    write("a.yaml", "extends: b.yaml\ntrain:\n  lr: 2\n")
    document = read("a.yaml", ["seed=4"])
    assert str(document.where("train", "epochs")) == "b.yaml:3"
    assert str(document.where("train", "lr")) == "a.yaml:3"
    assert str(document.where("train", "missing")) == "a.yaml:2"
    assert str(document.where("missing")) == "a.yaml"
    assert str(document.where("seed")) == "command line"


def test_faults_come_in_the_order_of_files_and_lines(write, sample):
    write("b.yaml", "pipeline: sample\nseed: x\nzz: 1\n")
    write("a.yaml", "extends: b.yaml\nname: A\nyy: 1\nyy: 2\n")
    with pytest.raises(InputError) as caught:
        read("a.yaml", ["train.epochs=0", "root"]).validate(sample)
    assert [line[:15] for line in caught.value.faults] == [
        "a.yaml:2: name:",
        "a.yaml:3: yy: u",
        "a.yaml:4: yy: g",
        "b.yaml:2: seed:",
        "b.yaml:3: zz: u",
        "command line: '",
        "command line: t",
    ]
