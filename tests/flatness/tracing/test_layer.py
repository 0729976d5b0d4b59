from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from famseg.flatness import FAM, LayerError, LayerNotFoundError, find_layer
from famseg.flatness._tracing._layer import others, penalizable_layers


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.latent, self.expand = nn.Linear(4, 3), nn.Linear(3, 4)
        self.norm = nn.GroupNorm(1, 4)

    def forward(self, x):
        return self.norm(self.expand(self.latent(x)))


def test_finds_a_layer_by_its_dotted_name():
    model = nn.Sequential(Bottleneck())
    assert find_layer(model, "0.expand") is model[0].expand


def test_an_empty_name_is_the_model_itself():
    layer = nn.Linear(2, 2)
    assert find_layer(layer, "") is layer


def test_the_linear_layers_of_gpt2_are_found():
    from transformers.pytorch_utils import Conv1D

    block = nn.Sequential(Conv1D(4, 3), nn.ReLU(), nn.Linear(4, 2))
    assert penalizable_layers(block) == ["0", "2"]
    assert find_layer(block, "0") is block[0]


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(
        LayerNotFoundError,
        match=r"'expnad'\. Did you mean 'expand'\? Linear or convolution: 'latent', 'expand'\.",
    ):
        FAM(Bottleneck(), layer="expnad", loss=nn.MSELoss(), weight=1)


def test_a_list_of_many_layers_is_cut():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
    with pytest.raises(LayerNotFoundError, match=r"convolution: '3', .*'10' and 3 more\."):
        find_layer(model, "head")


def test_a_module_that_is_not_linear_is_refused():
    with pytest.raises(
        LayerError, match=r"'norm' is a GroupNorm, neither linear nor a conv.*'latent', 'expand'"
    ):
        find_layer(Bottleneck(), "norm")


def test_a_model_without_linear_layers_says_so():
    with pytest.raises(LayerError, match="None of the 2 modules is linear or a convolution"):
        find_layer(nn.Sequential(nn.ReLU()), "0")


def tied(*more):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), *more)
    model[1].weight = model[0].weight
    return model


def test_a_shared_weight_is_refused_and_layers_that_work_are_named():
    model = tied(nn.Conv1d(3, 3, 1), nn.Linear(3, 2))
    with pytest.raises(
        LayerError,
        match=r"'1' is shared \('0\.weight', '1\.weight'\): .* a weight of its own: '2', '3'\.$",
    ):
        find_layer(model, "1")


def test_layers_that_do_not_work_either_are_not_named():
    more = (
        nn.Linear(3, 3).bfloat16(),
        nn.LazyLinear(3),
        weight_norm(nn.Linear(3, 3)),
        nn.Embedding(3, 3),
    )
    with pytest.raises(LayerError, match=r"No other layer of the model has a weight of its own\.$"):
        find_layer(tied(*more), "0")
    model = tied(*more, nn.Linear(3, 3))  # number 6
    model.head, model.again = nn.Linear(3, 3), nn.Linear(3, 3)
    model.again.weight = more[3].weight  # as language models share the embedding with their head
    with pytest.raises(LayerError, match=r"own: '6', 'head'\.$"):
        find_layer(model, "0")
    with pytest.raises(LayerError, match=r"'again' is shared .* own: '6', 'head'\.$"):
        find_layer(model, "again")


def test_many_layers_that_work_are_cut():
    with pytest.raises(LayerError, match=r"own: '4', .*'11' and 2 more\.$"):
        find_layer(tied(*(nn.Linear(3, 3) for _ in range(10))), "0")


def test_the_layer_itself_is_not_named():
    assert others(nn.Sequential(nn.Linear(3, 3)), "0").startswith("No other layer")


def test_a_module_with_two_names_is_refused_where_it_is_called_twice():
    layer = nn.Linear(3, 3)
    fam = FAM(nn.Sequential(layer, layer), layer="1", loss=nn.MSELoss(), weight=1)
    with pytest.raises(LayerError, match="'1' was called 2 times"):
        fam(torch.ones(2, 3), torch.ones(2, 3))


def test_a_module_with_two_names_may_be_called_once():
    model = Bottleneck()
    model.alias = model.expand
    fam = FAM(model, layer="alias", loss=nn.MSELoss(), weight=1)
    assert fam(torch.ones(2, 4), torch.zeros(2, 4)).penalty is not None


def test_a_parametrized_weight_is_refused():
    with pytest.raises(LayerError, match="computed from other parameters"):
        find_layer(nn.Sequential(weight_norm(nn.Linear(3, 3))), "0")


def test_a_half_precision_weight_is_refused():
    with pytest.raises(LayerError, match=r"is torch\.bfloat16, which is too .* torch\.autocast"):
        find_layer(nn.Sequential(nn.Linear(3, 3).bfloat16()), "0")


def test_a_lazy_layer_is_refused():
    with pytest.raises(LayerError, match="'0' is lazy: run the model once"):
        find_layer(nn.Sequential(nn.LazyLinear(3)), "0")


class Uses(nn.Module):
    def __init__(self, times):
        super().__init__()
        self.fc, self.times = nn.Linear(3, 3), times

    def forward(self, x):
        for _ in range(self.times):
            x = self.fc(x)
        return x


@pytest.mark.parametrize(
    ("times", "message"),
    [(2, "'fc' was called 2 times"), (3, "'fc' was called 3 times")],
)
def test_a_layer_that_is_used_more_than_once_is_refused(times, message):
    fam = FAM(Uses(times), layer="fc", loss=nn.MSELoss(), weight=1)
    with pytest.raises(LayerError, match=message):
        fam(torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3))


def test_a_layer_that_is_never_called_is_told_and_then_refused(caplog):
    fam = FAM(Uses(0), layer="fc", loss=nn.MSELoss(), weight=1)
    batch = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3)
    for _ in range(19):
        assert fam(*batch).penalty == 0
    assert caplog.text.count("layer 'fc' was not called in this batch and counts as 0") == 1
    with pytest.raises(LayerError, match="'fc' was not called in the forward pass"):
        fam(*batch)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 3), "'fc' got an empty batch"),
        ((3,), r"shape \(3,\), but it needs a batch dimension.*inputs\[None\]"),
        ((2, 0, 3), r"empty input of shape \(2, 0, 3\)"),
    ],
)
def test_inputs_without_samples_are_refused(shape, message):
    fam = FAM(Uses(1), layer="fc", loss=lambda z, y: z.square().sum(), weight=1)
    with pytest.raises(LayerError, match=message):
        fam(torch.ones(shape), None)


def test_positions_are_refused_where_each_sample_needs_one():
    model = nn.Linear(3, 2)
    fam = FAM(model, layer="", loss=nn.CrossEntropyLoss(), weight=1, estimator="columns")
    with pytest.raises(ValueError, match=r"got \(4, 2, 3\).*probe_per=\"batch\""):
        fam(torch.ones(4, 2, 3), torch.zeros(4, 2, dtype=torch.long))


def test_exact_is_refused_for_a_large_layer():
    fam = FAM(nn.Linear(100, 50), layer="", loss=nn.MSELoss(), weight=1, estimator="exact")
    with pytest.raises(LayerError, match=r"50 x 100 = 5000 weights.*at most 4096.*\"columns\""):
        fam(torch.ones(2, 100), torch.zeros(2, 50))
