from __future__ import annotations

import pytest

from famseg.tracking._names import color, flatten, run_name, text_of, valid_name


@pytest.mark.parametrize(
    ("weight", "name"),
    [(0.0, "lambda=0 seed=3"), (2e-3, "lambda=0.002 seed=3"), (1e-7, "lambda=1e-07 seed=3")],
)
def test_a_run_is_named_by_lambda_and_seed(weight, name):
    assert run_name(weight, 3) == name


def test_flatten_keeps_empty_sections_and_lists():
    assert flatten({"a": {}, "b": {"c": {"d": [1, 2]}}}) == {"a": {}, "b.c.d": [1, 2]}


def test_texts_are_those_of_yaml():
    assert [text_of(v) for v in (1e-4, False, None, {}, "x")] == [
        "0.0001",
        "false",
        "null",
        "{}",
        "x",
    ]


@pytest.mark.parametrize("name", ["val/dsc", "a b", "ä (b)!", "x:y", "p=1,q"])
def test_valid_names_pass_mlflows_own_check(name, empty_database):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(valid_name(name))
    _validate_param_name(valid_name(name))


def test_colours_differ_between_neighbouring_lambdas():
    weights = [0.0, 1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.2, 1.0]
    assert len({color(weight) for weight in weights}) == len(weights)


def test_colours_end_at_the_ends():
    assert color(1e-9) == color(1e-4)
    assert color(50.0) == color(1.0)
