"""The computation of a penalty is planned once, by an analysis without side effects."""

from __future__ import annotations

import copy
import functools
import logging

import pytest
import torch
from torch import nn

from famseg.flatness import FAM, NotApplicableError, SampleInteractionError, UnsupportedTailError


def smooth(z, y):
    return (z.sin() * (1.5 * y.reshape(-1, *[1] * (z.ndim - 1)) - 1)).mean()


INPUTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.tensor([0, 2, 1, 1, 0, 2, 0, 1])


def objective(model, **options):
    fixed = {"layer": "2", "loss": smooth, "weight": 0.5, "bound": "none", "every": 1}
    return FAM(model, **(fixed | options))


def gradients(terms, model):
    return torch.autograd.grad(terms.total, list(model.parameters()), materialize_grads=True)


@pytest.mark.parametrize("samples", [1, 3, 8])
@pytest.mark.parametrize("estimator", ["columns", "hutchinson", "gauss_newton"])
def test_a_part_of_the_batch_is_that_part_alone(net, samples, estimator):
    fam = objective(net, samples=samples, estimator=estimator)
    chosen = []
    fam.train()
    terms = fam(INPUTS, TARGETS)
    found = gradients(terms, net)
    assert torch.equal(terms.loss, smooth(net(INPUTS), TARGETS))
    # The same probes on the part alone.
    generator = fam._source("part", 0)
    chosen = torch.randperm(8, generator=generator)[:samples].sort().values
    alone = objective(net, samples="all", estimator=estimator)
    part = alone(INPUTS[chosen], TARGETS[chosen])
    torch.testing.assert_close(terms.penalty, part.penalty)
    wanted = torch.autograd.grad(
        terms.loss.detach() + smooth(net(INPUTS), TARGETS) + 0.5 * part.penalty,
        list(net.parameters()),
    )
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)


def test_parts_average_to_the_batch(net):
    whole = objective(net, samples="all", estimator="columns")(INPUTS, TARGETS).penalty
    fam = objective(net, samples=2, estimator="columns")
    parts = torch.stack([fam(INPUTS, TARGETS).penalty.detach() for _ in range(400)])
    assert abs(parts.mean() - whole) < 3.5 * parts.std() / 20
    assert len(parts.unique()) == 28  # all pairs of eight


def test_by_default_a_quarter_of_the_batch_every_fourth_step(net):
    fam = objective(net, every="auto", weight=0.001)
    terms = [fam(INPUTS, TARGETS) for _ in range(8)]
    assert [t.penalty is not None for t in terms] == [True, False, False, False] * 2
    wanted = (terms[0].loss + 0.004 * terms[0].penalty).item()
    assert terms[0].total.item() == pytest.approx(wanted, rel=1e-12)
    assert fam.explain().endswith("per probe; every 4 steps, on a quarter of the batch")


def test_the_plan_is_logged_once_where_whole_batches_and_parts_take_turns(net, caplog):
    """As at the end of each epoch, where a batch of a single sample is used as a whole."""
    fam = objective(net, every="auto", weight=0.001)
    explained = set()
    with caplog.at_level(logging.INFO, "famseg.flatness"):
        for _ in range(3):
            for n in (8, 1):
                fam(INPUTS[:n], TARGETS[:n])
                explained.add(fam.explain())
    assert len(explained) == 2
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("estimator", ["hutchinson", "columns", "exact", "gauss_newton", "noise"])
def test_an_estimator_that_is_named_takes_every_step_and_all_samples(net, estimator):
    fam = objective(net, estimator=estimator, every="auto", weight=0.001)
    terms = [fam(INPUTS, TARGETS) for _ in range(3)]
    assert all(t.total is not t.loss or estimator == "noise" for t in terms)
    assert fam.period == 1
    assert "quarter" not in fam.explain()
    assert "every" not in fam.explain()


