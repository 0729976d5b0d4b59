from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from famseg.models import ShapeAutoencoder
from famseg.models import _cpu_layers as cpu_layers
from famseg.models._cpu_layers import use_cpu_layers


def _pair(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    before = nn.Sequential(make())
    return before, use_cpu_layers(copy.deepcopy(before))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "prelu": lambda: nn.PReLU(init=0.3),
    "prelu, negative slope": lambda: nn.PReLU(init=-0.7),
    "doubling": lambda: nn.ConvTranspose3d(3, 1, 3, stride=2, padding=1, output_padding=1),
    "uneven": lambda: nn.ConvTranspose3d(
        3, 1, (2, 3, 5), stride=(1, 2, 3), padding=(0, 1, 2), output_padding=(0, 1, 0), bias=False
    ),
    "larger steps than taps": lambda: nn.ConvTranspose3d(3, 1, 2, stride=3, output_padding=1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_compute_the_same_with_their_gradients(name: str) -> None:
    before, after = _pair(LAYERS[name])
    assert type(after[0]) is not type(before[0])
    x = torch.randn(2, 3, 4, 5, 3)
    results = []
    for layer in (before, after):
        inputs = x.clone().requires_grad_()
        output = layer(inputs)
        output.square().sum().backward()
        results.append([output, inputs.grad, *(each.grad for each in layer.parameters())])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_of_second_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layers, "_own_kernel", lambda x, weight: True)
    _, after = _pair(LAYERS[name])
    net = after.double()
    called = _Counted(monkeypatch)
    x = torch.randn(1, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    inputs = (x, *net.parameters())

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in net.named_parameters()]
        return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    assert called.count


class _Counted:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        apply = cpu_layers._apply

        def counting(*arguments: Any) -> Tensor:
            self.count += 1
            return apply(*arguments)

        monkeypatch.setattr(cpu_layers, "_apply", counting)


def test_the_autoencoder_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ShapeAutoencoder(size=16, channels=(4, 8, 4), strides=(2, 2, 2), latent=3)
    called = _Counted(monkeypatch)
    net(torch.rand(2, 1, 16, 16, 16)).sum().backward()
    # Three activations in the encoder, two in the decoder, and its last convolution.
    assert called.count == 6


def test_the_derivative_by_the_slope_is_accurate_for_many_voxels() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 32, 32, 32)
    (layer,) = use_cpu_layers(nn.Sequential(nn.PReLU()))
    layer(x.clone().requires_grad_()).sum().backward()
    assert layer.weight.grad is not None
    expected = x.clamp(max=0).sum(dtype=torch.float64)
    assert layer.weight.grad.double().item() == pytest.approx(expected.item(), rel=1e-6)


def test_several_gradients_at_once() -> None:
    before, after = _pair(LAYERS["prelu"])
    gradients = torch.randn(2, 3, 4)
    found = []
    for layer in (before, after):
        x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
        inputs = (x, *layer.parameters())
        found.append(torch.autograd.grad(layer(x), inputs, gradients, is_grads_batched=True))
    torch.testing.assert_close(found[1], found[0])


class _Watching(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_torchs_functions_are_called_where_something_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = use_cpu_layers(nn.Sequential(nn.PReLU(), nn.ConvTranspose3d(3, 1, 2), nn.PReLU()))
    called, x = _Counted(monkeypatch), torch.rand(2, 3, 4, 4, 4, requires_grad=True)
    with _Watching() as watching:
        net(x)
    assert torch.prelu in watching.seen
    assert torch.conv_transpose3d in watching.seen
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(x)
    net.double()(x.double())
    net.float()
    torch.fx.symbolic_trace(net)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        net(mode.from_tensor(x)).sum().backward()
    torch.func.vmap(net)(x[:, None])
    torch.jit.trace(net, x, check_trace=False)
    scripted = torch.jit.script(copy.deepcopy(net))  # it exchanges the layers of what it is given
    torch.testing.assert_close(scripted(x), net(MetaTensor(x)).as_tensor())
    assert called.count == 0
    net(x)
    assert called.count == 3


def test_parameters_and_names_stay_the_same_and_no_random_numbers_are_drawn() -> None:
    before = nn.Sequential(nn.ConvTranspose3d(3, 1, 2), nn.Sequential(nn.PReLU()))
    before.eval()
    parameters, state = dict(before.named_parameters()), torch.get_rng_state()
    after = use_cpu_layers(before)
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in after.named_parameters():
        assert parameter is parameters[name]
    assert not any(module.training for module in after.modules())
    assert "(0): ConvTranspose3d(3, 1, kernel_size=(2, 2, 2)" in repr(after)


def test_what_the_layer_does_not_take_is_left_to_torch() -> None:
    before, after = _pair(LAYERS["doubling"])
    for x in (torch.rand(3, 4, 5, 3), torch.rand(0, 3, 4, 5, 3)):  # no batch; an empty one
        torch.testing.assert_close(after(x), before(x))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels, but got 2"):
        after(torch.rand(1, 2, 4, 5, 3))
    _, after = _pair(lambda: nn.ConvTranspose3d(3, 1, 2, padding=1))
    with pytest.raises(RuntimeError, match="output size"):
        after(torch.rand(1, 3, 1, 1, 1))


def test_other_layers_are_left_alone() -> None:
    net = nn.Sequential(
        nn.PReLU(4), nn.ConvTranspose3d(4, 2, 2), nn.ConvTranspose3d(4, 1, 2, dilation=2)
    )
    kept = list(net)
    assert list(use_cpu_layers(net)) == kept
