from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from famseg.flatness import FAM, FlatnessError, NotApplicableError, relative_flatness
from famseg.flatness._estimators._head import head_flatness, obstacle
from famseg.flatness._tracing._loss_call import LossCalls, plain_call
from famseg.flatness._tracing._operator import Operator

WEIGHTS = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
N, T, D, M = 4, 5, 3, 2  # samples, tokens, neurons, features
TOKENS = torch.arange(N * T).reshape(N, T) % D
IGNORED = TOKENS.masked_fill(torch.arange(N * T).reshape(N, T) % 4 == 1, -100)
SOFT = torch.softmax(torch.arange(N * T * D, dtype=torch.float64).reshape(N, T, D).sin(), -1)
REAL = torch.arange(N * T * D, dtype=torch.float64).reshape(N, T, D).cos()
CE, MSE, BCE = F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits

# Losses of the outputs (N, T, D) of a layer on tokens.
TOKEN_LOSSES = {
    "flattened": lambda z: CE(z.flatten(0, 1), TOKENS.flatten()),
    "view": lambda z: CE(z.view(-1, D), TOKENS.view(-1)),
    "reshaped in three": lambda z: CE(z.reshape(2, 2, T, D).movedim(-1, 1), TOKENS.view(2, 2, T)),
    "transposed": lambda z: CE(z.transpose(1, 2), TOKENS),
    "mT": lambda z: CE(z.mT, TOKENS),
    "permuted": lambda z: CE(z.permute(1, 2, 0), TOKENS.T),
    "tokens first": lambda z: CE(z.transpose(0, 1).transpose(1, 2), TOKENS.T),
    "shifted": lambda z: CE(z[:, :-1].transpose(1, 2), TOKENS[:, 1:]),
    "last token": lambda z: CE(z[:, -1], TOKENS[:, 0]),
    "some samples": lambda z: CE(z[1:3].flatten(0, 1), TOKENS[1:3].flatten()),
    "a chunk": lambda z: CE(z.chunk(2, dim=1)[1].mT, TOKENS[:, 3:]),
    "one sample": lambda z: CE(z.unbind(0)[2], TOKENS[2]),
    "twice": lambda z: CE(z.unfold(1, 3, 1).movedim(2, 1), TOKENS.unfold(1, 3, 1)),
    "expanded": lambda z: CE(z[None].expand(2, N, T, D).movedim(-1, 1), TOKENS.expand(2, N, T)),
    "ignored": lambda z: CE(z.flatten(0, 1), IGNORED.flatten()),
    "ignored, sum": lambda z: CE(z.mT, IGNORED, reduction="sum"),
    "ignored, transposed": lambda z: CE(z.permute(1, 2, 0), IGNORED.T),
    "weights": lambda z: CE(z.mT, TOKENS, WEIGHTS),
    "all": lambda z: CE(z.mT, IGNORED, WEIGHTS, label_smoothing=0.2),
    "all, sum": lambda z: CE(
        z.view(-1, D), IGNORED.view(-1), WEIGHTS, label_smoothing=0.2, reduction="sum"
    ),
    "soft": lambda z: CE(z.mT, SOFT.mT),
    "soft, all": lambda z: CE(
        z.permute(1, 2, 0), SOFT.permute(1, 2, 0), WEIGHTS, label_smoothing=0.1
    ),
    "module": lambda z: nn.CrossEntropyLoss(ignore_index=1)(z.mT, TOKENS),
    "squared": lambda z: MSE(z, REAL),
    "squared, sum, flattened": lambda z: MSE(z.flatten(), REAL.flatten(), reduction="sum"),
    "squared, some tokens": lambda z: MSE(z[:, 1:3], REAL[:, 1:3]),
    "logistic": lambda z: BCE(z, SOFT),
    "logistic, flattened": lambda z: BCE(z.flatten(1), SOFT.flatten(1)),
    "logistic, all": lambda z: BCE(
        z.mT, SOFT.mT, 1 + REAL[:1, :, 0] ** 2, pos_weight=WEIGHTS[:, None], reduction="sum"
    ),
    "logistic, last token": lambda z: BCE(z[:, -1], SOFT[:, -1], pos_weight=WEIGHTS),
}


