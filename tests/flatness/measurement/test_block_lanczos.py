from __future__ import annotations

import pytest
import torch

from famseg.flatness._measurement._block_lanczos import extreme_pairs

DOUBLE = torch.float64
SIZE = 60
SPECTRA = {
    "positive": torch.linspace(0.1, 5, SIZE),
    "indefinite": torch.linspace(-9, 2, SIZE),
    "repeated": torch.cat([torch.linspace(-1, 1, SIZE - 4), torch.full((4,), 3.0)]),
    "rank one": torch.cat([torch.zeros(SIZE - 1), torch.tensor([7.0])]),
    "identity": torch.ones(SIZE),
    "zero": torch.zeros(SIZE),
    "tiny": torch.linspace(-1e-20, 1e-20, SIZE),
}
ORDERS = {"magnitude": torch.abs, "largest": lambda x: x, "smallest": torch.neg}


def symmetric(spectrum):
    q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=DOUBLE)).Q
    return q @ spectrum.double().diag() @ q.T


def normals(dtype=DOUBLE):
    return lambda count: torch.randn(count, SIZE, dtype=dtype)


def wanted(matrix, which, count):
    values = torch.linalg.eigvalsh(matrix)
    return values[ORDERS[which](values).argsort(descending=True)[:count]]


# 29 is not a multiple of the block size: restarts leave some columns unused.
@pytest.mark.parametrize("basis_vectors", [None, 8, 29], ids=["whole", "restarted", "odd"])
@pytest.mark.parametrize("which", ORDERS)
@pytest.mark.parametrize("count", [1, 4, 7, SIZE])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_finds_an_end_of_the_spectrum(spectrum, count, which, basis_vectors):
    matrix, scale = symmetric(spectrum), spectrum.abs().max().item()
    pairs = extreme_pairs(
        lambda rows: rows @ matrix,
        normals(),
        count,
        which=which,
        tolerance=1e-6,
        max_products=2000,
        basis_vectors=basis_vectors,
    )
    assert pairs.converged.all()
    order = ORDERS[which]  # two of one magnitude have no order
    close = {"rtol": 1e-9, "atol": 1e-11 * scale}
    torch.testing.assert_close(order(pairs.values), order(wanted(matrix, which, count)), **close)
    identity = torch.eye(count, dtype=DOUBLE)
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, identity, rtol=0, atol=1e-12)
    off = pairs.vectors @ matrix - pairs.values[:, None] * pairs.vectors
    torch.testing.assert_close(off.norm(dim=1), pairs.residuals, rtol=1e-3, atol=1e-12 * scale)


def test_products_are_few_where_the_ends_stand_alone():
    matrix = symmetric(torch.cat([torch.linspace(0, 1, SIZE - 3), torch.tensor([10.0, -12, 15])]))
    pairs = extreme_pairs(
        lambda rows: rows @ matrix,
        normals(),
        3,
        which="magnitude",
        tolerance=1e-3,
        max_products=1000,
    )
    assert pairs.products <= 15
    expected = torch.tensor([15.0, -12.0, 10.0], dtype=DOUBLE)
    torch.testing.assert_close(pairs.values, expected, rtol=1e-5, atol=0)


def test_float32_ends_at_its_rounding():
    matrix = symmetric(SPECTRA["indefinite"]).float()
    pairs = extreme_pairs(
        lambda rows: rows @ matrix,
        normals(torch.float32),
        3,
        which="largest",
        tolerance=1e-12,
        max_products=200,
    )
    assert pairs.converged.all()
    expected = wanted(matrix.double(), "largest", 3)
    torch.testing.assert_close(pairs.values, expected, rtol=1e-5, atol=0)


def test_too_few_products_are_told():
    matrix = symmetric(SPECTRA["positive"])
    pairs = extreme_pairs(
        lambda rows: rows @ matrix,
        normals(),
        2,
        which="largest",
        tolerance=1e-8,
        max_products=7,
    )
    assert pairs.products == 6
    assert not pairs.converged.any()
    assert (pairs.values < wanted(matrix, "largest", 2)).all()
    assert (pairs.residuals > 1e-8).all()