def test_by_default_a_closed_form_takes_every_step_and_all_samples(net):
    fam = objective(net, layer="4", loss=nn.CrossEntropyLoss(), every="auto")
    assert all(fam(INPUTS, TARGETS).penalty is not None for _ in range(3))
    assert fam.explain().endswith("the loss has a closed form there")


class Skip(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.detach = model, False

    def forward(self, x):
        body = self.model[:2](x)
        return self.model[2:](body) + body[:, :3]


def test_a_part_keeps_the_gradient_that_leads_around_the_layer(net):
    model = Skip(net)
    part = objective(model, layer="model.2", samples=8, estimator="columns")
    whole = objective(model, layer="model.2", samples="all", estimator="columns")
    found, wanted = (gradients(f(INPUTS, TARGETS), model) for f in (part, whole))
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)
    default = objective(model, layer="model.2", every="auto", weight=0.001)
    default(INPUTS, TARGETS)
    assert default.explain().endswith("on a quarter of the batch")


def weighted():
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda net: net, {"loss": weighted()}, "not the mean of its samples' losses"),
        (lambda net: nn.Sequential(*net, nn.Dropout(0.5)), {}, r"differs from .*\(dropout"),
    ],
    ids=["class weights", "dropout"],
)
def test_a_loss_that_is_no_mean_over_samples_needs_the_whole_batch(net, change, options, reason):
    model = change(net)
    fam = objective(model, **options)
    fam(INPUTS, TARGETS)
    assert "quarter" not in fam.explain()
    with pytest.raises(NotApplicableError, match=f'{reason}.*"all"'):
        objective(model, samples=2, **options)(INPUTS, TARGETS)


@pytest.mark.parametrize("samples", ["auto", 2])
@pytest.mark.parametrize(
    ("loss", "first", "later"),
    [
        (nn.CrossEntropyLoss(), TARGETS, TARGETS.where(TARGETS < 2, -100)),
        (weighted(), torch.zeros_like(TARGETS), TARGETS),
        (nn.CrossEntropyLoss(), TARGETS, TARGETS.where(torch.arange(8) == 3, -100)),
    ],
    ids=["ignored", "class weights", "all but one ignored"],
)
def test_a_batch_whose_loss_is_no_mean_is_taken_whole(net, loss, first, later, samples):
    """The plan was made on a batch where a part suffices; on this batch a part would be biased."""
    columns = {"estimator": "columns"} if samples == 2 else {"samples": "auto", "weight": 1e-3}
    fam = objective(net, loss=loss, **({"samples": samples} | columns))
    fam(INPUTS, first)
    assert fam._planner.plan.part == ("quarter" if samples == "auto" else 2)
    whole = objective(net, loss=loss, **(columns | {"samples": "all"}))
    for step in range(3):
        fam.seek(step)
        whole.seek(step)
        torch.testing.assert_close(fam(INPUTS, later).penalty, whole(INPUTS, later).penalty)
    assert fam(INPUTS, first).penalty != whole(INPUTS, first).penalty


class Opaque:
    """An output that cannot be cut into samples."""

    def __init__(self, logits, targets):
        self.logits = logits


class Own:
    """An output with a loss that the model computed itself."""

    def __init__(self, logits, targets):
        self.loss = smooth(logits, targets)


@pytest.mark.parametrize(
    ("wrap", "loss"),
    [
        (Opaque, lambda out, y: smooth(out.logits, y)),
        (Own, lambda out, y: out.loss),
    ],
)
def test_an_output_that_cannot_be_cut_needs_the_whole_batch(net, wrap, loss):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, targets):
            return wrap(self.net(x), targets)

    fam = objective(Wrapped(), layer="net.2", loss=loss, estimator="columns")
    assert fam((INPUTS, TARGETS), TARGETS).penalty is not None
    assert "quarter" not in fam.explain()


