from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from famseg.config import Strict, differences, flatten, read, schema, to_yaml


def test_the_whole_text(checked):
    config = checked("penalty: {kind: relative_flatness, layer: expand, lambda: 1e-5}\n")
    assert to_yaml(config, header="resolved\n\nby a test") == (
        "# resolved\n"
        "#\n"
        "# by a test\n"
        "pipeline: sample\n"
        "seed: 0\n"
        "name: run\n"
        "root: null\n"
        "model:\n"
        "  channels: [8, 16]\n"
        "  size: [64, 64, 64]\n"
        "penalty:\n"
        "  kind: relative_flatness\n"
        "  layer: expand\n"
        "  lambda: 1.0e-05\n"
        "  probes: 1\n"
        "optimizer:\n"
        "  kind: adam\n"
        "  lr: 0.001\n"
        "  decay: 0.5\n"
        "train:\n"
        "  epochs: 20\n"
        "  patience: null\n"
        "  precision: float32\n"
        "  workers: auto\n"
        "  steps: 3\n"
        "  shuffle: true\n"
        "weights: {}\n"
        "stages: []\n"
    )


def test_a_full_configuration_comes_back_equal(checked, write, sample):
    config = checked(
        "penalty: {kind: relative_flatness, layer: expand, lambda: 0.002}\n"
        "optimizer: {kind: sgd, lr: 1e-4}\n"
        "root: ../data\n"
        "weights: {a: 1, '1e-4': 1e16, 'no': 0.1}\n"
        "stages: [{kind: none}, {kind: relative_flatness, layer: x, lambda: 3}]\n"
        "train: {steps: [1, 2]}\n"
    )
    write("b.yaml", to_yaml(config))
    again = read("b.yaml").validate(sample)
    assert again == config
    assert again.root == Path("../data")
    assert to_yaml(again) == to_yaml(config)


class Values(Strict):
    text: str = ""
    number: float = 0.0


TEXTS = [
    "",
    " ",
    "1e-4",
    "1.5",
    ".5",
    "5.",
    "1",
    "0o17",
    "0x1F",
    "1_000",
    "1:30",
    "2024-01-01",
    ".inf",
    ".nan",
    "null",
    "~",
    "true",
    "no",
    "yes",
    "on",
    "=",
    "<<",
    "*.nii.gz",
    "&a",
    "!x",
    "@x",
    "%x",
    "`x",
    "- a",
    "? a",
    "a: b",
    "a #b",
    "#a",
    "{a}",
    "[a]",
    "'",
    '"',
    "\\",
    "a\nb\n",
    "\ta",
    "a\u2028b",
    "é 漢 😀",
    "\x7f",
    "---",
    "...",
    "|",
    ">",
    "a " * 200,
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back_from_readers_of_yaml_1_1_and_1_2(write, text):
    written = to_yaml(Values(text=text))
    write("a.yaml", written)
    assert read("a.yaml").validate(Values).text == text
    assert yaml.safe_load(written)["text"] == text


@pytest.mark.parametrize(
    "number", [0.0, -0.0, 1.0, 0.1, 1e-4, 1e-5, 1e16, 1e22, 1.5e-300, 5e-324, 1.7e308, 1 / 3]
)
def test_every_float_comes_back_from_readers_of_yaml_1_1_and_1_2(write, number):
    written = to_yaml(Values(number=number))
    write("a.yaml", written)
    assert repr(read("a.yaml").validate(Values).number) == repr(number)
    loaded = yaml.safe_load(written)["number"]
    assert (type(loaded), loaded) == (float, number)


def test_the_kind_stands_in_front():
    class Base(Strict):
        lr: float = 0.1

    class Sgd(Base):
        kind: Literal["sgd"] = "sgd"
        momentum: float = 0.9

    class Holder(Strict):
        stages: list[Sgd]

    assert to_yaml(Sgd()) == "kind: sgd\nlr: 0.1\nmomentum: 0.9\n"
    assert to_yaml(Holder(stages=[Sgd()])) == ("stages:\n- kind: sgd\n  lr: 0.1\n  momentum: 0.9\n")


def test_shared_values_are_written_out(sample):
    shared = [1.0, 2.0]

    class Lists(Strict):
        a: list[float]
        b: list[float]

    assert to_yaml(Lists(a=shared, b=shared)) == "a: [1.0, 2.0]\nb: [1.0, 2.0]\n"


def test_differences_name_dotted_keys_with_both_values(checked):
    penalty = "penalty: {kind: relative_flatness, layer: x, lambda: 1e-5}\n"
    before = checked(penalty + "weights: {a: 1}\n")
    after = checked(penalty, "lambda=0.01", "train.workers=2", "model.channels=[4]", "name=other")
    assert differences(before, after) == [
        "name: run -> other",
        "model.channels: [8, 16] -> [4]",
        "penalty.lambda: 1.0e-05 -> 0.01",
        "train.workers: auto -> 2",
        "weights.a: 1.0 -> absent",
        "weights: absent -> {}",
    ]
    assert differences(before, before) == []


def test_differences_of_kinds(checked):
    before = checked("")
    after = checked("penalty: {kind: relative_flatness, layer: '1', lambda: 1}\n")
    assert differences(before, after) == [
        "penalty.kind: none -> relative_flatness",
        "penalty.layer: absent -> '1'",
        "penalty.lambda: absent -> 1.0",
        "penalty.probes: absent -> 1",
    ]


def test_flat_values_by_dotted_key(checked):
    flat = flatten(checked("root: x\n"))
    assert flat["penalty.kind"] == "none"
    assert flat["model.channels"] == [8, 16]
    assert flat["root"] == "x"
    assert list(flat)[:3] == ["pipeline", "seed", "name"]


def test_the_schema_has_the_names_and_descriptions_that_users_see(sample):
    result = schema(sample)
    assert result["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    penalty = result["$defs"]["FlatnessPenalty"]
    assert penalty["required"] == ["kind", "layer", "lambda"]
    assert penalty["properties"]["layer"]["description"].startswith("Dotted name of the layer")
    assert "weight" not in penalty["properties"]
    assert penalty["additionalProperties"] is False


def test_the_schema_allows_what_a_file_may_hold(sample):
    result = schema(sample)
    assert {"extends", "lambda", "seed"} <= set(result["properties"])
    assert "required" not in result  # it may come from the file that is extended
    assert result["if"] == {"not": {"required": ["extends"]}}
    assert result["then"] == {"required": ["pipeline"]}


def test_the_schema_of_a_document_without_penalty():
    class Plain(Strict):
        pipeline: Literal["plain"] = "plain"
        seed: int = Field(0, description="seed of everything random")

    assert set(schema(Plain)["properties"]) == {"pipeline", "seed", "extends"}
    assert "if" not in schema(Plain)