MASK = torch.arange(N * T).reshape(N, T) % 3 > 0
LONE = MASK & (torch.arange(N) != 2)[:, None]
LAST = torch.tensor([0, 4, 2, 1])  # the last token of each sample that is one
# The same losses on copies of the outputs.
TOKEN_COPIES = {
    "contiguous": lambda z: CE(z.mT.contiguous(), TOKENS),
    "causal": lambda z: CE(z[:, :-1].reshape(-1, D), TOKENS[:, 1:].reshape(-1)),
    "causal, as transformers": lambda z: CE(
        z[..., :-1, :].contiguous().view(-1, D), IGNORED[..., 1:].contiguous().view(-1)
    ),
    "masked": lambda z: CE(z[MASK], TOKENS[MASK]),
    "masked, all": lambda z: CE(z[MASK], IGNORED[MASK], WEIGHTS, label_smoothing=0.2),
    "no token of a sample": lambda z: CE(z[LONE], TOKENS[LONE]),
    "last tokens": lambda z: CE(z[torch.arange(N), LAST], TOKENS[:, 0]),
    "other tokens": lambda z: CE(z[:, [3, 1]].mT, TOKENS[:, :2], reduction="sum"),
    "index_select": lambda z: CE(z.index_select(1, LAST[:2]).mT, TOKENS[:, :2]),
    "chosen and reshaped": lambda z: CE(z[1:][:, [4, 0, 2]].mT.reshape(3, D, 3), TOKENS[1:, :3]),
    "soft": lambda z: CE(z[MASK], SOFT[MASK], WEIGHTS),
    "squared, masked": lambda z: MSE(z[MASK], REAL[MASK]),
    "squared, flattened": lambda z: MSE(z[:, 1:].reshape(N, -1), REAL[:, 1:].reshape(N, -1)),
    "squared, neurons first": lambda z: MSE(z.permute(2, 1, 0).contiguous(), REAL.permute(2, 1, 0)),
    "logistic, masked": lambda z: BCE(z[MASK], SOFT[MASK], pos_weight=WEIGHTS),
    "logistic, reshaped": lambda z: BCE(z[:, ::2].reshape(-1), SOFT[:, ::2].reshape(-1)),
}


def pixels(values):
    """Values of tokens (N, T, ...) as those of an image, five pixels wide: (N, 1, T, ...)."""
    return values.unsqueeze(1)


IMAGE, IMAGE_IGNORED = pixels(TOKENS), pixels(IGNORED)
IMAGE_SOFT, IMAGE_REAL = pixels(SOFT).movedim(-1, 1), pixels(REAL).movedim(-1, 1)
# Losses of the outputs (N, D, 1, T) of a convolution.
PIXEL_LOSSES = {
    "plain": lambda z: CE(z, IMAGE),
    "ignored": lambda z: CE(z, IMAGE_IGNORED),
    "all": lambda z: CE(z, IMAGE_IGNORED, WEIGHTS, label_smoothing=0.2),
    "soft": lambda z: CE(z, IMAGE_SOFT, WEIGHTS, label_smoothing=0.2),
    "flattened": lambda z: CE(z.flatten(2), IMAGE.flatten(1)),
    "squeezed": lambda z: CE(z.squeeze(2), TOKENS),
    "cropped": lambda z: CE(z[..., 1:4], IMAGE[..., 1:4]),
    "squared": lambda z: MSE(z, IMAGE_REAL),
    "squared, flattened": lambda z: MSE(z.flatten(), IMAGE_REAL.flatten()),
    "squared, samples": lambda z: MSE(z.flatten(1), IMAGE_REAL.flatten(1)),
    "logistic": lambda z: BCE(z, IMAGE_SOFT),
    "logistic, all": lambda z: BCE(z, IMAGE_SOFT, IMAGE_REAL**2, pos_weight=WEIGHTS[:, None, None]),
    "pixels as rows": lambda z: CE(z.permute(0, 2, 3, 1).reshape(-1, D), IMAGE.flatten()),
    "pixels as rows, ignored": lambda z: CE(
        z.permute(0, 2, 3, 1).reshape(-1, D), IMAGE_IGNORED.flatten(), WEIGHTS
    ),
    "masked pixels": lambda z: CE(z.movedim(1, -1)[pixels(MASK)], IMAGE[pixels(MASK)]),
    "logistic, pixels as rows": lambda z: BCE(
        z.movedim(1, -1).reshape(-1, D), IMAGE_SOFT.movedim(1, -1).reshape(-1, D)
    ),
}


