"""``torch.compile`` around the objective: the same steps, with model and penalty in one graph."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend
from torch.nn import functional as F

from famseg.flatness import FAM, LayerError, LossError, NotApplicableError

pytestmark = [
    pytest.mark.slow,  # importing the compiler takes seconds
    # Raised inside torch when compiled code is given a hidden activation.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


class Compiled:
    """An objective and a compiled copy of it and of its model, trained in parallel."""

    def __init__(self, net, *, backend="aot_eager", **options):
        torch._dynamo.reset()
        fixed = {"layer": "4", "loss": nn.CrossEntropyLoss(), "weight": 0.1}
        self.eager = FAM(net, **(fixed | options))
        self.fam = copy.deepcopy(self.eager)
        self.graphs = 0

        def counted(module, inputs):
            self.graphs += 1
            return lookup_backend(backend)(module, inputs)

        self.compiled = torch.compile(self.fam, backend=counted)

    def step(self, inputs, targets):
        """Train both for one step and compare the results and the state."""
        terms, wanted = self.compiled(inputs, targets), self.eager(inputs, targets)
        for name in ("total", "loss"):
            torch.testing.assert_close(getattr(terms, name), getattr(wanted, name))
        assert (terms.penalty is None) == (wanted.penalty is None)
        if terms.penalty is not None:
            torch.testing.assert_close(terms.penalty, wanted.penalty)
        for fam, total in ((self.fam, terms.total), (self.eager, wanted.total)):
            fam.zero_grad()
            total.backward()
        states = self.fam.model.state_dict(), self.eager.model.state_dict()
        torch.testing.assert_close(*states)
        both = zip(self.fam.parameters(), self.eager.parameters(), strict=True)
        for p, q in both:
            assert (p.grad is None) == (q.grad is None)
            if p.grad is None:
                continue
            torch.testing.assert_close(p.grad, q.grad)
            with torch.no_grad():
                p -= 0.1 * p.grad
                q -= 0.1 * q.grad
        assert self.fam.get_extra_state() == self.eager.get_extra_state()
        return terms


def batches(steps, n=5, targets=None):
    for _ in range(steps):
        labels = torch.randint(3, (n,)) if targets is None else targets(n, 3).double()
        yield torch.randn(n, 4, dtype=torch.float64), labels


CLOSED = {
    "cross-entropy": ({}, None),
    "function": ({"loss": F.cross_entropy}, None),
    "smoothing": ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, None),
    "simplified": ({"quantity": "simplified", "gradient": "weights_only"}, None),
    "squared error": ({"loss": nn.MSELoss(), "ceiling": 0.5}, torch.randn),
    "away": ({"weight": -0.1, "ceiling": 0.5}, None),
    "logistic": ({"loss": nn.BCEWithLogitsLoss(), "normalize": "features"}, torch.rand),
}


@pytest.mark.parametrize(("options", "targets"), CLOSED.values(), ids=CLOSED)
def test_a_closed_form_is_one_graph_and_trains_as_the_eager_one(net, options, targets):
    normed = nn.Sequential(*net[:2], nn.BatchNorm1d(6).double(), *net[2:])
    twin = Compiled(normed, **({"layer": "5"} | options))
    for batch in batches(5, targets=targets):
        assert twin.step(*batch).penalty > 0
    assert twin.graphs == 1


@pytest.mark.slow
@pytest.mark.nightly
def test_with_the_default_backend(net):
    twin = Compiled(net, backend="inductor")
    for batch in batches(4):
        assert twin.step(*batch).penalty > 0
    assert twin.graphs == 1


def test_a_weight_and_a_batch_that_change_are_compiled_once_more(net):
    twin = Compiled(net)
    for step, n in enumerate([5, 5, 5, 5, 5, 4, 7, 6]):
        twin.fam.weight = twin.eager.weight = 0.1 * (step + 1)
        for batch in batches(1, n):
            twin.step(*batch)
    assert twin.graphs == 3  # as given; of any weight; of any size, too


def test_rare_penalties_have_a_graph_and_plain_steps_have_one(net):
    twin = Compiled(net, every=3)
    terms = [twin.step(*batch) for batch in batches(13)]
    assert [t.penalty is not None for t in terms] == [True, False, False] * 4 + [True]
    assert twin.graphs == 2


def test_without_gradients_or_in_evaluation_it_is_the_plain_loss(net, batch):
    twin = Compiled(net)
    with torch.no_grad():
        terms = twin.compiled(*batch)
    assert terms.penalty is None
    twin.fam.eval()
    torch.testing.assert_close(twin.compiled(*batch).loss, terms.loss)
    assert twin.fam.get_extra_state()["position"] == 0
    assert twin.graphs == 2


AS_WRITTEN = {
    "probes": {"layer": "2"},
    "noise": {"estimator": "noise"},
    "a function of one's own": {"loss": lambda z, y: F.cross_entropy(z, y)},
    "several layers": {"layer": ["2", "4"]},
}


@pytest.mark.parametrize("options", AS_WRITTEN.values(), ids=AS_WRITTEN)
def test_all_other_penalties_are_computed_as_written(net, options):
    twin = Compiled(net, **({"every": 1} | options))
    for batch in batches(3):
        twin.step(*batch)
    assert twin.graphs == 0


class Switched(nn.Module):
    """A classifier whose output can be changed on its way to the loss."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
        self.norm = nn.BatchNorm1d(5).double()
        self.change = lambda z, head: z

    def forward(self, x):
        return self.change(self.head(self.norm(self.body(x)).tanh()), self.head)


