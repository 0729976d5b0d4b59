from __future__ import annotations

import pytest

from famseg.tracking._names import (
    color,
    flatten,
    method_label,
    run_name,
    text_of,
    valid_name,
)


@pytest.mark.parametrize(
    ("weight", "name"),
    [(0.0, "lambda=0 seed=3"), (2e-3, "lambda=0.002 seed=3"), (1e-7, "lambda=1e-07 seed=3")],
)
def test_a_run_is_named_by_lambda_and_seed(weight, name):
    assert run_name(weight, 3) == name


NONE = {"kind": "none"}
FLAT = {"kind": "relative_flatness", "layer": "head", "lambda": 0.1}


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({"penalty": NONE, "sam": None, "loss": {"label_smoothing": 0.0}}, "baseline"),
        ({"penalty": {**FLAT, "lambda": 0.0}}, "baseline"),
        ({"penalty": FLAT}, "FAM lambda=0.1"),
        (
            {"penalty": {"kind": "weight_decay", "layer": "head", "lambda": 1e-3}},
            "weight decay of head lambda=0.001",
        ),
        ({"penalty": NONE, "sam": {"rho": 0.05, "adaptive": False}}, "SAM rho=0.05"),
        ({"penalty": NONE, "sam": {"rho": 0.5, "adaptive": True}}, "ASAM rho=0.5"),
        ({"sam": {"kind": "sam", "rho": 0.5, "adaptive": True}}, "ASAM rho=0.5"),
        (
            {"sam": {"kind": "gsam", "rho": 0.05, "rho_min": 0.0, "alpha": 0.4, "adaptive": False}},
            "GSAM rho=0.05 alpha=0.4",
        ),
        (
            {"sam": {"kind": "wsam", "rho": 0.05, "gamma": 0.9, "adaptive": True}},
            "WSAM rho=0.05 gamma=0.9 adaptive",
        ),
        (
            {"sam": {"kind": "looksam", "rho": 0.1, "every": 10, "alpha": 0.7}},
            "LookSAM rho=0.1 every=10 alpha=0.7",
        ),
        ({"nso": {"sigma": 0.01, "pairs": 1}}, "NSO sigma=0.01 pairs=1"),
        (
            {"training": {"swa": {"start": 0.75, "every": 1, "learning_rate": None}}},
            "SWA start=0.75 every=1",
        ),
        (
            {"training": {"swa": {"start": 0.75, "every": 1, "learning_rate": 0.05}}},
            "SWA start=0.75 every=1 learning_rate=0.05",
        ),
        ({"training": {"swa": None}}, "baseline"),
        ({"penalty": {"kind": "jacobian_norm", "lambda": 0.01}}, "Jacobian norm lambda=0.01"),
        ({"penalty": NONE, "loss": {"label_smoothing": 0.1}}, "label smoothing 0.1"),
        (
            {"penalty": FLAT, "sam": {"rho": 0.05, "adaptive": False}},
            "FAM lambda=0.1 + SAM rho=0.05",
        ),
        ({"penalty": {"kind": "mine", "lambda": 2.0}}, "mine lambda=2"),
        ({}, "baseline"),
    ],
)
def test_a_method_is_named_by_what_it_adds_to_the_loss_or_the_step(config, label):
    assert method_label(config) == label
    assert run_name(0.0, 2, label) == f"{label} seed=2"


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


def test_colors_differ_between_neighboring_lambdas():
    weights = [0.0, 1e-4, 5e-4, 2e-3, 1e-2, 5e-2, 0.2, 1.0]
    assert len({color(weight) for weight in weights}) == len(weights)


def test_methods_are_told_apart_by_color():
    methods = ["baseline", "SAM rho=0.05", "ASAM rho=0.5", "label smoothing 0.1"]
    methods += ["GSAM rho=0.05", "WSAM rho=0.05", "LookSAM rho=0.1", "NSO sigma=0.01"]
    methods += ["SWA start=0.75", "Jacobian norm lambda=0.01"]
    assert len({color(0.0, method) for method in methods}) == len(methods)
    assert (
        color(0.1, "FAM lambda=0.1") == color(0.1) != color(0.1, "weight decay of head lambda=0.1")
    )


def test_colors_end_at_the_ends():
    assert color(1e-9) == color(1e-4)
    assert color(50.0) == color(1.0)
