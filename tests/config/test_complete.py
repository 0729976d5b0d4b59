from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BeforeValidator, Field

from famseg.config import PathText, Strict, read
from famseg.messages import InputError


def test_a_section_given_in_part_keeps_the_rest_of_its_default(checked):
    assert checked("optimizer: {lr: 0.5}\n").optimizer.model_dump() == {
        "kind": "adam",
        "lr": 0.5,
        "decay": 0.5,  # of the field's default; the class has 0
    }
    assert checked("", "train.workers=2").train.epochs == 20  # the class has 200


def test_another_kind_starts_afresh(checked):
    assert checked("optimizer: {kind: sgd, lr: 0.5}\n").optimizer.model_dump() == {
        "kind": "sgd",
        "lr": 0.5,
        "momentum": 0.9,
    }


def test_the_same_kind_keeps_the_default(checked):
    assert checked("optimizer: {kind: adam}\n").optimizer.decay == 0.5


def test_an_absent_section_is_its_default(checked):
    config = checked("")
    assert config.optimizer.decay == 0.5
    assert config.train.epochs == 20


class Step(Strict):
    kind: Literal["step"] = "step"
    every: int = 10
    factor: float = 0.5


class Cosine(Strict):
    kind: Literal["cosine"] = "cosine"
    floor: float = 0.0


class Optimizer(Strict):
    lr: float
    schedule: Annotated[Step | Cosine, Field(discriminator="kind")] = Step(factor=0.25)


class Fit(Strict):
    optimizer: Optimizer
    other: Optimizer = Field(default_factory=lambda: Optimizer(lr=1.0, schedule=Cosine(floor=1)))
    clip: float | None = None


def test_defaults_deep_inside_and_from_factories(write):
    write("a.yaml", "optimizer: {lr: 1, schedule: {every: 3}}\nother: {lr: 2}\n")
    config = read("a.yaml", ["other.schedule.floor=3"]).validate(Fit)
    assert config.optimizer.schedule == Step(every=3, factor=0.25)
    assert config.other == Optimizer(lr=2.0, schedule=Cosine(floor=3.0))


def test_another_kind_deep_inside_a_default(write):
    write("a.yaml", "optimizer: {lr: 1}\nother: {schedule: {kind: step, every: 2}}\n")
    config = read("a.yaml").validate(Fit)
    # The cosine of the field `other` is gone; the default of the section Optimizer is a step.
    assert config.other == Optimizer(lr=1.0, schedule=Step(every=2, factor=0.25))


class Named(Strict):
    name: str
    folder: PathText | None = None
    epochs: int = 1
    word: Literal["on", "off"] = "off"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("d/set #2", "d/set #2"),
        ("2024", "2024"),
        ("a: b", "a: b"),
        ("no", "no"),
        ("[x", "[x"),
        ("'a #1'", "a #1"),
        ("it's", "it's"),
    ],
)
def test_what_is_typed_for_a_text_is_taken_as_it_stands(write, typed, name):
    """Once, `data.root=d/set #2` used another data set; `output=2024` and `a: b` were refused."""
    write("a.yaml", "name: a\n")
    config = read("a.yaml", [f"name={typed}", f"folder={typed}", "word=on"]).validate(Named)
    assert config == Named(name=name, folder=name, word="on")


class Made(Strict):
    kind: Literal["made"] = "made"
    size: int = 1


class Held(Strict):
    kind: Literal["held"] = "held"
    root: str


class Either(Strict):
    data: Annotated[
        Made | Held,
        Field(discriminator="kind"),
        BeforeValidator(lambda given: {"kind": "held", "root": given["root"]}),
    ]


@pytest.mark.parametrize("before", ["data: {kind: made}\n", "data: {size: 3}\n"])
def test_a_text_of_another_kind_is_taken_as_it_stands(write, before):
    """`famseg train skull.yaml data.root=d/set #2`: the kind becomes folder, after phantom."""
    write("a.yaml", before)
    assert read("a.yaml", ["data.root=d/set #2"]).validate(Either).data == Held(root="d/set #2")


@pytest.mark.parametrize("typed", ["", "null", "~"])
def test_nothing_can_be_typed_where_it_is_allowed(write, typed):
    write("a.yaml", "name: a\nfolder: b\n")
    assert read("a.yaml", [f"folder={typed}"]).validate(Named).folder is None


def test_what_is_typed_for_other_keys_is_yaml(write):
    write("a.yaml", "name: a\n")
    with pytest.raises(InputError) as caught:
        read("a.yaml", ["epochs=[1"]).validate(Named)
    (fault,) = caught.value.faults
    assert fault.startswith("command line: epochs: not valid YAML")
    assert read("a.yaml", ["epochs=3 # three"]).validate(Named).epochs == 3


def test_home_and_variables_stand_in_paths(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("SET", "set #2")
    write("a.yaml", "name: '~'\nfolder: ~/${SET}/x\n")
    assert read("a.yaml").validate(Named) == Named(name="~", folder="/home/ann/set #2/x")
    assert read("a.yaml", ["folder=~/y"]).validate(Named).folder == "/home/ann/y"
    monkeypatch.delenv("SET")
    with pytest.raises(InputError, match=r"a\.yaml:2: folder: the environment variable SET is"):
        read("a.yaml").validate(Named)