def seen(layer, features, loss):
    """The loss, and the inputs of the closed form."""
    output = layer(features)
    with LossCalls() as calls:
        value = loss(output)
    return value, (calls.behind(value), Operator(layer, features, output), features, output)


def compare(layer, features, loss):
    """Compare the closed form with the dense Hessian, and the gradients of both."""
    shape = layer.weight.shape
    leaves = [features, *layer.parameters()]
    _, found = seen(layer, features, loss)
    values = head_flatness(*found, layer.weight)
    assert values.shape == (len(features),)

    def of_matrix(matrix):
        weights = {"weight": matrix.reshape(shape)}
        return loss(functional_call(layer, weights, (features,)))

    wanted = relative_flatness(of_matrix, layer.weight.flatten(1))
    torch.testing.assert_close(values.mean(), wanted)
    torch.testing.assert_close(
        torch.autograd.grad(values.mean(), leaves, materialize_grads=True),
        torch.autograd.grad(wanted, leaves, materialize_grads=True),
    )


@pytest.mark.parametrize("loss", TOKEN_COPIES.values(), ids=TOKEN_COPIES)
def test_of_a_copy_is_what_the_dense_hessian_gives(loss):
    features = torch.randn(N, T, M, dtype=torch.float64, requires_grad=True)
    compare(nn.Linear(M, D).double(), features, loss)


@pytest.mark.parametrize("loss", TOKEN_LOSSES.values(), ids=TOKEN_LOSSES)
def test_on_tokens_is_what_the_dense_hessian_gives(loss):
    features = torch.randn(N, T, M, dtype=torch.float64, requires_grad=True)
    compare(nn.Linear(M, D).double(), features, loss)


@pytest.mark.parametrize("loss", PIXEL_LOSSES.values(), ids=PIXEL_LOSSES)
def test_of_a_pointwise_convolution_is_what_the_dense_hessian_gives(loss):
    features = torch.randn(N, M, 1, T, dtype=torch.float64, requires_grad=True)
    compare(nn.Conv2d(M, D, 1).double(), features, loss)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["plain", "flattened", "rows", "squared"])
def test_the_order_in_memory_does_not_matter(name, memory):
    features = torch.randn(N, M, 2, T, dtype=torch.float64).to(memory_format=memory)
    layer = nn.Conv2d(M, D, 1).double().to(memory_format=memory)
    assert layer(features).is_contiguous(memory_format=memory)
    targets = torch.arange(N * 2 * T).reshape(N, 2, T) % D
    losses = {
        "plain": lambda z: CE(z, targets),
        "flattened": lambda z: CE(z.flatten(2), targets.flatten(1)),
        "rows": lambda z: CE(z.mT, targets.mT),
        "squared": lambda z: MSE(z, targets.unsqueeze(1).expand(z.shape).double()),
    }
    compare(layer, features.requires_grad_(), losses[name])


