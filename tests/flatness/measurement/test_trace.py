from __future__ import annotations

import functools
import sys

import pytest
import torch

from famseg.flatness._measurement._trace import LEAST, METHODS, PROBES, TraceEstimate, exact

DOUBLE = torch.float64
SIZE, PRODUCTS = 60, 24
INDEX = torch.arange(SIZE, dtype=DOUBLE)
SPECTRA = {
    "flat": torch.linspace(1, 2, SIZE, dtype=DOUBLE),
    "decaying": 0.7**INDEX,
    "indefinite": (-0.8) ** INDEX,
    "rank three": torch.cat([torch.tensor([5.0, -3.0, 1.0]), torch.zeros(SIZE - 3)]).double(),
}


def symmetric(spectrum):
    q = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=DOUBLE)).Q
    return q @ spectrum.diag() @ q.T


def signs(count, size=SIZE, dtype=DOUBLE):
    return 2 * torch.randint(0, 2, (count, size)).to(dtype) - 1


def normals(count, size=SIZE, dtype=DOUBLE):
    return torch.randn(count, size, dtype=dtype)


DRAWS = {"rademacher": signs, "gaussian": normals}


def estimate(matrix, method, products=PRODUCTS):
    return METHODS[method](lambda rows: rows @ matrix, DRAWS[PROBES[method]], products)


def estimates(matrix, method, draws=400):
    return [estimate(matrix, method) for _ in range(draws)]


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_unbiased_and_honest_about_its_error(method, spectrum):
    matrix = symmetric(spectrum)
    found = estimates(matrix, method)
    values = torch.tensor([one.value for one in found], dtype=DOUBLE)
    errors = torch.tensor([one.standard_error for one in found], dtype=DOUBLE)
    assert {one.products for one in found} == {PRODUCTS}
    off, spread = (values.mean() - matrix.trace()).abs().item(), values.std().item()
    if spectrum is SPECTRA["rank three"] and method != "hutchinson":
        # The sketch spans the whole space.
        assert max(off, spread, errors.max().item()) < 1e-12
        return
    assert off < 5 * spread / 20
    # The terms of xtrace are not independent: the correction for this may be too large.
    most = 1.6 if method == "xtrace" else 1.2
    assert 0.85 < errors.square().mean().sqrt().item() / spread < most


def test_the_variance_of_hutchinson_is_the_formula():
    matrix = symmetric(SPECTRA["indefinite"])
    values = torch.tensor([one.value for one in estimates(matrix, "hutchinson", 1000)])
    formula = 2 / PRODUCTS * (matrix.square().sum() - matrix.diagonal().square().sum())
    assert values.var().item() == pytest.approx(formula.item(), rel=0.15)


@pytest.mark.parametrize("spectrum", ["decaying", "indefinite"])
def test_a_spectrum_that_decays_takes_the_variance_away(spectrum):
    matrix = symmetric(SPECTRA[spectrum])
    variances = {
        method: torch.tensor([one.value for one in estimates(matrix, method, 100)]).var().item()
        for method in METHODS
    }
    assert variances["hutch++"] < variances["hutchinson"] / 10
    assert variances["xtrace"] < variances["hutch++"] / 3


def test_for_a_flat_spectrum_hutchinson_is_better():
    matrix = symmetric(SPECTRA["flat"])
    variances = {
        method: torch.tensor([one.value for one in estimates(matrix, method)]).var().item()
        for method in METHODS
    }
    assert variances["hutchinson"] < variances["xtrace"] < 3 * variances["hutchinson"]


def test_xtrace_is_exact_for_a_multiple_of_the_identity():
    found = estimate(3 * torch.eye(SIZE, dtype=DOUBLE), "xtrace")
    assert found.value == pytest.approx(3 * SIZE, rel=1e-12)
    assert found.standard_error < 1e-10


def by_leaving_out(matrix, omega):
    """The formula of XTrace, with a basis of its own for each probe."""
    terms = []
    for i, probe in enumerate(omega):
        others = torch.cat([omega[:i], omega[i + 1 :]])
        q = torch.linalg.qr(matrix @ others.T).Q
        mu = probe - q @ (q.T @ probe)
        mu = mu / mu.norm() * (SIZE - len(others)) ** 0.5
        terms.append((q.T @ matrix @ q).trace() + mu @ matrix @ mu)
    return torch.stack(terms)


@pytest.mark.parametrize("products", [4, 11, 24])
def test_xtrace_is_the_mean_over_sketches_without_a_probe(products):
    matrix, omega = symmetric(SPECTRA["indefinite"]), normals(products // 2)
    found = METHODS["xtrace"](lambda rows: rows @ matrix, lambda _: omega, products)
    terms = by_leaving_out(matrix, omega)
    assert found.value == pytest.approx(terms.mean().item(), rel=1e-10)
    error = terms.std().item() * (2 / len(terms)) ** 0.5
    assert found.standard_error == pytest.approx(error, rel=1e-8)
    assert found.products == products // 2 * 2


@pytest.fixture
def oracle():
    reason = "the oracle is not installed: see requirements/oracles.txt"
    return pytest.importorskip("curvlinops", reason=reason)


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_agrees_with_curvlinops_probe_by_probe(monkeypatch, oracle, method, spectrum):
    matrix, drawn = symmetric(spectrum), []

    def noted(count):
        drawn.append(signs(count))
        return drawn[-1]

    found = METHODS[method](lambda rows: rows @ matrix, noted, PRODUCTS)
    each = iter(torch.cat(drawn))
    theirs = oracle.hutchinson_trace if method == "hutchinson" else oracle.hutchpp_trace
    module = sys.modules[theirs.__module__]
    monkeypatch.setattr(module, "random_vector", lambda *_: next(each))
    assert found.value == pytest.approx(theirs(matrix, PRODUCTS).item(), rel=1e-9)


def test_agrees_with_the_xtrace_of_curvlinops(oracle):
    """It does not rescale the probes: equal where little of the trace is outside the sketch."""
    matrix = symmetric((-0.3) ** INDEX)
    wanted = oracle.xtrace(matrix, PRODUCTS, distribution="normal").item()
    assert estimate(matrix, "xtrace").value == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_fewest_products_give_an_error(method):
    assert estimate(symmetric(SPECTRA["flat"]), method, LEAST[method]).standard_error > 0


@pytest.mark.parametrize("method", METHODS)
def test_zero_has_the_trace_zero(method):
    found = METHODS[method](torch.zeros_like, normals, PRODUCTS)
    assert (found.value, found.standard_error) == (0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_float32_is_right_to_its_rounding(method):
    matrix = symmetric(SPECTRA["rank three"]).float()
    draw = functools.partial(DRAWS[PROBES[method]], dtype=torch.float32)
    found = METHODS[method](lambda rows: rows @ matrix, draw, PRODUCTS)
    assert found.value == pytest.approx(3, abs=5 * found.standard_error + 1e-4)


def test_exact_takes_all_unit_vectors_in_parts():
    matrix, seen = symmetric(SPECTRA["indefinite"]), []

    def product(rows):
        seen.append(len(rows))
        return rows @ matrix

    found = exact(product, SIZE, matrix, together=25)
    assert found.value == pytest.approx(matrix.trace().item(), rel=1e-12)
    assert (found.standard_error, found.method, found.products) == (0, "exact", SIZE)
    assert seen == [25, 25, 10]


def test_says_itself_in_a_line():
    said = str(TraceEstimate(1.23456, 0.0789, "xtrace", 30))
    assert said == "1.235 +- 0.079 (xtrace, 30 products)"
