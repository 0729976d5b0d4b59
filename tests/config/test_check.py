from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BeforeValidator, Field, field_validator

from famseg.config import Strict, read, to_yaml
from famseg.messages import InputError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # types
        ("seed: fast", "a.yaml:2: seed: expected a whole number, got the text 'fast'"),
        (
            "seed: '3'",
            "a.yaml:2: seed: expected a whole number, got the text '3'. Remove the quotes.",
        ),
        ("seed: 1.5", "a.yaml:2: seed: expected a whole number, got 1.5"),
        ("seed: 1e3", "a.yaml:2: seed: expected a whole number, got 1000.0. Write 1000."),
        ("seed: true", "a.yaml:2: seed: expected a whole number, got true"),
        ("seed:", "a.yaml:2: seed: expected a whole number, got nothing"),
        ("name: 3", "a.yaml:2: name: expected a text, got 3. Put quotes around it."),
        ("name: [a]", 'a.yaml:2: name: expected a text, got the list ["a"]'),
        ("root: 3", "a.yaml:2: root: expected a text, got 3. Put quotes around it."),
        (
            "optimizer:\n  lr: fast",
            "a.yaml:3: optimizer.lr: expected a number, got the text 'fast'",
        ),
        (
            "train: {shuffle: no}",
            "a.yaml:2: train.shuffle: expected true or false, got the text 'no'",
        ),
        ("train: 3", "a.yaml:2: train: expected keys with values, got 3"),
        ("train:", "a.yaml:2: train: expected keys with values, got nothing"),
        ("weights: [1]", "a.yaml:2: weights: expected keys with values, got the list [1]"),
        ("weights: {a: x}", "a.yaml:2: weights.a: expected a number, got the text 'x'"),
        ("model: {channels: 8}", "a.yaml:2: model.channels: expected a list, got 8"),
        (
            "model: {channels: {a: 1}}",
            "a.yaml:2: model.channels: expected a list, got keys with values (a)",
        ),
        (
            "model:\n  channels:\n    - 8\n    - x\n",
            "a.yaml:5: model.channels[1]: expected a whole number, got the text 'x'",
        ),
        # bounds
        ("seed: -1", "a.yaml:2: seed: must be at least 0, got -1"),
        ("optimizer: {lr: 0}", "a.yaml:2: optimizer.lr: must be greater than 0, got 0"),
        (
            "optimizer: {kind: sgd, momentum: 1}",
            "a.yaml:2: optimizer.momentum: must be less than 1, got 1",
        ),
        ("optimizer: {lr: .inf}", "a.yaml:2: optimizer.lr: expected a finite number, got inf"),
        ("optimizer: {lr: .nan}", "a.yaml:2: optimizer.lr: expected a finite number, got nan"),
        ("optimizer: {lr: 1e999}", "a.yaml:2: optimizer.lr: expected a finite number, got inf"),
        ("name: ''", "a.yaml:2: name: must not be empty"),
        ("name: aaaaaaaaa", "a.yaml:2: name: takes at most 8 characters, got the text 'aaaaaaaaa'"),
        ("name: A", "a.yaml:2: name: must match the pattern ^[a-z], got the text 'A'"),
        ("model: {channels: []}", "a.yaml:2: model.channels: must not be empty"),
        ("model: {size: [1]}", "a.yaml:2: model.size: needs 3 items, got 1"),
        ("model: {size: [1, 2, 3, 4]}", "a.yaml:2: model.size: takes at most 3 items, got 4"),
        # choices
        (
            "train: {precision: float16}",
            "a.yaml:2: train.precision: must be one of float32, bfloat16, got the text 'float16'. "
            "Did you mean bfloat16?",
        ),
        (
            "train: {precision: 3}",
            "a.yaml:2: train.precision: must be one of float32, bfloat16, got 3",
        ),
        (
            "train: {workers: many}",
            "a.yaml:2: train.workers: expected a whole number or 'auto', got the text 'many'",
        ),
        (
            "train: {steps: x}",
            "a.yaml:2: train.steps: expected a list or a whole number, got the text 'x'",
        ),
        (
            "train: {steps: [1, x]}",
            "a.yaml:2: train.steps[1]: expected a whole number, got the text 'x'",
        ),
        # kinds
        (
            "penalty: {kind: relative_flatnes}",
            "a.yaml:2: penalty.kind: must be one of none, relative_flatness, got the text "
            "'relative_flatnes'. Did you mean relative_flatness?",
        ),
        (
            "penalty: {kind: relative}",
            "a.yaml:2: penalty.kind: must be one of none, relative_flatness, got the text "
            "'relative'. Did you mean relative_flatness?",
        ),
        (
            "penalty: {kind: 3}",
            "a.yaml:2: penalty.kind: must be one of none, relative_flatness, got 3",
        ),
        (
            "penalty: {kind: }",
            "a.yaml:2: penalty.kind: missing. Choose one of none, relative_flatness.",
        ),
        (
            "stages:\n  - {kind: none}\n  - {layer: x}",
            "a.yaml:4: stages[1].kind: missing. Choose one of none, relative_flatness.",
        ),
        (
            "penalty: none",
            "a.yaml:2: penalty: expected keys with values, got the text 'none'. Did you mean "
            "penalty.kind?",
        ),
        # unknown keys
        ("sead: 3", "a.yaml:2: sead: unknown key (did you mean seed?)"),
        ("Seed: 3", "a.yaml:2: Seed: unknown key (did you mean seed?)"),
        ("epochs: 3", "a.yaml:2: epochs: unknown key (did you mean train.epochs?)"),
        ("epocs: 3", "a.yaml:2: epocs: unknown key (did you mean train.epochs?)"),
        ("train: {seed: 3}", "a.yaml:2: train.seed: unknown key (did you mean seed?)"),
        (
            "train: {qqq: 3}",
            "a.yaml:2: train.qqq: unknown key (known: epochs, patience, precision, workers, steps, "
            "shuffle)",
        ),
        (
            "penalty.lambda: 3",
            "a.yaml:2: penalty.lambda: unknown key (dotted keys are for the command line: nest "
            "the sections in a file)",
        ),
        (
            "penalty: {kind: none, layer: x}",
            "a.yaml:2: penalty.layer: unknown key for kind none (it belongs to relative_flatness)",
        ),
        (
            "penalty: {kind: none, weight: 1}",
            "a.yaml:2: penalty.weight: unknown key for kind none (it belongs to relative_flatness)",
        ),
        (
            "optimizer: {momentum: 0.5}",
            "a.yaml:2: optimizer.momentum: unknown key for kind adam (it belongs to sgd)",
        ),
        (
            "penalty: {kind: relative_flatness, layer: x, lambda: 1, weight: 2}",
            "a.yaml:2: penalty.weight: unknown key (did you mean penalty.lambda?)",
        ),
        (
            "penalty: {kind: relative_flatness, layer: x, lambda: 1, probs: 2}",
            "a.yaml:2: penalty.probs: unknown key (did you mean penalty.probes?)",
        ),
        (
            '"a\\nb": 1',
            r"a.yaml:2: a\nb: unknown key (known: pipeline, seed, name, root, model, penalty, "
            "optimizer, train, weights, stages)",
        ),
        # checks across keys
        (
            "train: {epochs: 3, patience: 5}",
            "a.yaml:2: train: patience must not exceed epochs: lower train.patience.",
        ),
    ],
)
def test_one_fault(faults, text, message):
    (line,) = faults(text + "\n")
    assert line == message


