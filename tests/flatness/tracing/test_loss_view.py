from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from famseg.flatness._tracing._loss_view import loss_view


@st.composite
def outputs(draw):
    """A layer's output that contains its element indices, in some memory order, and its channel."""
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    order = draw(st.permutations(range(len(shape))))
    memory = torch.arange(math.prod(shape), dtype=torch.float32)
    stored = memory.reshape([shape[k] for k in order])
    return stored.permute([order.index(k) for k in range(len(shape))]), draw(
        st.integers(0, len(shape) - 1)
    )


@st.composite
def viewed(draw, tensor):
    """A chain of views as users write them, and whether it only rearranges the tensor."""
    rearranged = True
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["transpose", "flatten", "slice", "squeeze", "split", "add"]))
        a, b = (draw(st.integers(0, tensor.ndim - 1)) for _ in range(2)) if tensor.ndim else (0, 0)
        if kind == "add" or tensor.ndim == 0:
            tensor = tensor.unsqueeze(0)
        elif kind == "transpose":
            tensor = tensor.transpose(a, b)
        elif kind == "squeeze":
            tensor = tensor.squeeze(a)
        elif kind == "slice":
            begin = draw(st.integers(0, tensor.shape[a] - 1))
            end = draw(st.integers(begin + 1, tensor.shape[a]))
            step = draw(st.integers(1, 2))
            tensor = tensor.movedim(a, 0)[begin:end:step].movedim(0, a)
            rearranged = False
        elif kind == "split" and tensor.shape[a] % 2 == 0:
            tensor = tensor.unflatten(a, (2, tensor.shape[a] // 2))
            rearranged = False
        elif kind == "flatten":
            flat = tensor.flatten(min(a, b), max(a, b))
            if flat.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
                tensor = flat
    return tensor, rearranged


def numbered(output, channel):
    """Position and neuron of each element index of an output."""
    rows = output.movedim(channel, -1).flatten(0, -2)  # element indices (positions, d)
    place = torch.empty(output.numel(), 2, dtype=torch.long)
    for position, row in enumerate(rows.tolist()):
        for neuron, number in enumerate(row):
            place[int(number)] = torch.tensor([position, neuron])
    return place


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_rows_are_those_of_whole_positions(data):
    output, channel = data.draw(outputs())
    seen, rearranged = data.draw(viewed(output))
    classes = data.draw(st.booleans())
    found = loss_view(seen, output, channel, classes=classes)
    d, place = output.shape[channel], numbered(output, channel)
    if classes:
        whole = seen.ndim > 1 and seen.shape[1] == d
        if whole:
            of_neurons = place[seen.long()].movedim(1, -2)  # (..., d, 2)
            whole = bool((of_neurons[..., 1] == torch.arange(d)).all())
            whole = whole and bool((of_neurons[..., :1, 0] == of_neurons[..., 0]).all())
        assert (found is not None) is whole
    elif rearranged:
        assert found is not None
    if found is None:
        return
    assert not classes or found.neurons == 1
    rows = found.rows(seen)
    assert rows.shape == (seen.numel() // d, d)
    positions, neurons = place[rows.long()].unbind(-1)
    assert (neurons == torch.arange(d)).all()
    wanted = torch.arange(len(place) // d) if found.positions is None else found.positions
    assert (positions == wanted[:, None]).all()


def test_another_part_of_the_same_memory_is_no_view():
    whole = torch.zeros(4, 5, 6)
    own, other = whole[..., :3], whole[..., 3:]
    assert loss_view(other, own, 2, classes=False) is None
    assert loss_view(own.mT, own, 2, classes=True).positions is None
    assert loss_view(whole[:, 1:, :3], own[:, :3], 2, classes=False) is None


def test_other_numbers_are_no_view():
    output = torch.zeros(4, 3)
    assert loss_view(output.clone(), output, 1, classes=True) is None
    assert (
        loss_view(
            torch.imag(torch.zeros(4, 3, dtype=torch.complex64).conj()), output, 1, classes=True
        )
        is None
    )
    assert loss_view(output.view(torch.int32), output, 1, classes=True) is None