OTHERS = {
    "one feature vector": (nn.Linear(M, D), (N, M), lambda z: CE(z, TOKENS[:, 0])),
    "one of them, viewed": (nn.Linear(M, D), (N, M), lambda z: CE(z.view(N, D), TOKENS[:, 0])),
    "one output": (nn.Linear(M, 1), (N, M), lambda z: BCE(z.squeeze(1), SOFT[:, 0, 0])),
    "one output, indexed": (nn.Linear(M, 1), (N, M), lambda z: MSE(z[:, 0], REAL[:, 0, 0])),
    "one output a token": (nn.Linear(M, 1), (N, T, M), lambda z: BCE(z[..., 0], SOFT[..., 0])),
    "one output a token, turned": (
        nn.Linear(M, 1),
        (N, T, M),
        lambda z: MSE(z.mT, REAL[..., :1].mT),
    ),
    "tokens of tokens": (
        nn.Linear(M, D),
        (N, 1, T, M),
        lambda z: CE(z.movedim(-1, 1), IMAGE),
    ),
    "Conv1d": (nn.Conv1d(M, D, 1), (N, M, T), lambda z: CE(z, TOKENS)),
    "Conv1d, as tokens": (
        nn.Conv1d(M, D, 1, padding="same"),
        (N, M, T),
        lambda z: CE(z.mT.reshape(N, T, D).mT, TOKENS),
    ),
    "Conv3d": (
        nn.Conv3d(M, D, 1, dilation=2),
        (N, M, T, 1, 1),
        lambda z: CE(z, TOKENS[..., None, None]),
    ),
    "one channel": (nn.Conv2d(M, 1, 1), (N, M, 1, T), lambda z: BCE(z[:, 0], IMAGE_SOFT[:, 0])),
}


@pytest.mark.parametrize(("layer", "shape", "loss"), OTHERS.values(), ids=OTHERS)
def test_of_other_layers_and_shapes_is_what_the_dense_hessian_gives(layer, shape, loss):
    compare(layer.double(), torch.randn(shape, dtype=torch.float64, requires_grad=True), loss)


def test_of_a_transposed_convolution():
    layer = nn.ConvTranspose1d(M, D, 1).double()
    twin = nn.Conv1d(M, D, 1).double()
    twin.load_state_dict({"weight": layer.weight.transpose(0, 1), "bias": layer.bias})
    features = torch.randn(N, M, T, dtype=torch.float64)
    found, wanted = (
        head_flatness(*seen(one, features, lambda z: CE(z, TOKENS))[1], one.weight)
        for one in (layer, twin)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shape", [(N, M), (N, T, M)])
def test_of_the_linear_layer_of_gpt2(shape):
    from transformers.pytorch_utils import Conv1D

    layer, twin = Conv1D(D, M).double(), nn.Linear(M, D).double()
    twin.load_state_dict({"weight": layer.weight.T, "bias": layer.bias})
    features = torch.randn(shape, dtype=torch.float64)
    targets = TOKENS[:, 0] if len(shape) == 2 else TOKENS

    def loss(z):
        return CE(z.movedim(-1, 1), targets)

    found, wanted = (
        head_flatness(*seen(one, features, loss)[1], one.weight) for one in (layer, twin)
    )
    torch.testing.assert_close(found, wanted)
    found.mean().backward()
    wanted.mean().backward()
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad.T)


@pytest.mark.slow  # importing the models of transformers takes seconds
def test_of_a_model_of_transformers_that_computes_its_loss():
    from transformers import BertConfig, BertForTokenClassification

    sizes = {"hidden_size": 4, "intermediate_size": 4, "vocab_size": 9, "num_labels": D}
    config = BertConfig(num_hidden_layers=1, num_attention_heads=1, **sizes)
    model, labels = BertForTokenClassification(config).double().eval(), IGNORED
    found = {}
    model.classifier.register_forward_hook(
        lambda _, inputs, output: found.update(features=inputs[0], output=output)
    )
    with LossCalls() as calls:
        loss = model(input_ids=torch.arange(N * T).reshape(N, T) % 9, labels=labels).loss
    features, output = found["features"], found["output"]
    operator = Operator(model.classifier, features, output)
    weight = model.classifier.weight
    values = head_flatness(calls.behind(loss), operator, features, output, weight)

    def of_matrix(matrix):
        z = F.linear(features, matrix, model.classifier.bias)
        return CE(z.flatten(0, 1), labels.flatten())

    torch.testing.assert_close(values.mean(), relative_flatness(of_matrix, weight))


