from __future__ import annotations

import copy
import gc
import io
import logging

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from famseg.flatness import (
    FAM,
    FlatnessError,
    LayerError,
    LossError,
    bounded,
    feature_robustness,
    report,
)


def smooth(z, y):
    return (z.sin() * (1.5 * y[:, None] - 1)).mean()


def objective(net, **options):
    fixed = {"layer": "2", "loss": smooth, "weight": 0.5, "every": 1, "samples": "all"}
    return FAM(net, **(fixed | {"estimator": "hutchinson", "bound": "none"} | options))


def run(fam, batch, steps):
    return [fam(*batch).penalty for _ in range(steps)]


def test_the_three_lines_of_the_readme():
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(4, 8), nn.ReLU()))
    model.add_module("fc", nn.Linear(8, 3))
    inputs, targets = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])

    objective = FAM(model, layer="fc", loss=nn.CrossEntropyLoss(), weight=0.1)
    total = objective(inputs, targets).total
    total.backward()

    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_total_is_loss_plus_weighted_penalty(net, batch):
    terms = objective(net, weight=0.25, estimator="columns", bound="none")(*batch)
    kappa = objective(net, estimator="columns").measure(*batch).kappa
    assert terms.loss.item() == smooth(net(batch[0]), batch[1]).item()
    assert terms.penalty.item() == pytest.approx(kappa.item())
    assert terms.total.item() == pytest.approx((terms.loss + 0.25 * terms.penalty).item())


@pytest.mark.parametrize("bound", ["positive", "batch_positive", "absolute", "none"])
def test_the_bound_is_applied_to_the_samples(net, batch, bound):
    parts = objective(net, estimator="columns").measure(*batch).per_sample
    assert parts.min() < 0 < parts.max()
    terms = objective(net, estimator="columns", bound=bound)(*batch)
    torch.testing.assert_close(terms.penalty, bounded(parts, bound))


def test_normalize_divides_by_the_features(net, batch):
    plain = objective(net, estimator="columns")(*batch).penalty
    divided = objective(net, estimator="columns", normalize="features")(*batch).penalty
    assert divided.item() == pytest.approx(plain.item() / 6)


def test_weight_zero_is_the_plain_step_to_the_last_bit(net, batch):
    terms = objective(net, weight=0)(*batch)
    assert terms.penalty is None
    assert terms.total is terms.loss
    terms.total.backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    smooth(net(batch[0]), batch[1]).backward()
    assert all(torch.equal(g, p.grad) for g, p in zip(found, net.parameters(), strict=True))


@pytest.mark.parametrize("estimator", ["columns", "hutchinson", "exact"])
def test_the_loss_is_that_of_a_plain_step_with_dropout(estimator, batch):
    model = nn.Sequential(
        nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.3)
    ).double()
    fam = objective(model, estimator=estimator)
    torch.manual_seed(5)
    wanted = smooth(model(batch[0]), batch[1])
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(fam(*batch).loss, wanted)
    assert torch.equal(torch.get_rng_state(), after)


def test_evaluation_and_no_grad_give_the_plain_loss(net, batch):
    fam = objective(net).eval()
    assert fam(*batch).penalty is None
    fam.train()
    with torch.no_grad():
        assert fam(*batch).penalty is None
    assert fam.get_extra_state()["position"] == 0


def test_every_third_step_is_penalized_three_times_as_strongly(net, batch):
    fam = objective(net, every=3, weight=0.5, estimator="columns")
    terms = [fam(*batch) for _ in range(6)]
    assert [t.penalty is not None for t in terms] == [True, False, False] * 2
    excess = sum((t.total - t.loss).item() for t in terms)
    assert excess == pytest.approx(6 * 0.5 * terms[0].penalty.item())


def test_probes_follow_seed_step_and_stream(net, batch):
    first = run(objective(net), batch, 3)
    assert torch.equal(torch.stack(first), torch.stack(run(objective(net), batch, 3)))
    assert len({p.item() for p in first}) == 3
    assert run(objective(net, seed=1), batch, 1)[0] != first[0]
    fam = objective(net)
    fam.seek(2)
    assert fam(*batch).penalty == first[2]
    fam.seek(2, stream=1)
    assert fam(*batch).penalty not in first


def test_a_resumed_run_draws_what_the_uninterrupted_run_draws(net, batch):
    fam = objective(net, every=2)
    terms = [fam(*batch) for _ in range(3)]
    file = io.BytesIO()
    torch.save(fam.state_dict(), file)
    terms += [fam(*batch) for _ in range(3)]

    again = objective(copy.deepcopy(net), every=2)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    for wanted in terms[3:]:
        found = again(*batch)
        assert torch.equal(found.total, wanted.total)


