from __future__ import annotations

from types import SimpleNamespace

import pytest

from famseg.cli._summary import summary_text


@pytest.mark.parametrize(
    ("kind", "weight", "said"),
    [
        ("relative_flatness", 0.1, "penalty: lambda * kappa 10.00% of the loss at the end"),
        ("weight_decay", 0.1, "penalty: lambda * ||W||^2 10.00% of the loss at the end"),
        ("jacobian_norm", 0.1, "penalty: lambda / 2 * ||J||^2 10.00% of the loss at the end"),
        ("relative_flatness", -0.1, "penalty: lambda * kappa -10.00% of the loss at the end"),
    ],
)
def test_the_end_of_a_run_says_what_was_penalized(
    kind: str, weight: float, said: str, tmp_path
) -> None:
    best = SimpleNamespace(epoch=1, value=0.5)
    report = SimpleNamespace(
        fit=SimpleNamespace(epochs=1, best=best, stopped_early=False, seconds=1.0),
        history=[{"epoch": 1, "train/loss": 0.5, "train/penalty": 0.5}],
        table="",
        signs=[],
        folder=SimpleNamespace(
            path=tmp_path, evaluation=tmp_path, checkpoint=lambda name: tmp_path / f"{name}.pt"
        ),
        tracking_uri=None,
        page=tmp_path / "report.html",
    )
    config = SimpleNamespace(seed=0, penalty=SimpleNamespace(kind=kind, weight=weight))
    lines = summary_text(report, config).splitlines()
    assert said in lines
    assert f"report       {tmp_path / 'report.html'}" in lines
    assert any("seed 0: 1 epoch, best validation" in line for line in lines)