@pytest.mark.parametrize("quantity", ["relative_flatness", "simplified"])
@pytest.mark.parametrize("gradient", ["full", "weights_only"])
@pytest.mark.parametrize("name", ["transposed", "shifted", "all", "squared", "logistic, all"])
def test_quantity_and_gradient_are_those_of_the_estimators(name, gradient, quantity):
    loss = TOKEN_LOSSES[name]
    body, layer = nn.Linear(2, M).double(), nn.Linear(M, D).double()
    model, inputs = nn.Sequential(body, layer), torch.randn(N, T, 2, dtype=torch.float64)
    fam = FAM(
        model,
        layer="1",
        loss=lambda z, _: loss(z),
        weight=1,
        estimator="exact",
        quantity=quantity,
        gradient=gradient,
        bound="none",
    )
    wanted = fam(inputs, None).penalty
    _, found = seen(layer, body(inputs), loss)
    values = head_flatness(*found, layer.weight, quantity=quantity, gradient=gradient)
    torch.testing.assert_close(values.mean(), wanted)
    parameters = [*model.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(values.mean(), parameters, materialize_grads=True),
        torch.autograd.grad(wanted, parameters, materialize_grads=True),
    )


@pytest.mark.parametrize("order", ["in order", "tokens first"])
def test_a_sample_has_the_share_of_its_positions(order):
    # Sample 0 has only ignored targets, sample 1 a single valid one, the others only valid ones.
    targets = TOKENS.clone()
    targets[0], targets[1, 1:] = -100, -100
    layer = nn.Linear(M, D).double()
    features = torch.randn(N, T, M, dtype=torch.float64)

    def loss(z):
        return CE(z.mT, targets) if order == "in order" else CE(z.permute(1, 2, 0), targets.T)

    values = head_flatness(*seen(layer, features, loss)[1], layer.weight)
    kept = (targets != -100).sum(1)
    assert values[0] == 0
    for i in range(1, N):

        def of_sample(weight, i=i):
            z = F.linear(features[i], weight, layer.bias)
            return N / kept.sum() * CE(z, targets[i], reduction="sum")

        torch.testing.assert_close(values[i], relative_flatness(of_sample, layer.weight))


def test_without_a_graph_the_value_is_the_same():
    layer, features = nn.Linear(M, D).double(), torch.randn(N, T, M, dtype=torch.float64)
    loss = TOKEN_LOSSES["shifted"]
    wanted = head_flatness(*seen(layer, features, loss)[1], layer.weight)
    with torch.no_grad():
        found = head_flatness(*seen(layer, features, loss)[1], layer.weight)
    torch.testing.assert_close(found, wanted)


