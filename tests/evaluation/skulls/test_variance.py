from __future__ import annotations

import numpy as np
import pytest

from famseg.evaluation import VarianceRatio, variance_ratio


@pytest.fixture
def truths():
    return list(np.random.default_rng(0).random((7, 5, 4, 3)) < 0.4)


def test_one_output_for_everybody_has_ratio_zero(truths):
    assert variance_ratio([truths[0]] * 7, truths) == 0.0
    assert variance_ratio([np.full((5, 4, 3), 0.3)] * 7, truths) == pytest.approx(0, abs=1e-12)


def test_outputs_that_are_the_truths_have_ratio_one(truths):
    assert variance_ratio(truths, truths) == 1.0


def test_the_ratio_is_that_of_the_variances(truths):
    outputs = list(np.random.default_rng(1).random((7, 5, 4, 3)))
    wanted = np.var(outputs, axis=0).mean() / np.var(np.array(truths, float), axis=0).mean()
    assert variance_ratio(outputs, truths) == pytest.approx(wanted)


def test_half_the_contrast_is_a_quarter_of_the_variance(truths):
    assert variance_ratio([truth / 2 for truth in truths], truths) == pytest.approx(0.25)


def test_the_order_of_the_cases_does_not_matter(truths):
    outputs = list(np.random.default_rng(1).random((7, 5, 4, 3)) < 0.5)
    assert variance_ratio(outputs[::-1], truths[::-1]) == variance_ratio(outputs, truths)


def test_it_takes_two_cases_that_differ(truths):
    assert VarianceRatio().compute() is None
    assert variance_ratio(truths[:1], truths[:1]) is None
    assert variance_ratio(truths[:2], [truths[0]] * 2) is None


def test_the_arrays_taken_in_are_not_kept(truths):
    ratio = VarianceRatio()
    output = np.zeros((5, 4, 3))
    ratio.update(output, truths[0])
    output[:] = 1.0  # a caller may use one buffer for all cases
    ratio.update(output, truths[1])
    wanted = 60 / 4 / np.var(np.array(truths[:2], float), axis=0).sum()
    assert ratio.compute() == pytest.approx(wanted)


def test_shapes_must_agree(truths):
    with pytest.raises(ValueError, match=r"output \(2,\), truth \(5, 4, 3\) .* differ in shape"):
        variance_ratio([np.ones(2)], truths)
    ratio = VarianceRatio()
    ratio.update(truths[0], truths[0])
    with pytest.raises(ValueError, match=r"cases before \(5, 4, 3\) differ in shape\. Bring them"):
        ratio.update(np.ones((2, 2, 2)), np.ones((2, 2, 2)))


def test_numbers_of_cases_must_agree(truths):
    with pytest.raises(ValueError, match="references differ: give one of each per case"):
        variance_ratio(truths[:3], truths)


def test_values_must_be_finite(truths):
    with pytest.raises(ValueError, match="output contains NaN or infinity"):
        variance_ratio([np.full((5, 4, 3), np.nan)] * 7, truths)
