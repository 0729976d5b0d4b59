from __future__ import annotations

import pytest
import torch
from torch import nn

from famseg.flatness._tracing._operator import (
    Operator,
    dimensions,
    groups_of,
    is_linear,
    matrix_shape,
)


class OfTransformers:
    """GPT-2's linear layer, created on first use: its import takes a second."""

    def double(self):
        from transformers.pytorch_utils import Conv1D

        return Conv1D(3, 4).double()


LAYERS = {
    "linear": (nn.Linear(4, 3), (5, 4)),
    "linear at positions": (nn.Linear(4, 3), (5, 2, 4)),
    "GPT-2's": (OfTransformers(), (5, 4)),
    "GPT-2's at positions": (OfTransformers(), (5, 2, 4)),
    "strided": (nn.Conv2d(2, 4, 3, padding=1, stride=2), (3, 2, 5, 5)),
    "dilated": (nn.Conv1d(2, 4, 3, dilation=2), (3, 2, 9)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), (3, 4, 5, 5)),
    "depthwise": (nn.Conv3d(2, 2, 2, groups=2), (3, 2, 3, 3, 3)),
    "reflected": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (3, 2, 4, 4)),
    "circular": (nn.Conv1d(2, 2, 3, padding=2, padding_mode="circular"), (3, 2, 4)),
    "same": (nn.Conv2d(2, 2, (3, 5), padding="same"), (3, 2, 4, 4)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), (3, 2, 4, 4)),
    "transposed, output padding": (
        nn.ConvTranspose3d(2, 2, 2, stride=2, output_padding=1),
        (3, 2, 2, 2, 2),
    ),
    "transposed, grouped": (nn.ConvTranspose1d(4, 6, 3, groups=2, dilation=2), (3, 4, 5)),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def used(request):
    layer, shape = request.param
    layer = layer.double()
    features = torch.randn(shape, dtype=torch.float64)
    output = layer(features)
    return layer, features, output, Operator(layer, features, output)


def test_the_map_is_the_layer_without_its_bias(used):
    layer, features, output, operator = used
    # The bias is the layer's output for zeros.
    torch.testing.assert_close(
        operator.apply(features, layer.weight), output - layer(torch.zeros_like(features))
    )


def test_the_map_takes_a_weight_for_each_sample(used):
    layer, features, _, operator = used
    weights = torch.randn(len(features), *layer.weight.shape, dtype=torch.float64)
    alone = [operator.apply(x[None], w)[0] for x, w in zip(features, weights, strict=True)]
    torch.testing.assert_close(operator.apply_each(features, weights), torch.stack(alone))


def test_rows_and_kernels_are_each_others_inverse(used):
    layer, _, _, operator = used
    rows = operator.rows(layer.weight)
    assert (rows.shape[0] * rows.shape[1], rows.shape[2]) == matrix_shape(layer)
    assert torch.equal(operator.kernel(rows), layer.weight)
    stack = torch.randn(5, *rows.shape)
    assert torch.equal(operator.kernel(stack)[3], operator.kernel(stack[3]))


def test_a_row_is_what_one_neuron_reads(used):
    layer, features, _, operator = used
    rows = operator.rows(layer.weight).detach().clone()
    rows[-1, 0] += 1
    moved = operator.apply(features, operator.kernel(rows))
    changed = (moved - operator.apply(features, layer.weight)).abs() > 1e-9
    channels = changed.movedim(operator.channel, 0).flatten(1).any(1)
    assert channels.nonzero().flatten().tolist() == [(rows.shape[0] - 1) * rows.shape[1]]


def test_positions_are_independent_where_it_says_so(used):
    layer, features, _, operator = used
    if not operator.pointwise:
        assert not is_linear(layer)
        return
    rows = features.movedim(operator.channel, -1) @ operator.matrix(layer.weight).T
    own = operator.apply(features, layer.weight)
    torch.testing.assert_close(rows.movedim(-1, operator.channel), own)
    assert operator.matrix(layer.weight).shape == matrix_shape(layer)


@pytest.mark.parametrize(
    ("layer", "shape", "pointwise"),
    [
        (nn.Conv2d(2, 3, 1), (1, 2, 4, 4), True),
        (nn.Conv2d(2, 3, 1, padding="same", dilation=3), (1, 2, 4, 4), True),
        (nn.ConvTranspose1d(2, 3, 1), (1, 2, 4), True),
        (nn.ConvTranspose1d(2, 3, 1, dilation=2, output_padding=1), (1, 2, 4), False),
        (nn.Conv2d(2, 3, (1, 2)), (1, 2, 4, 4), False),
        (nn.Conv2d(2, 3, 1, stride=(1, 2)), (1, 2, 4, 4), False),
        (nn.Conv2d(2, 3, 1, padding=(0, 1)), (1, 2, 4, 4), False),
        (nn.Conv2d(2, 4, 1, groups=2), (1, 2, 4, 4), False),
    ],
)
def test_a_convolution_is_pointwise_if_its_kernel_is_a_point(layer, shape, pointwise):
    features = torch.randn(shape)
    assert Operator(layer, features, layer(features)).pointwise is pointwise


def test_what_looks_like_the_layer_of_transformers_is_none_elsewhere():
    class Conv1D(nn.Linear): ...

    other = type("Conv1D", (nn.Module,), {"__module__": "mine.pytorch_utils"})()
    assert not is_linear(other)
    assert matrix_shape(Conv1D(4, 3)) == (3, 4)


def test_sizes_are_those_of_the_kind(used):
    layer, features, _, operator = used
    assert dimensions(layer) <= features.ndim
    assert groups_of(layer) == operator.groups == operator.rows(layer.weight).shape[0]


def test_a_transposed_convolution_keeps_the_output_size_that_was_asked_for():
    layer = nn.ConvTranspose2d(1, 1, 3, stride=2).double()
    features = torch.randn(2, 1, 3, 3, dtype=torch.float64)
    output = layer(features, output_size=(8, 7))
    operator = Operator(layer, features, output)
    assert operator.apply(features, layer.weight).shape == output.shape == (2, 1, 8, 7)