def switch(twin, change):
    twin.fam.model.change = twin.eager.model.change = change


def test_a_closed_form_that_no_longer_holds_is_noticed_at_once(net):
    twin = Compiled(Switched(), layer="head")
    for batch in batches(2):
        twin.step(*batch)
    switch(twin, lambda z, head: 2 * z.sin())
    for batch in batches(3):
        twin.step(*batch)
    assert "closed_form" not in twin.fam.explain()


def test_one_that_cannot_be_traced_any_more_is_computed_as_written(net):
    twin = Compiled(Switched(), layer="head")
    for batch in batches(2):
        twin.step(*batch)
    switch(twin, lambda z, head: z[:, :])
    graphs = [(twin.step(*batch), twin.graphs)[1] for batch in batches(4)]
    assert "closed_form" in twin.fam.explain()
    assert graphs[-1] == graphs[0]


class ByName(nn.Linear):
    """A linear layer that calls its function in an unusual way."""

    def forward(self, x):
        return F.linear(input=x, weight=self.weight, bias=self.bias)


def test_a_layer_that_calls_its_function_in_its_own_way_is_as_written(net):
    net[4] = ByName(5, 3).double()
    twin = Compiled(net)
    assert all(twin.step(*batch).penalty > 0 for batch in batches(3))
    assert twin.graphs == 0


class Experts(nn.Module):
    """Two heads of which a batch uses one."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(4, 3).double(), nn.Linear(4, 3).double()])
        self.used = 0

    def forward(self, x):
        return self.heads[self.used](x)


def test_an_expert_without_samples_counts_0(net):
    twin = Compiled(Experts(), layer="heads.0")
    for used in (0, 0, 1, 0, 0):
        twin.fam.model.used = twin.eager.model.used = used
        (batch,) = batches(1)
        assert (twin.step(*batch).penalty > 0) == (used == 0)


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_targets_without_a_closed_form_are_noticed_at_once(net):
    twin = Compiled(net, loss=nn.MSELoss())
    for batch in batches(2, targets=torch.randn):
        twin.step(*batch)
    for inputs, targets in batches(3, targets=torch.randn):
        twin.step(inputs, targets[:, :1])
    assert "closed_form" not in twin.fam.explain()


def test_a_closed_form_by_name_is_refused_where_it_no_longer_holds(net, batch):
    twin = Compiled(Switched(), layer="head", estimator="closed_form")
    for _ in range(2):
        twin.step(*batch)
    switch(twin, lambda z, head: 2 * z)
    with pytest.raises(NotApplicableError, match="which worked on an earlier batch"):
        twin.compiled(*batch)
    assert twin.fam.get_extra_state()["position"] == 2


def test_what_a_plan_rests_on_is_checked_at_the_same_intervals(net, batch):
    twin = Compiled(Switched(), layer="head")
    twin.step(*batch)
    for fam in (twin.fam, twin.eager):
        # Another use of the weight, which a step cannot detect by itself.
        fam.model.body.register_forward_hook(
            lambda _, args, z, head=fam.model.head: z + head.weight.sum()
        )
    for _ in range(6):
        twin.step(*batch)
    for objective in (twin.compiled, twin.eager):
        with pytest.raises(LayerError, match="also reaches the loss outside the layer's own call"):
            several(objective, *batch)


def several(objective, *batch):
    for _ in range(3):
        objective(*batch)


def test_a_loss_that_is_no_scalar_is_refused_and_the_position_stays(net, batch):
    twin = Compiled(net)
    for _ in range(2):
        twin.step(*batch)
    twin.fam.loss.reduction = "none"
    with pytest.raises(LossError, match=r"one scalar for the batch, got shape \(5,\)"):
        twin.compiled(*batch)
    assert twin.fam.get_extra_state()["position"] == 2


def test_a_model_that_cannot_be_traced_in_one_piece_is_compiled_in_several(net):
    def broken(z, head):
        torch._dynamo.graph_break()
        return z

    model = Switched()
    model.body.register_forward_hook(lambda _, args, z: broken(z, None))
    twin = Compiled(model, layer="head")
    for batch in batches(4):
        assert twin.step(*batch).penalty > 0
    assert twin.graphs > 1


def test_autocast_is_as_written(net, batch):
    twin = Compiled(net.float())
    inputs = batch[0].float(), batch[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(3):
            assert twin.step(*inputs).penalty.dtype is torch.float32
    assert twin.graphs == 0
