from __future__ import annotations

import pytest
import torch

from famseg.flatness._estimators._lanczos import largest_pair

SPECTRA = {
    "positive": torch.linspace(0.1, 5, 60),
    "indefinite": torch.linspace(-9, 2, 60),
    "negative": torch.linspace(-9, -2, 60),
    "far below": torch.cat([torch.tensor([-1e4]), torch.linspace(0, 1, 59)]),
    "repeated": torch.cat([torch.linspace(-3, 0, 57), torch.full((3,), 2.0)]),
    "rank one": torch.cat([torch.zeros(59), torch.tensor([7.0])]),
    "negative rank one": torch.cat([torch.tensor([-7.0]), torch.zeros(59)]),
    "identity": torch.ones(60),
    "minus identity": -torch.ones(60),
    "zero": torch.zeros(60),
    "tiny": torch.linspace(-1e-20, 1e-20, 60),
}


def symmetric(spectrum):
    q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64)).Q
    return q @ spectrum.double().diag() @ q.T


@pytest.mark.parametrize("basis_vectors", [None, 8], ids=["whole", "restarted"])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_finds_the_largest_and_not_the_largest_in_modulus(spectrum, basis_vectors):
    matrix = symmetric(spectrum)
    start = torch.randn(60, dtype=torch.float64)
    pair = largest_pair(
        lambda v: matrix @ v,
        start,
        tolerance=1e-8,
        max_iterations=600,
        basis_vectors=basis_vectors,
    )
    wanted = torch.linalg.eigvalsh(matrix)[-1].item()
    size = spectrum.abs().max().item()
    assert pair.converged
    assert pair.value == pytest.approx(wanted, rel=1e-7, abs=1e-13 * size)
    assert pair.vector.norm().item() == pytest.approx(1)
    error = (matrix @ pair.vector - pair.value * pair.vector).norm().item()
    assert error <= 1e-8 * abs(wanted) + 1e-12 * size
    assert error == pytest.approx(pair.residual, rel=1e-3, abs=1e-12 * size)


def test_float32_ends_at_its_rounding():
    matrix = symmetric(SPECTRA["indefinite"]).float()
    pair = largest_pair(lambda v: matrix @ v, torch.randn(60), tolerance=1e-12, max_iterations=200)
    assert pair.converged
    assert pair.iterations <= 60
    assert pair.value == pytest.approx(2, rel=1e-5)


def test_products_are_few_where_the_top_stands_alone():
    matrix = symmetric(torch.cat([torch.linspace(0, 1, 199), torch.tensor([10.0])]))
    start = torch.randn(200, dtype=torch.float64)
    pair = largest_pair(lambda v: matrix @ v, start, tolerance=1e-6, max_iterations=100)
    assert pair.iterations < 12


def test_too_few_iterations_are_told():
    matrix = symmetric(SPECTRA["positive"])
    start = torch.randn(60, dtype=torch.float64)
    pair = largest_pair(lambda v: matrix @ v, start, tolerance=1e-8, max_iterations=5)
    assert not pair.converged
    assert pair.iterations == 5
    assert pair.value < 5  # a lower bound
    assert pair.residual > 1e-8


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_gives_nan(value):
    pair = largest_pair(
        lambda v: torch.full_like(v, value), torch.randn(5), tolerance=1e-3, max_iterations=9
    )
    assert pair.value != pair.value
    assert not pair.converged