def test_probes_for_the_batch_need_the_whole_batch(net):
    with pytest.raises(
        NotApplicableError, match=r"defined only for the whole batch \(batch_probes"
    ):
        objective(net, samples=2, estimator="hutchinson", probe_per="batch")(INPUTS, TARGETS)


def test_weights_used_before_and_behind_the_layer_get_both_gradients():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.outer, self.fc = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.outer(self.fc(self.outer(x).tanh()).tanh())

    model = Shared().double()
    part = objective(model, layer="fc", samples=8, estimator="columns")
    whole = objective(model, layer="fc", samples="all", estimator="columns")
    found, wanted = (gradients(f(INPUTS, TARGETS), model) for f in (part, whole))
    assert part._planner.plan.part == 8
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)


def test_arguments_of_several_kinds_are_cut_to_the_part():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc, self.tail = nn.Linear(4, 4), nn.Linear(4, 3), nn.Tanh()

        def forward(self, x, gain, factor):
            return {"logits": self.tail(self.fc(self.body(x) * factor)) * gain[:, None]}

    model = Named().double()
    inputs = {"x": INPUTS, "gain": INPUTS[:, 0], "factor": 2.0}
    targets = (TARGETS, torch.tensor(3.0))
    options = {
        "layer": "fc",
        "output": "logits",
        "loss": lambda z, y: smooth(z, y[0]) * y[1],
        "estimator": "columns",
    }
    part = objective(model, samples=8, **options)(inputs, targets)
    whole = objective(model, samples="all", **options)(inputs, targets)
    torch.testing.assert_close(part.penalty, whole.penalty)


def test_a_resumed_run_takes_the_parts_of_the_uninterrupted_one(net):
    fam = objective(net, every="auto")
    terms = []
    for step in range(9):
        if step == 5:
            state = fam.state_dict()
        terms.append(fam(INPUTS, TARGETS))
    again = objective(copy.deepcopy(net), every="auto")
    again.load_state_dict(state)
    assert again.period == fam.period
    for wanted in terms[5:]:
        assert torch.equal(again(INPUTS, TARGETS).total, wanted.total)


def _counting(ran, index, forward, *args):
    ran.data[index] += 1  # a change that famseg cannot attribute to a pass
    return forward(*args)


def test_what_was_settled_is_kept_for_the_state_of_the_model(net):
    model = nn.Sequential(*net, nn.BatchNorm1d(3).double().eval())
    ran = torch.zeros(6, dtype=torch.long)
    for index, module in enumerate(model):
        forward = module.forward
        module.forward = functools.partial(_counting, ran, index, forward)
    # Carried along in one pass; or one pass plus, for a part, the network from the layer on.
    for estimator, wanted in (("hutchinson", [1] * 6), ("columns", [1, 1, 2, 2, 2, 2])):
        fam = objective(model, estimator=estimator, samples=2)
        fam(INPUTS, TARGETS)
        ran.zero_()
        fam(INPUTS, TARGETS)
        assert ran.tolist() == wanted
    model[5].train()
    with pytest.raises(SampleInteractionError):
        fam(INPUTS, TARGETS)


def test_what_was_settled_is_settled_anew_for_another_loss_or_option(net):
    fam = objective(net, every="auto", weight=0.001)
    fam(INPUTS, TARGETS)
    assert "a quarter" in fam.explain()
    fam.loss = lambda z, y: smooth(z - z.mean(0), y)
    fam(INPUTS, TARGETS)
    assert "the samples of a batch interact" in fam.explain()
    fam.loss, fam.options = smooth, fam.options.with_(samples="all")
    fam.seek(0)
    fam(INPUTS, TARGETS)
    assert "probe; every 10 steps" in fam.explain()


class Turning(nn.Module):
    """A network that is used differently once a flag is set."""

    def __init__(self, net):
        super().__init__()
        self.net, self.turned = net, False

    def forward(self, x):
        z = self.net(x)
        return z / 2 if self.turned else z


