from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from famseg.flatness import (
    FAM,
    FeatureRobustness,
    FlatnessError,
    FlatnessHistory,
    HistoryPoint,
    LayerRow,
    Measurement,
    Report,
    feature_robustness,
    report,
)


def row(name, kappa=None, error=None):
    return LayerRow(name, "Linear", d=3, m=5, kappa=kappa, kappa_error=error)


def reported(*rows):
    return Report("Net", samples=8, batches=1, loss=1.0, probes=1, seed=0, rows=rows)


def robustness(mean=0.4, kappa=50.0):
    return FeatureRobustness(
        mean=mean,
        low=mean - 0.1,
        high=mean + 0.2,
        confidence=0.95,
        standard_error=0.05,
        per_draw=(mean, mean),
        draws=2,
        samples=8,
        loss=1.0,
        delta=0.2,
        kind="orthogonal",
        features=5,
        kappa=kappa,
    )


def measured(values, kappa=2.0):
    return Measurement(torch.tensor(kappa), values, torch.tensor(1.0))


def test_a_report_gives_the_kappa_of_each_measured_layer():
    history = FlatnessHistory()
    history.add(3, reported(row("a", 2.0, 0.5), row("b", -1.0), row("c")))
    assert history.points == [
        HistoryPoint(3, "kappa", "a", 2.0, 1.5, 2.5),
        HistoryPoint(3, "kappa", "b", -1.0),
    ]


def test_a_measurement_gives_kappa_with_its_error_if_there_is_one():
    history = FlatnessHistory()
    history.add(0, measured(torch.tensor([1.0, 3.0])), layer="head")
    history.add(1, measured(None))
    assert history.points == [
        HistoryPoint(0, "kappa", "head", 2.0, 1.0, 3.0),
        HistoryPoint(1, "kappa", "", 2.0),
    ]


def test_robustness_stands_beside_its_prediction():
    history = FlatnessHistory()
    history.add(0, robustness(), layer="head")
    history.add(1, robustness(kappa=None))
    assert history.points == [
        HistoryPoint(0, "feature_robustness", "head", 0.4, 0.4 - 0.1, 0.4 + 0.2, 0.2),
        HistoryPoint(0, "predicted_robustness", "head", 0.2**2 / 10 * 50.0, delta=0.2),
        HistoryPoint(1, "feature_robustness", "", 0.4, 0.4 - 0.1, 0.4 + 0.2, 0.2),
    ]


def test_losses_are_taken_alone_and_at_the_same_step():
    history = FlatnessHistory()
    history.add(0, training_loss=torch.tensor(0.5))
    history.add(0, validation_loss=0.75)
    assert history.points == [
        HistoryPoint(0, "training_loss", "", 0.5),
        HistoryPoint(0, "validation_loss", "", 0.75),
    ]


def test_takes_what_the_library_measures():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    data = torch.randn(5, 4), torch.arange(5) % 3
    history = FlatnessHistory()
    found = report(model, data, F.cross_entropy, quantities=[], rescale=None)
    one = FAM(model, layer="2", loss=F.cross_entropy, weight=1).measure(*data)
    rise = feature_robustness(model, "2", data, 0.1, loss=F.cross_entropy, draws=2)
    history.add(0, found, one, rise, layer="2")
    values = {(point.quantity, point.layer): point.value for point in history.points}
    assert values == {
        ("kappa", "0"): found["0"].kappa,
        ("kappa", "2"): one.kappa.item(),
        ("feature_robustness", "2"): rise.mean,
        ("predicted_robustness", "2"): rise.predicted,
    }


def test_records_go_through_json_and_can_be_gone_on_with():
    history = FlatnessHistory()
    history.add(0, reported(row("a", 2.0, 0.5)), robustness(), training_loss=1.0)
    written = json.dumps(history.records(), allow_nan=False)
    again = FlatnessHistory(json.loads(written))
    assert again.points == history.points
    again.add(1, training_loss=math.inf)
    assert len(history.points) == len(again.points) - 1 == 4
    assert again.records()[-1]["value"] is None
    assert math.isnan(FlatnessHistory(again.records()).points[-1].value)


def filled():
    history = FlatnessHistory()
    for step in (2, 0, 1):  # in any order
        layers = row("a", 10.0 ** (step - 1), 5.0), row("b", -1.0 * step)
        history.add(step, reported(*layers), robustness(0.1 * step), layer="a")
        history.add(step, training_loss=1 / (step + 1), validation_loss=1.0)
    history.add(3, reported(row("a", math.nan)), training_loss=math.inf)
    return history


def drawn(monkeypatch, history):
    """The panels of the plot, taken from the saved figure."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig

    def noted(figure, *args, **options):
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    assert history.image().startswith(b"\x89PNG")
    return figures[0].axes


def lines(axes):
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def test_each_panel_shows_its_numbers_in_the_order_of_steps(monkeypatch):
    kappa, rise, loss = drawn(monkeypatch, filled())
    assert lines(kappa) == {
        "layer a": ([0, 1, 2], [0.1, 1.0, 10.0]),
        "layer b": ([0, 1, 2], [0.0, -1.0, -2.0]),
    }
    assert lines(rise) == {
        "layer a, delta 0.2": ([0, 1, 2], [0.0, 0.1, 0.2]),
        "predicted by kappa": ([0, 1, 2], [pytest.approx(0.2)] * 3),
    }
    assert lines(loss) == {
        "training": ([0, 1, 2], [1.0, 0.5, 1 / 3]),
        "validation": ([0, 1, 2], [1.0] * 3),
    }
    assert [text.get_text() for text in loss.get_legend().get_texts()][-1] == "gap"
    (band,) = kappa.collections
    ends = band.get_paths()[0].vertices[:, 1]
    assert (ends.min(), ends.max()) == (-4.9, 15.0)


def test_what_is_not_there_has_no_panel(monkeypatch):
    history = FlatnessHistory()
    history.add(0, validation_loss=1.0)
    (loss,) = drawn(monkeypatch, history)
    assert set(lines(loss)) == {"validation"}


def test_the_scale_is_logarithmic_where_values_are_positive_and_far_apart(monkeypatch):
    history = FlatnessHistory()
    for step, value in enumerate((1.0, 30.0)):
        history.add(step, reported(row("a", value, 2.0)), training_loss=5 + step)
    kappa, loss = drawn(monkeypatch, history)
    assert (kappa.get_yscale(), loss.get_yscale()) == ("log", "linear")
    assert kappa.get_ylim()[0] == pytest.approx(1 / 1.5)
    (mixed, *_) = drawn(monkeypatch, filled())
    assert mixed.get_yscale() == "linear"


def test_many_layers_are_drawn_and_the_first_are_named(monkeypatch):
    history = FlatnessHistory()
    history.add(0, reported(*(row(str(number), number) for number in range(20))))
    (kappa,) = drawn(monkeypatch, history)
    assert len(lines(kappa)) == 7
    assert len(kappa.lines) >= 20


def test_the_plot_is_written_to_a_file(tmp_path):
    history = filled()
    history.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes() == history.image()


def test_faulty_arguments_are_refused():
    history = FlatnessHistory()
    with pytest.raises(FlatnessError, match="nothing to add at step 4: give a report"):
        history.add(4)
    with pytest.raises(FlatnessError, match=r"a float cannot be added\. Give the result of report"):
        history.add(4, reported(row("a", 1.0)), 0.5)
    assert history.points == []  # nothing of a call that fails
    with pytest.raises(FlatnessError, match=r"contains nothing to draw\. Add a measurement first"):
        history.image()


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(FlatnessError, match="pip install matplotlib"):
        filled().image()