def test_missing_keys_say_what_they_are(faults):
    assert faults("\npenalty:\n  kind: relative_flatness\n") == [
        "a.yaml:3: penalty.layer: missing. Add it: Dotted name of the layer, as in "
        "model.named_modules().",
        "a.yaml:3: penalty.lambda: missing. Add it.",
    ]


def test_python_names_are_no_names_of_a_file(faults):
    assert faults("penalty: {kind: relative_flatness, layer: x, weight: 1}\n") == [
        "a.yaml:2: penalty.lambda: missing. Add it.",
        "a.yaml:2: penalty.weight: unknown key (did you mean penalty.lambda?)",
    ]


def test_all_faults_in_one_go(faults):
    text = (
        "train:\n  epochs: 1.5\n"
        "penalty:\n  kind: relative_flatness\n  layer: x\n  weihgt: 1\n  lambda: -1\n"
    )
    assert faults(text, "optimizer.lr=fast") == [
        "a.yaml:3: train.epochs: expected a whole number, got 1.5",
        "a.yaml:7: penalty.weihgt: unknown key (did you mean penalty.lambda?)",
        "a.yaml:8: penalty.lambda: must be at least 0, got -1",
        "command line: optimizer.lr: expected a number, got the text 'fast'",
    ]


def test_a_file_of_faults_is_cut_short(faults):
    found = faults("".join(f"q{i}q: 1\n" for i in range(300)))
    assert len(found) == 101
    assert found[0] == "a.yaml: and 200 more errors"


def test_long_values_are_cut_short(faults):
    (line,) = faults(f"seed: {'x' * 500}\n")
    assert line == f"a.yaml:2: seed: expected a whole number, got the text '{'x' * 59}..."