def test_a_closed_form_that_holds_no_longer_is_planned_anew(net, caplog):
    model = Turning(nn.Sequential(nn.BatchNorm1d(4).double(), *net))
    options = {"layer": "net.5", "loss": nn.CrossEntropyLoss(), "weight": 0.001}
    fam = objective(model, **options)
    assert fam(INPUTS, TARGETS).penalty > 0
    assert fam(INPUTS, TARGETS).penalty > 0
    model.turned = True
    with caplog.at_level(logging.INFO, "famseg.flatness"):
        terms = fam(INPUTS, TARGETS)
    assert "columns, exact" in caplog.text or "sample_probes" in caplog.text
    assert model.net[0].num_batches_tracked == 3  # the step was not run twice
    assert terms.loss == fam(INPUTS, TARGETS).loss
    whole = {"every": 1, "samples": "all"}
    draws = []
    for step in range(200):
        fam.seek(step)
        draws.append(fam(INPUTS, TARGETS).penalty.item())
    wanted = objective(model, estimator="exact", **options, **whole)(INPUTS, TARGETS).penalty
    draws = torch.tensor(draws)
    assert abs(draws.mean() - wanted) < 4 * draws.std() / 200**0.5


def test_a_closed_form_by_name_that_holds_no_longer_is_refused(net):
    model = Turning(net)
    fam = objective(model, layer="net.4", loss=nn.CrossEntropyLoss(), estimator="closed_form")
    assert fam(INPUTS, TARGETS).penalty > 0
    model.turned = True
    with pytest.raises(NotApplicableError, match=r"closed_form, which worked on an earlier batch"):
        fam(INPUTS, TARGETS)


def test_columns_that_hold_no_longer_are_refused(net):
    fam = objective(net, estimator="columns", samples="all", loss=lambda z, y: z.sin().mean())
    fam(INPUTS, TARGETS)
    with pytest.raises(NotApplicableError, match=r"layer '2' got \(4, 2, 6\): the positions"):
        fam(INPUTS.reshape(4, 2, 4), TARGETS)


def counted(model):
    """Running statistics that count how often the network ran."""
    return nn.Sequential(nn.BatchNorm1d(4).double(), *model)


@pytest.mark.parametrize("options", [{}, {"samples": "all"}, {"estimator": "finite_difference"}])
def test_statistics_before_the_layer_are_updated_once_a_step(net, options):
    model = counted(net)
    plain = copy.deepcopy(model)
    fam = objective(model, layer="3", **options)
    rng = torch.get_rng_state()
    for _ in range(3):
        fam(INPUTS, TARGETS)
        plain(INPUTS)
    for found, wanted in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_step_that_is_refused_leaves_no_trace(net):
    model = counted(net)
    fam = objective(model, layer="3", loss=lambda z, y: z.mean(1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="one scalar for the batch"):
        fam(INPUTS, TARGETS)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert fam.get_extra_state()["position"] == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def compiled(module):
    return torch.compile(module, backend="aot_eager")


COMPILED = {
    "whole": (lambda n: compiled(n), "2", True),
    "body": (lambda n: nn.Sequential(compiled(n[:2]), *n[2:]), "1", False),
    "layer": (lambda n: nn.Sequential(n[0], n[1], compiled(n[2]), n[3], n[4]), "2", True),
    "tail": (lambda n: nn.Sequential(*n[:3], compiled(n[3:])), "2", True),
}


@pytest.mark.slow
# Raised inside torch when any compiled module is given a hidden activation.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(("wrap", "layer", "eager"), COMPILED.values(), ids=COMPILED)
def test_compiled_modules_run_as_written_where_they_must(net, wrap, layer, eager):
    torch._dynamo.reset()
    plain = objective(net, samples="all")
    wanted = gradients(plain(INPUTS, TARGETS), net)
    model = wrap(net)
    fam = objective(model, layer=layer, samples="all")
    found = gradients(fam(INPUTS, TARGETS), net)
    assert fam._planner.plan.eager == eager
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w)
    fam.weight = 0
    fam(INPUTS, TARGETS).total.backward()  # the plain step runs compiled