def test_a_generator_is_resumed_too(net, batch):
    fam = objective(net, generator=torch.Generator().manual_seed(3))
    fam(*batch)
    state = copy.deepcopy(fam.state_dict())
    wanted = fam(*batch).penalty
    again = objective(net, generator=torch.Generator().manual_seed(99))
    again.load_state_dict(state)
    assert again(*batch).penalty == wanted


def test_measure_leaves_no_trace(batch):
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.Dropout(0.5), nn.Tanh()
    ).double()
    fam = objective(model)
    model[3].eval()
    fam(*batch).total.backward()
    state = copy.deepcopy(fam.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    with torch.no_grad():
        found = fam.measure(*batch)
    assert found.kappa.grad_fn is None
    assert found.kappa == found.per_sample.mean()
    assert found.standard_error.item() == pytest.approx(found.per_sample.std().item() / 5**0.5)
    for name, value in fam.state_dict().items():
        wanted = state[name]
        assert torch.equal(value, wanted) if isinstance(value, torch.Tensor) else value == wanted
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)


def test_measure_works_in_inference_mode(net, batch):
    wanted = objective(net).measure(*batch)
    with torch.inference_mode():
        made_there = tuple(tensor.clone() for tensor in batch)
        for data in (batch, made_there):
            assert torch.equal(objective(net).measure(*data).kappa, wanted.kappa)
        assert report(net, made_there, smooth, layers=["2"])["2"].failure is None
        assert feature_robustness(net, "2", made_there, 0.1, loss=smooth).kappa is not None


def test_measure_and_a_failed_step_leave_the_generator(net, batch):
    generator = torch.Generator().manual_seed(3)
    failing = []

    def loss(z, y):
        if failing and failing.pop():
            raise ArithmeticError("the user's own")
        return smooth(z, y)

    fam = objective(net, loss=loss, generator=generator, estimator="finite_difference")
    fam(*batch)
    before = generator.get_state()
    fam.measure(*batch)
    assert torch.equal(generator.get_state(), before)
    failing += [True, False]  # the second pass of the step, after its probes were drawn
    with pytest.raises(ArithmeticError):
        fam(*batch)
    assert torch.equal(generator.get_state(), before)