def test_lists_become_tuples_and_texts_become_paths(checked):
    config = checked("model: {channels: [4, 8]}\nroot: ../x\ntrain: {steps: [1]}\n")
    assert config.model.channels == (4, 8)
    assert config.root == Path("../x")
    assert config.train.steps == [1]


def test_whole_numbers_are_numbers(checked):
    assert checked("optimizer: {lr: 1}\n").optimizer.lr == 1.0


def test_very_large_whole_numbers(faults):
    (line,) = faults(f"optimizer: {{lr: {'9' * 399}}}\n")
    assert line.startswith("a.yaml:2: optimizer.lr: expected a ")


class Folder(Strict):
    """A section whose validators fail in all possible ways."""

    pipeline: Literal["sample"]
    root: Annotated[str, BeforeValidator(str.strip)]
    odd: Annotated[int, Field(multiple_of=2)] = 2

    @field_validator("root")
    @classmethod
    def _there(cls, value: str) -> str:
        if value == "input":
            raise InputError("input: no such folder. Name one.")
        if value == "assert":
            raise AssertionError("is not a folder")
        if value == "value":
            raise ValueError("is not a\n  folder")
        return value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root: input", "a.yaml: input: no such folder. Name one."),
        ("root: assert", "a.yaml:2: root: is not a folder"),
        ("root: value", "a.yaml:2: root: is not a folder"),
        ("root: x\nodd: 3", "a.yaml:3: odd: must be a multiple of 2, got 3"),
    ],
)
def test_what_validators_say_comes_through(write, text, message):
    write("a.yaml", f"pipeline: sample\n{text}\n")
    with pytest.raises(InputError) as caught:
        read("a.yaml").validate(Folder)
    assert caught.value.faults == (message,)


class Nested(Strict):
    """Sections in a list, a dict and a union without a discriminator."""

    class Left(Strict):
        left: int

    class Right(Strict):
        right: int

    parts: list[Left] = Field(default_factory=list)
    named: dict[str, Left] = Field(default_factory=dict)
    either: Left | Right | None = None
    grid: list[list[int]] = Field(default_factory=list)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "parts:\n  - left: 1\n  - lft: 1\n",
            [
                "a.yaml:3: parts[1].left: missing. Add it.",
                "a.yaml:3: parts[1].lft: unknown key (did you mean parts[1].left?)",
            ],
        ),
        (
            "named:\n  x: {left: y}\n",
            ["a.yaml:2: named.x.left: expected a whole number, got the text 'y'"],
        ),
        (
            "either:\n  left: x\n",
            ["a.yaml:2: either.left: expected a whole number, got the text 'x'"],
        ),
        (
            "grid: [[1], [2, x]]\n",
            ["a.yaml:1: grid[1][1]: expected a whole number, got the text 'x'"],
        ),
    ],
)
def test_keys_of_nested_values(write, text, messages):
    write("a.yaml", text)
    with pytest.raises(InputError) as caught:
        read("a.yaml").validate(Nested)
    assert list(caught.value.faults) == messages


GOOD = b"""pipeline: sample
seed: 3
name: "x"
model: {channels: [8, 16], size: [1, 2, 3]}
penalty: &p
  kind: relative_flatness
  layer: expand
  lambda: 1e-3
optimizer:
  kind: adam
train: {epochs: 5, workers: auto, steps: [1, 2]}
stages: [*p, {kind: none}]
"""
BITS = (
    b"\t|: |- |[|]|{|}|&a |*a|!!int |'|\"|\\ud800|\xff|\xef\xbb\xbf|---\n|...\n|<<: |? |> |#|\n|\r"
    b"|~|1e999|.nan|0xffffffffffffffffff|\x00|lambda: 3\n|kind: |penalty: |extends: f.yaml\n|@|`"
    b"|\xc2\x85|[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[|{a: {a: {a: |%YAML 999999.1\n|~: 3\n"
    b'|"\\U00110000"'
).split(b"|")


@pytest.mark.parametrize("seed", range(8))
def test_mutilated_files_give_nothing_but_input_errors(write, sample, seed):
    rng = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(40):
        text = bytearray(GOOD)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            match rng.randrange(3):
                case 0:
                    text[at:at] = rng.choice(BITS)
                case 1:
                    del text[at : at + rng.randint(1, 12)]
                case _:
                    text[at] = rng.randrange(256)
        write("f.yaml", bytes(text))
        lines: tuple[str, ...] = ()
        try:
            config = read("f.yaml").validate(sample)
        except InputError as error:
            lines = error.faults or ("an error without faults\n",)
        else:
            write("g.yaml", to_yaml(config))
            assert read("g.yaml").validate(sample) == config
        assert all(line.isprintable() for line in lines), (text, lines)
