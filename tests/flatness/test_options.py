"""Every option is stated once, checked when it is given, and shown by `help`."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from torch import nn

from famseg.flatness import FAM, FlatnessError
from famseg.flatness._options import Options


def fam(**options):
    fixed = {"layer": "0", "loss": nn.MSELoss(), "weight": 0.1}
    return FAM(nn.Sequential(nn.Linear(3, 2)), **(fixed | options))


def test_options_are_frozen_and_may_be_replaced_as_a_whole():
    objective = fam(every=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.options.every = 4
    objective.options = objective.options.with_(every=4)
    assert objective.period == 4
    with pytest.raises(FlatnessError, match="every must be"):
        objective.options.with_(every=0)


def test_help_shows_every_option_with_its_default():
    shown = inspect.signature(FAM).parameters
    for field in dataclasses.fields(Options):
        assert shown[field.name].default == field.default
        assert f"        {field.name}: " in Options.__doc__
    assert "options" not in shown


def test_an_unknown_option_is_answered_with_near_ones():
    with pytest.raises(TypeError, match=r"FAM has no option 'probe'\. Did you mean 'probes'"):
        fam(probe=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ceiling": 0.0}, "ceiling must be a finite number above 0, got 0"),
        ({"ceiling": float("inf")}, "ceiling must be a finite number"),
        (
            {"ceiling": 1.0, "estimator": "noise"},
            "not compute a flatness that a ceiling could limit",
        ),
        ({"weight": -0.1}, r"away from flatness never stops .* Give ceiling="),
        ({"samples_in": ("mask",)}, "a path begins with inputs or targets"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(FlatnessError, match=message):
        fam(**options)
