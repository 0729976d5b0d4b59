from __future__ import annotations

import math

import pytest

from famseg.messages import InputError
from famseg.sweep import Axis, draws, grid, parse_axes


def test_values_ranges_and_lists_are_told_apart() -> None:
    words = ["lambda=0,0.002", "seed=1..3", "n=1..7..3", "model.channels=[8,16],[16,32]", "a='x,y'"]
    assert [axis.values for axis in parse_axes(words)] == [
        ("0", "0.002"),
        ("1", "2", "3"),
        ("1", "4", "7"),
        ("[8,16]", "[16,32]"),
        ("'x,y'",),
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lambda", "is not of the form key=value"),
        ("lambda=0,,1", "has an empty value"),
        ("lambda=0,1,0", "has the value 0 twice"),
        ("seed=5..1", "has no value"),
        ("seed=1..5..0", "has no value"),
        ("seed=1..999999999", "has no value, or too many"),
        ("lambda=loguniform(0,1)", "needs 0 < low < high"),
        ("lambda=uniform(2,1)", "needs low < high"),
        ("lambda=uniform(a,b)", "the bounds must be numbers"),
        ("n=randint(1.5,3)", "the bounds must be whole numbers"),
    ],
)
def test_a_word_that_is_not_understood_is_named(word: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{message}") as error:
        parse_axes([word, "ok=1"])
    assert error.value.faults[0].startswith((word, repr(word)))


def test_a_key_under_both_its_names_is_given_twice() -> None:
    with pytest.raises(InputError, match=r"penalty\.lambda: is given twice"):
        parse_axes(["lambda=0,1", "penalty.lambda=2"])


def test_of_all_combinations_every_setting_has_a_result_after_the_first_seed() -> None:
    points = grid(parse_axes(["seed=1,2", "lambda=0,1", "x=a,b"]))
    assert [tuple(point) for point in points] == [("seed", "lambda", "x")] * 8
    assert [point["seed"] for point in points] == ["1"] * 4 + ["2"] * 4
    with pytest.raises(InputError, match="lambda: is drawn from a range"):
        grid(parse_axes(["lambda=uniform(0,1)"]))


def test_more_draws_begin_with_the_same_ones_and_have_every_seed() -> None:
    axes = parse_axes(["lambda=loguniform(1e-4,0.1)", "x=a,b,c", "n=randint(1,3)", "seed=1,2"])
    few, many = draws(axes, 3, seed=0), draws(axes, 40, seed=0)
    assert few[:3] == many[:3]
    assert [point["seed"] for point in many] == ["1"] * 40 + ["2"] * 40
    assert [dict(point, seed="2") for point in many[:40]] == many[40:]
    exponents = [math.log10(float(point["lambda"])) for point in many[:40]]
    assert -4 <= min(exponents) < -3 < -2 < max(exponents) <= -1
    assert {point["x"] for point in many} == {"a", "b", "c"}
    assert {point["n"] for point in many} == {"1", "2", "3"}
    assert draws(axes, 3, seed=1)[:3] != few[:3]


def test_an_axis_with_one_value_does_not_vary() -> None:
    assert [Axis("a", ("1",)).varies, Axis("a", ("1", "2")).varies] == [False, True]
