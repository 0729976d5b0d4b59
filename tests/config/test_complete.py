from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from famseg.config import Strict, read


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