def test_an_operation_without_third_derivatives_is_refused_before_anything_moves(net):
    def loss(z, y):
        return nn.functional.multi_margin_loss(z, y)

    with pytest.raises(UnsupportedTailError, match="cannot be differentiated twice"):
        objective(net, loss=loss)(INPUTS, TARGETS)


class Doubling(nn.Module):
    """A network that changes its argument in place and uses it in a path around the layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        x.mul_(2)
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x))))) + x[:, :3]


@pytest.mark.parametrize(
    "options",
    [{}, {"samples": 3, "estimator": "columns"}, {"estimator": "finite_difference"}],
    ids=str,
)
def test_arguments_that_are_changed_in_place_are_changed_once_a_step(options):
    torch.manual_seed(0)
    model, inputs = Doubling().double(), INPUTS.clone()

    def loss(z, y):
        y.add_(1)
        return nn.functional.cross_entropy(z, y - 1)

    fam = FAM(model, layer="b", loss=loss, weight=1e-3, every=1, **options)
    whole = FAM(model, layer="b", loss=loss, weight=1e-3, estimator="exact")
    for step in range(1, 4):
        targets = TARGETS.clone()
        wanted = whole.measure(inputs, targets)
        assert torch.equal(targets, TARGETS)
        terms = fam(inputs, targets)
        assert torch.equal(inputs, 2**step * INPUTS)
        assert torch.equal(targets, TARGETS + 1)
        torch.testing.assert_close(terms.loss, wanted.loss, rtol=1e-12, atol=0)
    fam.measure(inputs, TARGETS.clone())
    assert torch.equal(inputs, 8 * INPUTS)


class Routed(nn.Module):
    """Tokens whose first number is positive go to an expert; a sample is the mean of its tokens."""

    def __init__(self):
        super().__init__()
        self.expert, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        tokens = x.flatten(0, 1)
        own, out = tokens[:, 0] > 0, tokens.clone()
        out[own] = torch.tanh(self.expert(tokens[own]))
        return self.head(torch.tanh(3 * out.unflatten(0, x.shape[:2]).mean(1)))


def routed():
    torch.manual_seed(0)
    tokens = torch.randn(8, 3, 4).double()
    one, all_of_them = tokens.clone(), tokens.clone()
    one[..., 0], all_of_them[..., 0] = -tokens[..., 0].abs(), tokens[..., 0].abs()
    one[:, 0, 0] *= -1
    return Routed().double(), one, all_of_them


@pytest.mark.parametrize("samples", ["auto", "all"])
def test_an_expert_that_saw_as_many_tokens_as_samples_by_accident(samples):
    model, one, all_of_them = routed()
    fam = objective(model, layer="expert", samples=samples)
    exact = objective(model, layer="expert", estimator="exact")(all_of_them, TARGETS).penalty
    fam(one, TARGETS)
    assert "sample_probes" in fam.explain()
    draws = torch.stack([fam(all_of_them, TARGETS).penalty.detach() for _ in range(300)])
    assert "batch_probes" in fam.explain()
    assert abs(draws.mean() - exact) < 4 * draws.std() / 300**0.5
    for _ in range(20):  # beyond a check of the plan
        fam(one, TARGETS)
    assert "batch_probes" in fam.explain()  # it is remembered


def test_a_part_of_an_experts_tokens_is_refused_by_name():
    model, one, all_of_them = routed()
    fam = objective(model, layer="expert", estimator="hutchinson", samples=2)
    fam(one, TARGETS)
    with pytest.raises(NotApplicableError, match="'expert' sees 24 rows for 8 samples"):
        fam(all_of_them, TARGETS)
