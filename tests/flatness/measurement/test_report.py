from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from famseg.flatness import (
    FlatnessError,
    LayerError,
    LayerNotFoundError,
    LayerRow,
    LossError,
    Measurement,
    Report,
    RescalingRow,
    report,
)
from famseg.flatness._measurement._spread import combined

Dense = Callable[..., Tensor]


@pytest.fixture
def data(batch) -> tuple[Tensor, Tensor]:
    return batch


@pytest.fixture
def dense() -> Dense:
    """The whole Hessian of one layer, shape ``(d, m, d, m)``, by differentiating the weight."""

    def of(model: nn.Module, layer: str, inputs: Tensor, targets: Tensor) -> Tensor:
        weight = model.get_submodule(layer).weight.detach()

        def loss(moved: Tensor) -> Tensor:
            outputs = functional_call(model, {f"{layer}.weight": moved}, (inputs,))
            return F.cross_entropy(outputs, targets)

        d, m = len(weight), weight[0].numel()
        return hessian(loss, weight).reshape(d, m, d, m)

    return of


@pytest.fixture
def conv() -> nn.Sequential:
    """Two convolutions, the second in two groups, and a head: "0", "2" and "5"."""
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.Tanh(),
        nn.Conv2d(4, 2, 2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    return nn.Sequential(*layers).double()


def split(data: tuple[Tensor, Tensor], *at: int) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = (tensor.tensor_split(at) for tensor in data)
    return list(zip(inputs, targets, strict=True))


def kappa_of(weight: Tensor, h: Tensor) -> float:
    w = weight.detach().flatten(1)
    return torch.einsum("si,ti,sktk->", w, w, h).item()


@pytest.mark.parametrize("parts", [(), (2,)])
@pytest.mark.parametrize("layer", ["0", "2", "4"])
def test_every_number_is_that_of_the_whole_hessian(net, data, dense, layer, parts) -> None:
    # As many probes as neurons: exact.
    row = report(net, split(data, *parts), F.cross_entropy, layers=[layer], probes=6)[layer]
    weight, h = net.get_submodule(layer).weight, dense(net, layer, *data)
    flat = h.reshape(weight.numel(), -1)
    trace, norm = flat.trace().item(), weight.detach().square().sum().item()
    assert (row.d, row.m, row.samples) == (*weight.shape, 5)
    assert row.kappa == pytest.approx(kappa_of(weight, h), rel=1e-10)
    assert row.kappa_per_feature == pytest.approx(row.kappa / weight.shape[1])
    assert row.norm_squared == pytest.approx(norm)
    assert row.simplified == pytest.approx(norm * trace, rel=1e-10)
    assert row.trace == pytest.approx(trace, rel=1e-10)
    assert row.largest_eigenvalue == pytest.approx(torch.linalg.eigvalsh(flat)[-1].item(), rel=1e-2)


def test_the_neurons_eigenvalues_are_those_of_the_hessians_of_the_batches(net, data, dense) -> None:
    weight, batches = net[2].weight.detach(), split(data, 2)
    found = []
    for inputs, targets in batches:
        h = dense(net, "2", inputs, targets)
        tops = [torch.linalg.eigvalsh(h[s, :, s])[-1] for s in range(len(weight))]
        found.append((weight.square().sum(1) * torch.stack(tops)).sum().item())
    row = report(net, batches, F.cross_entropy, layers=["2"])["2"]
    assert row.max_eigenvalue == pytest.approx(0.4 * found[0] + 0.6 * found[1], rel=1e-6)


@pytest.mark.parametrize("layer", ["0", "2"])
def test_a_convolution_is_within_its_standard_error(conv, dense, layer) -> None:
    # Copies of one sample: the standard error is only the noise of the probes.
    image, target = torch.randn(1, 1, 5, 5, dtype=torch.float64), torch.tensor([2])
    data = image.expand(60, 1, 5, 5), target.expand(60)
    row = report(conv, data, F.cross_entropy, layers=[layer], probes=24, rescale=None)[layer]
    weight, h = conv.get_submodule(layer).weight, dense(conv, layer, image, target)
    largest = torch.linalg.eigvalsh(h.reshape(weight.numel(), -1))[-1].item()
    if row.groups == 2:  # neurons of two groups have no input in common
        h = h * torch.eye(2, dtype=h.dtype)[:, None, :, None]
    exact, trace = kappa_of(weight, h), h.flatten(2).flatten(0, 1).trace().item()
    assert (row.estimator, row.probes, row.spread) == ("sample_probes", 24, "samples")
    assert abs(row.kappa - exact) < 3 * row.kappa_error
    assert row.kappa_error < 0.1 * abs(exact)
    assert abs(row.simplified - row.norm_squared * trace) < 3 * row.simplified_error
    assert row.simplified_error < 0.2 * abs(row.norm_squared * trace)
    assert row.largest_eigenvalue == pytest.approx(largest, rel=1e-2)


def test_the_standard_error_is_over_samples_where_they_have_values(net, data, dense) -> None:
    values = [kappa_of(net[2].weight, dense(net, "2", x, y)) for x, y in split(data, 1, 2, 3, 4)]
    row = report(net, split(data, 2), F.cross_entropy, layers=["2"], probes=5)["2"]
    assert (row.spread, row.replicates, row.probes) == ("samples", 5, 0)
    wanted = torch.tensor(values, dtype=torch.float64).std().item() / math.sqrt(5)
    assert row.kappa_error == pytest.approx(wanted, rel=1e-10)


def squared_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that couples the samples of a batch."""
    return (outputs.mean(0) - targets.double().mean()).square().sum().exp()


def test_where_samples_interact_the_standard_error_is_over_batches_or_probes(net, data) -> None:
    several = report(net, split(data, 2), squared_mean, layers=["0"])["0"]
    assert (several.spread, several.replicates, several.probes) == ("batches", 2, 4)
    one = report(net, data, squared_mean, layers=["0"])["0"]
    assert (one.spread, one.replicates) == ("probes", 4)
    assert one.kappa_error > 0


def measurement(kappa: float, *, probes: list[float] | None = None) -> Measurement:
    by_probe = None if probes is None else torch.tensor(probes)
    return Measurement(torch.tensor(kappa), None, torch.tensor(0.0), by_probe)


def test_batches_are_weighted_by_their_sizes() -> None:
    value = combined([measurement(1.0), measurement(5.0)], [3, 1])
    assert value.mean == 2.0
    # shares 3/4 and 1/4, deviations -1 and 3: sqrt(2 ((3/4)^2 + (3/4)^2))
    assert value.error == pytest.approx(1.5)
    assert (value.spread, value.replicates, value.probes) == ("batches", 2, 0)


def test_one_batch_has_the_spread_of_its_probes_or_none() -> None:
    value = combined([measurement(2.0, probes=[1.0, 3.0])], [4])
    assert (value.spread, value.replicates) == ("probes", 2)
    assert value.error == pytest.approx(1.0)
    assert combined([measurement(2.0, probes=[2.0])], [4]).error is None
    assert combined([measurement(2.0)], [4]).spread is None


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_rescaling_check_moves_the_trace_alone(net, conv, data, factor) -> None:
    images = torch.randn(4, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    for model, given in ((net, data), (conv, images)):
        found = report(model, given, F.cross_entropy, quantities=(), rescale=factor)
        assert len(found.rescaling) == 3
        for check in found.rescaling:
            assert check.kappa_change < 1e-10
            assert check.trace_factor == pytest.approx(1 / factor**2, rel=1e-10)


def test_the_check_compares_the_first_batch_with_itself(net, data, dense) -> None:
    batches = split(data, 2)
    found = report(net, batches, F.cross_entropy, layers=["4"], quantities=())
    (check,) = found.rescaling
    h = dense(net, "4", *batches[0])
    assert check.kappa == pytest.approx(kappa_of(net[4].weight, h), rel=1e-10)
    assert check.trace == pytest.approx(h.reshape(15, 15).trace().item(), rel=1e-10)


def test_a_kappa_that_moved_is_told() -> None:
    moved = RescalingRow("a", 2.0, kappa=1.0, kappa_after=1.1, trace=1.0, trace_after=0.25)
    assert moved.kappa_change == pytest.approx(0.1)
    row = LayerRow("a", "Linear", 2, 2, kappa=1.0)
    shown = Report("Net", 1, 1, 0.0, 1, 0, (row,), (moved,)).table()
    assert "kappa changed by 0.1 (relative), Tr(H) by a factor 0.25." in shown
    assert "! kappa changed: rounding in this precision" in shown


def test_changes_of_zeros_are_no_division_by_zero() -> None:
    still = RescalingRow("a", 2.0, kappa=0.0, kappa_after=0.0, trace=None, trace_after=None)
    assert (still.kappa_change, still.kappa_factor, still.trace_factor) == (0.0, None, None)
    gone = RescalingRow("a", 2.0, kappa=0.0, kappa_after=1e-9, trace=0.0, trace_after=0.0)
    assert (gone.kappa_change, gone.trace_factor) == (math.inf, None)


class Odd(nn.Module):
    """A layer that is called twice, one that is never called, a frozen one, and a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.twice = nn.Linear(6, 6)
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.first.requires_grad_(False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(1)
        x = self.dropout(self.norm(self.first(x)).relu())
        return self.head(self.twice(self.twice(x).tanh()).tanh())


def test_layers_that_cannot_be_measured_are_rows_with_the_reason(data) -> None:
    found = report(Odd(), data, F.cross_entropy)
    # In the order of their calls; those that were never called come last.
    assert [row.name for row in found.rows] == ["first", "twice", "head", "unused"]
    assert [check.name for check in found.rescaling] == ["first", "head"]
    assert "layer 'twice' was called 2 times" in found["twice"].failure
    assert "layer 'unused' was not called" in found["unused"].failure
    assert found["twice"].kappa is None
    shown = str(found)
    assert "not measured: layer 'twice' was called 2 times" in shown
    assert "2 of 4 layers could not be measured." in shown


def test_a_frozen_layer_is_measured_and_stays_frozen(net, data) -> None:
    wanted = report(net, data, F.cross_entropy)["2"].kappa
    net.requires_grad_(False)
    assert report(net, data, F.cross_entropy)["2"].kappa == wanted
    assert not any(p.requires_grad for p in net.parameters())


def state_of(model: nn.Module) -> list[object]:
    """All state that a report must not change."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [
        [(name, id(tensor), tensor.requires_grad) for name, tensor in named],
        [tensor.detach().numpy().tobytes() for _, tensor in named],
        [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


def test_a_report_leaves_no_trace(data) -> None:
    model = Odd()
    F.cross_entropy(model(data[0]), data[1]).backward()
    model.dropout.eval()  # a mode of its own among modules that train
    before = state_of(model)
    with torch.no_grad():
        report(model, split(data, 2), F.cross_entropy, progress=lambda *_: torch.rand(1))
    assert state_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_report_leaves_no_trace(data, error) -> None:
    model = Odd()
    F.cross_entropy(model(data[0]), data[1]).backward()
    before = state_of(model)

    def failing_at(call: int) -> Callable[[Tensor, Tensor], Tensor]:
        calls = itertools.count()

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            if next(calls) == call:
                raise error
            return F.cross_entropy(outputs, targets)

        return loss

    for call in itertools.count(0, 17):
        try:
            report(model, split(data, 2), failing_at(call), layers=["first", "head"], probes=1)
        except error:
            assert state_of(model) == before
        else:
            break
    assert call > 50


def test_progress_counts_up_to_the_end(data) -> None:
    seen: list[tuple[str, int, int]] = []
    report(Odd(), data, F.cross_entropy, progress=lambda *step: seen.append(step))
    steps = [done for _, done, _ in seen]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20
    assert {total for _, _, total in seen} == {20}
    assert seen[0][0] == "first"


def test_what_is_not_asked_for_is_not_measured(net, data) -> None:
    row = report(net, data, F.cross_entropy, layers=["0"], quantities=())["0"]
    assert row.kappa is not None
    assert (row.simplified, row.trace, row.largest_eigenvalue) == (None, None, None)
    assert report(net, data, F.cross_entropy, rescale=None).rescaling == ()


def test_many_neurons_have_no_eigenvalues_of_their_own_unless_asked(data) -> None:
    wide = nn.Sequential(nn.Linear(4, 65), nn.Tanh(), nn.Linear(65, 3)).double()
    assert report(wide, data, F.cross_entropy)["0"].max_eigenvalue is None
    asked = report(wide, data, F.cross_entropy, layers=["0"], quantities=["max_eigenvalue"])
    assert asked["0"].max_eigenvalue > 0
    assert asked["0"].trace is None


def test_the_probes_depend_on_the_seed_alone(conv) -> None:
    data = torch.randn(3, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2])
    first, again, other = (
        report(conv, data, F.cross_entropy, layers=["0"], seed=seed)["0"].kappa
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_layers_are_chosen_by_name_and_by_pattern(net, data) -> None:
    found = report(net, data, F.cross_entropy, layers=["[02]", "4"], quantities=())
    assert [row.name for row in found.rows] == ["0", "2", "4"]
    with pytest.raises(LayerNotFoundError, match=r"no layer is called 'head'\."):
        report(net, data, F.cross_entropy, layers=["head"])
    with pytest.raises(LayerError, match="layer '1' is a Tanh"):
        report(net, data, F.cross_entropy, layers=["0", "1"])
    with pytest.raises(LayerError, match=r"layers is empty. Name a layer"):
        report(net, data, F.cross_entropy, layers=[])
    with pytest.raises(LayerError, match="a Tanh has no linear or convolution layer"):
        report(nn.Tanh(), data, F.cross_entropy)


def test_batches_may_come_from_a_loader(net, data) -> None:
    whole = report(net, data, F.cross_entropy, quantities=(), rescale=None)["4"].kappa
    dataset = torch.utils.data.TensorDataset(*data)
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True)
    for given in (loader, (pair for pair in split(data, 1)), list(data)):
        found = report(net, given, F.cross_entropy, quantities=(), rescale=None)
        assert found.samples == 5
        assert found["4"].kappa == pytest.approx(whole, rel=1e-12)


def test_faulty_data_are_told(net, data) -> None:
    for wrong, message in (
        (data[0], r"data must be \(inputs, targets\) or an iterable of such batches, got a Tensor"),
        ([], "the data contain no batch: give at least one"),
        ([data, data[0]], r"batch 1 of the data is a Tensor: give \(inputs, targets\)"),
        ((*data, data), r"batch 0 of the data is a tuple of 3"),
        ((data[0][:0], data[1][:0]), "batch 0 of the data contains no samples"),
    ):
        with pytest.raises(FlatnessError, match=message):
            report(net, wrong, F.cross_entropy)


def test_faulty_arguments_are_told(net, data) -> None:
    with pytest.raises(FlatnessError, match="quantities must be one of 'simplified'"):
        report(net, data, F.cross_entropy, quantities=["trace"])
    with pytest.raises(FlatnessError, match="probes must be a whole number of at least 1, got 0"):
        report(net, data, F.cross_entropy, probes=0)
    with pytest.raises(FlatnessError, match=r"factor of a rescaling must be .* got -1"):
        report(net, data, F.cross_entropy, rescale=-1.0)
    with pytest.raises(LossError, match="must be one scalar for the batch"):
        report(net, data, lambda outputs, targets: outputs)


def test_a_loss_that_is_not_finite_is_told(net, data) -> None:
    batches = split(data, 2)
    batches[1][0][0] = math.nan
    with pytest.raises(LossError, match=r"the loss of batch 1 is nan: flatness cannot be measured"):
        report(net, batches, F.cross_entropy)


def test_a_layer_that_does_not_fit_into_memory_is_a_row(net, data) -> None:
    def short_of_memory(outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError
        return F.cross_entropy(outputs, targets)

    found = report(net, data, short_of_memory)
    assert [row.failure for row in found.rows] == [
        "out of memory on the device: use smaller batches"
    ] * 3


def test_a_fault_after_kappa_costs_its_own_number_alone(net, data, monkeypatch) -> None:
    def short_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(
        "famseg.flatness._measurement._layer_report.mean_largest_eigenvalue", short_of_memory
    )
    seen: list[int] = []
    found = report(net, data, F.cross_entropy, progress=lambda _, done, __: seen.append(done))
    row = found["2"]
    assert row.failure is None
    assert row.largest_eigenvalue is None
    assert row.kappa is not None
    assert row.trace is not None
    assert row.notes == (
        "largest_eigenvalue was not measured: out of memory on the device: use smaller batches",
    )
    assert len(found.rescaling) == 3
    assert seen == list(range(1, 16))


def test_a_layer_of_zeros_has_no_trace(data) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    nn.init.zeros_(model[2].weight)
    found = report(model, data, F.cross_entropy)
    assert (found["2"].kappa, found["2"].trace) == (0.0, None)
    assert found.rescaling[-1].kappa_change == 0.0


def test_an_eigenvalue_that_was_not_reached_is_told(net, data, monkeypatch) -> None:
    monkeypatch.setattr("famseg.flatness._measurement._layer_report._ITERATIONS", 2)
    monkeypatch.setattr("famseg.flatness._measurement._layer_report._TOLERANCE", 1e-6)
    row = report(net, data, F.cross_entropy, layers=["0"])["0"]
    (note,) = row.notes
    assert note.startswith("the largest eigenvalue is a lower bound: off by up to")
    assert note.endswith("after 2 iterations")
    assert f"0: {note}" in str(report(net, data, F.cross_entropy, layers=["0"]))


def test_the_output_of_a_dict_is_named(net, data) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x)}

    wanted = report(net, data, F.cross_entropy, quantities=())["4"].kappa
    found = report(Wrapped(), data, F.cross_entropy, output="logits", quantities=())
    assert found["net.4"].kappa == pytest.approx(wanted, rel=1e-12)


def rows() -> tuple[LayerRow, ...]:
    known = {"kappa": 2.5, "kappa_error": 0.25, "kappa_per_feature": 0.5, "spread": "samples"}
    return (
        LayerRow("first", "Conv3d", 8, 5, 2, **known, replicates=7, probes=1, estimator="exact"),
        LayerRow("second", "Linear", 3, 8, failure="it was not called."),
        LayerRow("third", "Linear", 3, 8, kappa=-1e-5, kappa_error=math.nan, notes=("a note",)),
    )


def test_the_table_is_aligned_and_complete() -> None:
    lines = Report("Net", 7, 2, 0.5, 1, 0, rows()).table().splitlines()
    assert lines[0] == "Relative flatness of Net: 7 samples in 2 batches, loss 0.5"
    assert lines[2:6] == [
        "layer   type                d x m   kappa  s.e.  kappa/m  estimator",
        "first   Conv3d  8 x 5 in 2 groups     2.5  0.25      0.5  exact",
        "second  Linear              3 x 8  not measured: it was not called.",
        "third   Linear              3 x 8  -1e-05   nan        -  -",
    ]
    assert "s.e. over 7 samples, 1 random probe each (first)" in lines
    assert "third: a note" in lines
    assert lines[-1] == "1 of 3 layers could not be measured."


def test_json_holds_everything_and_no_nan() -> None:
    check = RescalingRow("first", 2.0, kappa=0.0, kappa_after=1.0, trace=4.0, trace_after=1.0)
    content = json.loads(Report("Net", 7, 2, 0.5, 1, 0, rows(), (check,)).to_json())
    assert content["rows"][0]["kappa"] == 2.5
    assert content["rows"][1]["failure"] == "it was not called."
    assert content["rows"][2]["kappa_error"] is None  # nan
    assert content["rescaling"][0]["kappa_change"] is None  # infinite
    assert content["rescaling"][0]["trace_factor"] == 0.25


def test_records_are_flat() -> None:
    records = Report("Net", 7, 2, 0.5, 1, 0, rows()).records()
    assert [record["notes"] for record in records] == ["", "", "a note"]
    assert all(not isinstance(value, list | dict) for r in records for value in r.values())


def test_a_row_is_found_by_its_name() -> None:
    found = Report("Net", 7, 2, 0.5, 1, 0, rows())
    assert found["third"].kappa == -1e-5
    with pytest.raises(KeyError, match=r"'fourth' is not in the report\. It has: "):
        found["fourth"]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [slice(3), slice(1), slice(1, 2)])
def test_the_plot_is_a_png_of_every_layer(tmp_path, kept) -> None:
    check = RescalingRow("first", 2.0, kappa=2.5, kappa_after=2.5, trace=4.0, trace_after=1.0)
    checks = (check,) if kept.start is None else ()
    found = Report("Net", 7, 2, 0.5, 1, 0, rows()[kept], checks)
    found.plot(tmp_path / "plot.png")
    content = (tmp_path / "plot.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content == found.image()
    assert int.from_bytes(content[16:20]) == 1200  # pixels wide


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(FlatnessError, match="pip install matplotlib"):
        Report("Net", 7, 2, 0.5, 1, 0, rows()).image()