class Remembering(nn.Module):
    """A loss with its own buffers and training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()

    def forward(self, z, y):
        return smooth(z + 0.1 * self.norm(z), y)


def test_a_loss_with_buffers_moves_them_once_a_step_and_never_when_measured(net, batch):
    loss = Remembering()
    fam = objective(net, loss=loss, probe_per="batch")
    for count in (1, 2):
        fam(*batch)
        assert loss.norm.num_batches_tracked == count
    before = copy.deepcopy(loss.state_dict())
    fam.measure(*batch)
    feature_robustness(net, "2", batch, 0.1, loss=loss, draws=2)
    report(net, batch, loss, layers=["2"])
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    assert loss.norm.training


@pytest.mark.parametrize("options", [{"estimator": "exact"}, {"probe_per": "batch"}])
def test_a_value_of_the_batch_has_no_standard_error(net, batch, options):
    found = objective(net, **options).measure(*batch)
    assert found.per_sample is None
    assert found.standard_error.isnan()


def hooks(module):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]


def test_hooks_and_modes_are_restored_after_an_exception(net, batch):
    def broken(z, y):
        raise ArithmeticError("the user's own")

    fam = objective(net, loss=broken)
    net[1].eval()
    for call in (fam, fam.measure):
        with pytest.raises(ArithmeticError):
            call(*batch)
        assert sum(hooks(fam)) == 0
        assert [m.training for m in net] == [True, False, True, True, True]


def test_hooks_are_gone_after_a_step(net, batch):
    fam = objective(net)
    fam(*batch)
    assert sum(hooks(fam)) == 0


def test_memory_does_not_grow(net, batch):
    fam = objective(net)

    def tensors(steps):
        for _ in range(steps):
            net.zero_grad()
            fam(*batch).total.backward()
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    tensors(2)  # leftovers of other tests are collected first
    before = tensors(2)
    assert tensors(20) <= before


def test_a_batch_of_one(net, batch):
    inputs, targets = batch[0][:1], batch[1][:1]
    values = [
        objective(net, estimator=estimator).measure(inputs, targets).kappa.item()
        for estimator in ("columns", "exact", "auto")
    ]
    assert values[0] == pytest.approx(values[1])
    assert objective(net).measure(inputs, targets).standard_error.isnan()


def test_a_zero_weight_matrix_has_zero_flatness_and_its_gradient(net, batch):
    with torch.no_grad():
        net[2].weight.zero_()
    terms = objective(net)(*batch)
    assert terms.penalty.item() == 0
    terms.total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_nan_is_not_hidden(net, batch):
    inputs = batch[0].clone()
    inputs[0, 0] = float("nan")
    for estimator in ("auto", "columns", "hutchinson", "exact"):
        terms = objective(net, estimator=estimator)(inputs, batch[1])
        assert terms.penalty.isnan()
        assert terms.total.isnan()


@pytest.mark.parametrize("estimator", ["columns", "hutchinson", "exact"])
def test_a_frozen_layer_still_shapes_the_body(net, batch, estimator):
    net[2].weight.requires_grad_(False)
    objective(net, estimator=estimator)(*batch).total.backward()
    assert net[2].weight.grad is None
    assert net[0].weight.grad.abs().sum() > 0


def test_accumulated_parts_are_the_whole_batch(net):
    inputs = torch.randn(8, 4, dtype=torch.float64)
    targets = torch.randint(0, 3, (8,))
    fam = objective(net, estimator="columns")
    fam(inputs, targets).total.backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for part in range(4):
        rows = slice(2 * part, 2 * part + 2)
        (fam(inputs[rows], targets[rows]).total / 4).backward()
    for p, g in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g)


class Arguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, scale):
        return {"logits": self.fc(input=x * scale)}


@pytest.mark.parametrize("kind", ["tuple", "list", "mapping"])
def test_models_with_several_arguments_and_a_mapping_as_output(batch, kind):
    fam = FAM(
        Arguments().double(),
        layer="fc",
        loss=lambda out, y: nn.functional.cross_entropy(out["logits"], y),
        weight=1,
    )
    named = {"x": batch[0], "scale": torch.tensor(2.0)}
    inputs = {"tuple": tuple(named.values()), "list": list(named.values()), "mapping": named}[kind]
    assert fam(inputs, batch[1]).penalty > 0
    assert "closed_form" in fam.explain()


class Output:
    """An output with attributes, as models of other libraries return."""

    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    def __init__(self, model, wrap):
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, x):
        return self.wrap(self.model(x))


@pytest.mark.parametrize("wrap", [lambda z: {"logits": z}, Output], ids=["mapping", "attribute"])
def test_the_loss_takes_a_part_of_the_output_by_name(net, batch, wrap):
    named = FAM(
        Wrapped(net, wrap),
        layer="model.4",
        loss=nn.CrossEntropyLoss(),
        weight=1,
        output="logits",
        estimator="closed_form",
    )
    plain = FAM(net, layer="4", loss=nn.CrossEntropyLoss(), weight=1)
    assert torch.equal(named(*batch).total, plain(*batch).total)
    named.weight = 0
    assert torch.equal(named(*batch).total, plain(*batch).loss)
    assert torch.equal(named.eval()(*batch).total, plain(*batch).loss)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda z: {"scores": z, "x": 1}, r"a dict, has no 'logits'\. It has 'scores', 'x'\."),
        (lambda z: z, r"a Tensor, has no 'logits'\.$"),
    ],
)
def test_an_output_without_that_part_is_refused(net, batch, wrap, message):
    fam = objective(Wrapped(net, wrap), layer="model.2", output="logits")
    with pytest.raises(LossError, match=message):
        fam(*batch)


@pytest.mark.parametrize("scaler", [True, False])
def test_float16_and_a_gradient_scaler(scaler):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, targets = torch.randn(6, 4), torch.tensor([0, 2, 1, 1, 0, 2])
    fam = FAM(model, layer="2", loss=nn.CrossEntropyLoss(), weight=0.1, every=1, samples="all")
    fam(inputs, targets).total.backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    fam.seek(0)
    scale = torch.amp.GradScaler("cpu", enabled=scaler)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.autocast("cpu", torch.float16):
        total = fam(inputs, targets).total
    scale.scale(total).backward()
    scale.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    for p, g in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=0.02, atol=2e-3)
    scale.step(optimizer)


def test_a_sharded_model_is_refused_by_name(net):
    class FullyShardedDataParallel(nn.Module):
        """Recognized by its name, since the real one needs a process group."""

        def __init__(self, module):
            super().__init__()
            self.module = module

    with pytest.raises(FlatnessError, match=r"module '' is sharded \(FSDP\).*DistributedDataPar"):
        objective(FullyShardedDataParallel(net), layer="module.2")


@pytest.mark.cuda
@pytest.mark.parametrize(
    "options", [{"estimator": "columns", "samples": 2}, {"estimator": "exact"}]
)
def test_a_cuda_device_finds_what_the_cpu_does(net, batch, options):
    values = []
    for device in ("cpu", "cuda"):
        fam = objective(net.to(device), weight=1e-3, **options)
        values.append(fam(batch[0].to(device), batch[1].to(device)).total.item())
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "4", "loss": nn.CrossEntropyLoss()}, "closed_form, exact and free"),
        ({}, "sample_probes, unbiased: one"),
        ({"probes": 5}, "columns, exact, and as cheap as probes"),
    ],
)
def test_auto_takes_the_cheapest_that_holds_and_says_so(net, batch, caplog, options, words):
    fam = objective(net, **({"estimator": "auto"} | options))
    assert "auto, chosen at the first penalized step" in fam.explain()
    with caplog.at_level(logging.INFO, "famseg"):
        fam(*batch)
        fam(*batch)
    assert words in fam.explain()
    assert [words in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1}, r"weight is -1: training away from flatness .* Give ceiling="),
        ({"weight": float("nan")}, "weight must be a finite number"),
        ({"estimator": "magic"}, r"estimator must be one of 'auto', 'exact', .*got 'magic'"),
        ({"bound": "soft"}, r"bound must be one of 'positive', .*got 'soft'"),
        ({"probe_per": "pixel"}, "probe_per must be one of 'sample', 'batch', got 'pixel'"),
        ({"normalize": "rows"}, "normalize must be one of 'features', None, got 'rows'"),
        ({"probes": 0}, "probes must be a whole number of at least 1, got 0"),
        ({"every": 1.5}, r"every must be a whole number of at least 1 or 'auto', got 1\.5"),
        ({"every": True}, "every must be a whole number of at least 1 or 'auto', got True"),
    ],
)
def test_wrong_arguments_are_refused(net, options, message):
    with pytest.raises(FlatnessError, match=message):
        objective(net, **options)


def test_the_weight_may_change_but_not_below_zero(net, batch):
    fam = objective(net)
    fam.weight = 0
    assert fam(*batch).penalty is None
    with pytest.raises(FlatnessError, match="at least 0"):
        fam.weight = -0.1


def test_a_ceiling_may_not_be_taken_from_a_weight_below_zero(net, batch):
    fam = objective(net, weight=-0.01, ceiling=1.0)
    with pytest.raises(FlatnessError, match=r"weight is -0\.01: .* Give ceiling="):
        fam.options = fam.options.with_(ceiling=None)
    assert fam.options.ceiling == 1.0


def test_a_weight_tied_later_is_noticed():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fam = FAM(net, layer="1", loss=nn.MSELoss(), weight=1)
    net[0].weight = net[1].weight
    with pytest.raises(LayerError, match="is shared"):
        fam(torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("kind", [DistributedDataParallel, nn.DataParallel])
def test_a_wrapped_model_is_refused(monkeypatch, kind):
    monkeypatch.setattr(kind, "__init__", lambda self: nn.Module.__init__(self))
    with pytest.raises(FlatnessError, match=r"the model is a \w+Parallel: wrap the objective inst"):
        objective(kind())
    with pytest.raises(FlatnessError, match=r"module '1' is a \w+Parallel: wrap the objective"):
        objective(nn.Sequential(nn.Linear(4, 3), kind()), layer="0")


def test_an_objective_that_was_sharded_later_is_refused(net, batch):
    fam = objective(net)

    class FSDPModule:
        """Recognized by its name: ``fully_shard`` changes the class of its argument."""

    fam.__class__ = type("FSDPFAM", (FSDPModule, FAM), {})
    for call in (fam, fam.measure):
        with pytest.raises(FlatnessError, match=r"module '' is sharded \(FSDP\)"):
            call(*batch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_objective_runs_as_written(net, batch):
    wanted = objective(net)(*batch)
    compiled = torch.compile(objective(net, every=2), backend="aot_eager")
    terms = [compiled(*batch) for _ in range(3)]
    assert [t.penalty is None for t in terms] == [False, True, False]
    assert torch.equal(terms[0].penalty, wanted.penalty)
    assert torch.equal(terms[0].loss, wanted.loss)
