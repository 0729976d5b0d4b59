from __future__ import annotations

import copy
import pickle
import types

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from famseg.flatness import LayerError, LayerNotFoundError
from famseg.flatness._tracing import _layer_cache
from famseg.flatness._tracing._layer import find_layer
from famseg.flatness._tracing._layer_cache import LayerCache


def network():
    body = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    return nn.Sequential(body, nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3), nn.ReLU())


@pytest.fixture
def searches(monkeypatch):
    """The names that were searched for, in order."""
    names = []

    def counted(model, name):
        names.append(name)
        return find_layer(model, name)

    monkeypatch.setattr(_layer_cache, "find_layer", counted)
    return names


def test_finds_once_what_stays(searches):
    model, cache = network(), LayerCache(["1.0", "2"])
    first = cache.layers(model)
    assert first == {"1.0": model[1][0], "2": model[2]}
    # Training does not change the structure of a model.
    model(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.eval().requires_grad_(requires_grad=False)
    model.load_state_dict(network().state_dict())
    assert cache.layers(model) is first
    assert searches == ["1.0", "2"]
    assert cache.generation == 1
    assert cache.modules == tuple(model.modules())


def replace_layer(model):
    model[1][0] = nn.Linear(3, 3)


def replace_parent(model):
    model[1] = nn.Sequential(nn.Linear(3, 3))


def replace_weight(model):
    model[1][0].weight = nn.Parameter(torch.ones(3, 3))


def change_precision(model):
    model.double()


def swap_names(model):
    model[0], model[1] = model[1], model[0]


def add_a_module_at_the_end(model):
    model.append(nn.Linear(3, 3))


def add_a_parameter_to_the_last_module(model):
    model[3].scale = nn.Parameter(torch.ones(1))


def remove_the_last_module(model):
    del model[3]


@pytest.mark.parametrize(
    "change",
    [
        replace_layer,
        replace_parent,
        replace_weight,
        change_precision,
        swap_names,
        add_a_module_at_the_end,
        add_a_parameter_to_the_last_module,
        remove_the_last_module,
    ],
)
def test_finds_anew_after_a_change(searches, change):
    model, cache = network(), LayerCache(["1.0"])
    cache.layers(model)
    change(model)
    assert cache.layers(model) == {"1.0": find_layer(model, "1.0")}
    assert cache.generation == 2
    assert cache.modules == tuple(model.modules())
    cache.layers(model)
    assert len(searches) == 2


def tie_before(model):
    model[0][0].weight = model[1][0].weight


def tie_behind(model):
    model[2].weight = model[1][0].weight


def tie_in_a_module_without_parameters(model):
    model[3].weight = model[1][0].weight


def tie_in_a_new_child(model):
    model[3].inner = nn.Linear(3, 3)
    model[3].inner.weight = model[1][0].weight


@pytest.mark.parametrize(
    "tie", [tie_before, tie_behind, tie_in_a_module_without_parameters, tie_in_a_new_child]
)
def test_a_weight_that_is_tied_later_is_refused_until_it_is_not(tie):
    model, cache = network(), LayerCache(["1.0"])
    cache.layers(model)
    tie(model)
    for _ in range(2):
        with pytest.raises(LayerError, match=r"the weight of layer '1\.0' is shared"):
            cache.layers(model)
    model[1][0].weight = nn.Parameter(torch.ones(3, 3))
    assert cache.layers(model)["1.0"] is model[1][0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda model: weight_norm(model[2]), LayerError, "computed from other parameters"),
        (lambda model: model.bfloat16(), LayerError, "too coarse for second derivatives"),
        (lambda model: model.__delitem__(2), LayerError, "'2' is a ReLU"),
        (lambda model: model.__delitem__(slice(2, 4)), LayerNotFoundError, "no layer is called"),
    ],
)
def test_what_cannot_be_penalized_any_more_is_refused(change, error, message):
    model, cache = network(), LayerCache(["2"])
    cache.layers(model)
    change(model)
    with pytest.raises(error, match=message):
        cache.layers(model)


def test_a_module_that_moves_to_another_name_is_not_found_there():
    model = nn.ModuleDict({"head": nn.Linear(3, 3)})
    cache = LayerCache(["head"])
    cache.layers(model)
    model["fc"] = model.pop("head")
    with pytest.raises(LayerNotFoundError, match="no layer is called 'head'"):
        cache.layers(model)


def test_another_model_is_looked_at_anew():
    cache, first = LayerCache(["2"]), network()
    cache.layers(first)
    second = nn.Sequential(nn.Identity(), nn.Identity(), first[2])  # the same layer in it
    assert cache.layers(second)["2"] is first[2]
    assert cache.modules == tuple(second.modules())


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_finds_the_layers_of_its_own_model(copied):
    model, cache = network(), LayerCache(["2"])
    cache.layers(model)
    model, cache = copied((model, cache))
    assert cache.layers(model)["2"] is model[2]
    assert cache.layers(model) is cache.layers(model)


def test_a_module_with_another_kind_of_content_is_walked_each_time(searches):
    model, cache = network(), LayerCache(["2"])
    model[3].__dict__["_parameters"] = types.MappingProxyType({})
    assert cache.layers(model)["2"] is cache.layers(model)["2"] is model[2]
    assert len(searches) == 2


@pytest.mark.slow  # importing the compiler takes seconds
def test_sees_through_compiled_modules(searches):
    model, cache = network(), LayerCache(["1.0"])
    inner = model[1]
    model[1] = torch.compile(inner)
    compiled = torch.compile(model)
    assert cache.layers(compiled)["1.0"] is cache.layers(compiled)["1.0"] is inner[0]
    assert len(searches) == 1
    inner[0] = nn.Linear(3, 3)
    assert cache.layers(compiled)["1.0"] is inner[0]