class Turned(torch.autograd.Function):
    """The same values with another gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return -slope


def changed_in_place(copy):
    with torch.no_grad():
        return copy.mul_(2)


NO_VIEWS = {
    "computed": lambda z: CE((2 * z).mT, TOKENS),
    "copied, computed": lambda z: CE(2 * z.mT.contiguous(), TOKENS),
    "copied, changed in place": lambda z: CE(changed_in_place(z.mT.contiguous()), TOKENS),
    "copied, a row twice": lambda z: CE(z[:, [0, 0, 1]].flatten(0, 1), TOKENS[:, :3].flatten()),
    "copied, neurons mixed": lambda z: CE(z.mT.reshape(N, T, D).mT, TOKENS),
    "copied, two neurons": lambda z: CE(z[..., :2].reshape(-1, 2), TOKENS.flatten() % 2),
    "copied, neurons turned": lambda z: CE(z[..., [1, 0, 2]].mT, TOKENS),
    "padded": lambda z: CE(F.pad(z, (0, 0, 0, 1)).mT, F.pad(TOKENS, (0, 1))),
    "detached": lambda z: CE(z.detach().mT, TOKENS),
    "another gradient": lambda z: CE(Turned.apply(z).mT, TOKENS),
    "another precision": lambda z: CE(z.float().mT, TOKENS),
    "tokens as classes": lambda z: CE(z, TOKENS[:, :D]),
    "two neurons only": lambda z: CE(z[..., :2].mT, TOKENS % 2),
    "one neuron only": lambda z: BCE(z[..., 0], SOFT[..., 0]),
    "from the second neuron on": lambda z: MSE(z.flatten()[1:-2], REAL.flatten()[1:-2]),
    "the other way round": lambda z: CE(z.flip(-1).mT, TOKENS),
}


@pytest.mark.parametrize("loss", NO_VIEWS.values(), ids=NO_VIEWS)
def test_what_is_no_view_of_the_outputs_has_no_closed_form(loss):
    layer, features = nn.Linear(M, D).double(), torch.randn(N, T, M, dtype=torch.float64)
    _, (call, operator, _, output) = seen(layer, features, loss)
    assert "not get the layer's output (reshaped, permuted" in obstacle(call, operator, output)
    with pytest.raises(NotApplicableError, match="flatness has no closed form here: the loss"):
        head_flatness(call, operator, features, output, layer.weight)


COMPUTED = {
    "entropy": lambda z: CE(z, z.softmax(1)),
    "entropy of tokens": lambda z: CE(z[:, None].mT, z[:, None].mT.softmax(1)),
    "own targets": lambda z: MSE(z, z.tanh()),
}


@pytest.mark.parametrize("loss", COMPUTED.values(), ids=COMPUTED)
def test_targets_and_weights_that_depend_on_the_outputs_have_no_closed_form(loss):
    layer, features = nn.Linear(M, D).double(), torch.randn(N, M, dtype=torch.float64)
    _, (call, operator, _, output) = seen(layer, features, loss)
    with pytest.raises(NotApplicableError, match="targets or weights have a gradient"):
        head_flatness(call, operator, features, output, layer.weight)


def test_targets_and_weights_that_are_held_constant_have_one():
    features = torch.randn(N, M, dtype=torch.float64, requires_grad=True)
    targets = SOFT[:, 0].clone().requires_grad_()  # a leaf, that no layer leads to
    compare(nn.Linear(M, D).double(), features, lambda z: CE(z, targets))
    compare(nn.Linear(M, D).double(), features, lambda z: BCE(z, SOFT[:, 0], z.detach().sigmoid()))


LAYERS = {
    "wide kernel": nn.Conv2d(M, D, 3, padding=1),
    "stride": nn.Conv2d(M, D, 1, stride=2),
    "padding": nn.Conv2d(M, D, 1, padding=1),
    "groups": nn.Conv2d(2, 4, 1, groups=2),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_other_convolutions_have_no_closed_form(layer):
    features = torch.randn(N, M, 4, 4)
    output = layer(features)
    call = plain_call(nn.MSELoss(), output, output.detach())
    reason = obstacle(call, Operator(layer, features, output), output)
    assert reason == (
        "an output of the layer combines several positions, or its neurons are in groups"
    )


BROADCAST = {
    "squared": (nn.MSELoss(), torch.zeros(N, 1, D), r"targets of shape \(4, 1, 3\) do not have"),
    "no tensor": (nn.MSELoss(), 0.0, "the targets are a float"),
    "weights": (
        nn.BCEWithLogitsLoss(torch.ones(2, 1, 1, 1)),
        torch.zeros(N, T, D),
        "its element_weights are broadcast beyond the outputs",
    ),
}


@pytest.mark.parametrize(("loss", "targets", "reason"), BROADCAST.values(), ids=BROADCAST)
def test_what_is_broadcast_has_no_closed_form(loss, targets, reason):
    layer, features = nn.Linear(M, D), torch.randn(N, T, M)
    output = layer(features)
    call = plain_call(loss, output, targets)
    with pytest.raises(NotApplicableError, match=reason):
        head_flatness(call, Operator(layer, features, output), features, output, layer.weight)


def test_broadcast_targets_of_a_plain_head_are_refused_with_advice():
    layer, features = nn.Linear(M, 1), torch.randn(N, M)
    output = layer(features)
    call = plain_call(nn.MSELoss(), output, torch.zeros(N))
    with pytest.raises(NotApplicableError, match=r"targets\.unsqueeze\(1\)"):
        head_flatness(call, Operator(layer, features, output), features, output, layer.weight)


def test_an_unknown_quantity_is_refused():
    layer, features = nn.Linear(M, D).double(), torch.randn(N, T, M, dtype=torch.float64)
    _, found = seen(layer, features, TOKEN_LOSSES["flattened"])
    with pytest.raises(FlatnessError, match="quantity of a closed form must be one of"):
        head_flatness(*found, layer.weight, quantity="max_eigenvalue")
