from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import checkpoint as checkpoints
from torch.utils.checkpoint import checkpoint

from famseg.flatness._tracing._checkpoint import _RUNS
from famseg.flatness._tracing._composite import composites


def numbers(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def on():
    return composites(lambda: True)


def first_order(function, *inputs):
    """Value and gradients of a function with fixed weights."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    gradients = torch.autograd.grad(value, leaves, numbers(*value.shape, seed=9).to(value))
    return value, *gradients


def curvature(function):
    """The second derivative, along a fixed direction, of a loss on a function's output."""

    def along(*inputs):
        x = inputs[0]
        shift = torch.zeros_like(x, requires_grad=True)
        value = function(x + shift, *inputs[1:])
        loss = (value * numbers(*value.shape, seed=8)).sum()
        loss = loss + loss.square() / 7
        direction = numbers(*x.shape, seed=7)
        (slope,) = torch.autograd.grad(loss, shift, create_graph=True)
        (second,) = torch.autograd.grad((slope * direction).sum(), shift, create_graph=True)
        return (second * direction).sum()

    return along


X2, X3, X4, X5 = numbers(5, 4), numbers(3, 4, 5), numbers(2, 4, 3, 3), numbers(2, 4, 2, 2, 2)
W, B, WL, BL = numbers(4, seed=1), numbers(4, seed=2), numbers(5, seed=3), numbers(5, seed=4)

BATCH = {
    "2d": (lambda x: F.batch_norm(x, None, None, training=True), X2),
    "affine": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), X2, W, B),
    "weight alone": (lambda x, w: F.batch_norm(x, None, None, w, training=True), X3, W),
    "bias alone": (lambda x, b: F.batch_norm(x, None, None, bias=b, training=True), X3, B),
    "4d": (lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.3, 0.1), X4, W, B),
    "5d": (lambda x: F.batch_norm(x, None, None, training=True), X5),
    "torch": (
        lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 0.1, True),
        X4,
        W,
        B,
    ),
    "native": (
        lambda x, w, b: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 0.1)[0],
        X4,
        W,
        B,
    ),
}
INSTANCE = {
    "3d": (F.instance_norm, X3),
    "affine": (lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=0.1), X3, W, B),
    "4d": (F.instance_norm, X4),
    "5d": (F.instance_norm, X5),
    "torch": (
        lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 0.1, True),
        X4,
        W,
        B,
    ),
}
LAYER = {
    "last": (lambda x: F.layer_norm(x, (5,)), X3),
    "affine": (lambda x, w, b: F.layer_norm(x, (5,), w, b), X3, WL, BL),
    "weight alone": (lambda x, w: F.layer_norm(x, [5], w), X3, WL),
    "two dimensions": (lambda x: F.layer_norm(x, (4, 5), eps=0.1), X3),
    "all dimensions": (lambda x: F.layer_norm(x, X3.shape), X3),
    "torch": (lambda x, w, b: torch.layer_norm(x, (5,), w, b, 0.1), X3, WL, BL),
    "native": (lambda x, w, b: torch.native_layer_norm(x, (5,), w, b, 0.1)[0], X3, WL, BL),
}
OTHERS = {
    "rms": (lambda x, w: F.rms_norm(x, (5,), w), X3, WL),
    "rms, two dimensions": (lambda x: torch.rms_norm(x, (4, 5), eps=0.1), X3),
    "hard sigmoid": (F.hardsigmoid, 3 * X3),
    "hard sigmoid, in place": (lambda x: F.hardsigmoid(x * 2, inplace=True), X3),
    "weight norm": (lambda v, g: torch._weight_norm(v, g, 0), X2, numbers(5, 1)),
    "weight norm, last": (lambda v, g: torch._weight_norm(v, g, 1), X2, numbers(1, 4)),
    "cdist": (torch.cdist, X3, numbers(2, 5, seed=5)),
    "cdist, many": (
        lambda x, y: torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"),
        numbers(2, 3),
        numbers(27, 3, seed=5),
    ),
    "pdist": (torch.pdist, X2),
}
ROUNDED = ("hard sigmoid", "hard sigmoid, in place")
ALL = {
    f"{kind}: {name}": case
    for kind, cases in {"batch": BATCH, "instance": INSTANCE, "layer": LAYER, "": OTHERS}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_value_and_first_derivatives_are_those_of_torch(case):
    function, *inputs = case
    wanted = first_order(function, *inputs)
    with on():
        found = first_order(function, *inputs)
    # The slope of torch's hard sigmoid is 1/6 in float32, in float64 too.
    tolerance = 1e-7 if function in (OTHERS[name][0] for name in ROUNDED) else 1e-12
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=1e-13)


@pytest.mark.parametrize("case", ALL.values(), ids=ALL)
def test_second_and_third_derivatives_are_those_of_differences(case):
    function, *inputs = case
    inputs = [x.clone().requires_grad_() for x in inputs]
    with on():
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradcheck(curvature(function), inputs)


STILL_WRONG = {
    "batch norm": BATCH["affine"],
    "instance norm": INSTANCE["affine"],
    "layer norm": LAYER["affine"],
    "weight norm": OTHERS["weight norm"],
}


@pytest.mark.parametrize("case", STILL_WRONG.values(), ids=STILL_WRONG)
def test_torch_is_still_wrong(case):
    """When this fails, torch has fixed a function: let it be native."""
    function, *inputs = case
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert not torch.autograd.gradcheck(curvature(function), inputs, raise_exception=False)


STILL_MISSING = {
    "hard sigmoid": OTHERS["hard sigmoid"],
    "cdist": OTHERS["cdist"],
    "cdist, many": OTHERS["cdist, many"],
    "pdist": OTHERS["pdist"],
}


@pytest.mark.parametrize("case", STILL_MISSING.values(), ids=STILL_MISSING)
def test_torch_has_still_no_derivative(case):
    function, *inputs = case
    leaf = inputs[0].clone().requires_grad_()
    with pytest.raises(RuntimeError, match="not implemented"):
        curvature(function)(leaf, *inputs[1:]).backward()


MODULES = {
    "batch norm": (nn.BatchNorm1d(4), X3),
    "batch norm, momentum": (nn.BatchNorm2d(4, momentum=0.37, affine=False), X4),
    "batch norm, cumulative": (nn.BatchNorm1d(4, momentum=None), X2),
    "batch norm, no statistics": (nn.BatchNorm1d(4, track_running_stats=False), X2),
    "instance norm": (nn.InstanceNorm2d(4, track_running_stats=True, affine=True), X4),
    "instance norm, unbatched": (nn.InstanceNorm1d(4, track_running_stats=True), X3[0]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("module", "x"), MODULES.values(), ids=MODULES)
def test_running_statistics_are_updated_once_and_bit_by_bit(module, x, dtype):
    def states(context):
        torch.manual_seed(0)
        found = []
        module.to(dtype).train()
        module.reset_running_stats()
        for repeat in range(3):
            with context():
                module((x * (1 + repeat)).to(dtype))
            found += [b.clone() for b in module.buffers()]
        return found

    wanted = states(lambda: composites(lambda: False))
    found = states(on)
    assert len(wanted) == 3 * len(list(module.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_statistics_that_native_forms_return_agree():
    with on():
        found = torch.native_layer_norm(X3, (5,), WL, BL, 0.1)
        found += torch.native_batch_norm(X4, W, B, None, None, True, 0.1, 0.1)
    wanted = torch.native_layer_norm(X3, (5,), WL, BL, 0.1)
    wanted += torch.native_batch_norm(X4, W, B, None, None, True, 0.1, 0.1)
    torch.testing.assert_close(found, wanted)


def name(tensor):
    return tensor.grad_fn.name()


@pytest.mark.parametrize(
    ("function", "native"),
    [
        (lambda x: F.batch_norm(x, W, B.square(), training=False), "NativeBatchNorm"),
        (lambda x: F.instance_norm(x, W, B.square(), use_input_stats=False), "View"),
        (lambda x: F.group_norm(x, 2), "NativeGroupNorm"),
    ],
    ids=["batch norm in evaluation", "instance norm in evaluation", "group norm"],
)
def test_what_torch_has_right_stays_native(function, native):
    x = X3.clone().requires_grad_()
    with on():
        value = function(x)
    assert name(value).startswith(native)
    assert torch.equal(value, function(x))


FAULTS = {
    "one value a channel": lambda: F.batch_norm(X2[:1], None, None, training=True),
    "one value a channel and sample": lambda: F.instance_norm(X3[..., :1]),
    "wrong shape": lambda: F.layer_norm(X3, (4,)),
    "wrong weight": lambda: F.layer_norm(X3, (5,), W),
    "wrong channels": lambda: F.batch_norm(X3, None, None, WL, BL, training=True),
    "wrong statistics": lambda: F.batch_norm(X3, WL, WL, training=True),
    "wrong dtype": lambda: F.layer_norm(X3, (5,), WL.float()),
    "wrong arguments": lambda: F.layer_norm(X3),
    "integers": lambda: F.layer_norm(torch.ones(2, 5, dtype=torch.long), (5,)),
    "integers, hard sigmoid": lambda: F.hardsigmoid(torch.ones(2, dtype=torch.long)),
    "other points": lambda: torch.cdist(X2, X3),
    "no points": lambda: torch.pdist(X3),
}


@pytest.mark.parametrize("call", FAULTS.values(), ids=FAULTS)
def test_a_wrong_call_is_refused_in_the_words_of_torch(call):
    with pytest.raises((RuntimeError, ValueError, TypeError)) as wanted:
        call()
    with on(), pytest.raises(type(wanted.value)) as found:
        call()
    assert str(found.value) == str(wanted.value)


def test_an_empty_batch_and_other_distances_are_left_to_torch():
    calls = (
        lambda: F.layer_norm(X3[:0], (5,)),
        lambda: torch.cdist(X2, X2 + 1, p=1),
        lambda: torch.cdist(numbers(30, 3), numbers(30, 3, seed=1)),
        lambda: torch.pdist(X2, p=3),
    )
    wanted = [call() for call in calls]
    with on():
        assert all(torch.equal(call(), w) for call, w in zip(calls, wanted, strict=True))


def test_all_derivatives_of_a_distance_are_zero_where_it_is():
    x = X2.clone().requires_grad_()
    with on():
        distance = torch.cdist(x, X2).diagonal().sum()
    (slope,) = torch.autograd.grad(distance, x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    assert distance == 0
    assert all((d == 0).all() for d in (slope, second, third))


HALF = {
    "layer": lambda x, w: F.layer_norm(x, (5,), w, w),
    "rms": lambda x, w: F.rms_norm(x, (5,), w),
    "batch": lambda x, w: F.batch_norm(x.mT, None, None, w, w, True),
    "batch, statistics": lambda x, w: F.batch_norm(x.mT, w.clone(), w.clone(), w, w, True),
    "instance": lambda x, w: F.instance_norm(x.mT, None, None, w, w),
}


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("function", HALF.values(), ids=HALF)
def test_dtypes_are_those_of_torch(function, autocast):
    half = (torch.bfloat16, torch.float16)
    for dtype, mixed in itertools.product((torch.float32, *half), (False, True)):
        weight_dtype = torch.float32 if mixed else dtype
        x, w = X3.to(dtype), WL.square().to(weight_dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            wanted = function(x, w)
            with on():
                found = function(x, w)
        # Up to a few rounding errors of numbers up to about 4.
        tolerance = 16 * torch.finfo(dtype).eps
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("function", [F.instance_norm, BATCH["4d"][0]])
def test_the_memory_format_is_kept(function):
    x = numbers(2, 4, 5, 5).to(memory_format=torch.channels_last)
    arguments = (x,) if function is F.instance_norm else (x, W, B)
    with on():
        found = function(*arguments)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, function(*arguments))


def test_nothing_is_replaced_before_it_is_time():
    begun = False
    x = X3.clone().requires_grad_()
    with composites(lambda: begun):
        assert torch.equal(F.layer_norm(x, (5,)), F.layer_norm(x, (5,)))
        assert name(F.layer_norm(x, (5,))).startswith("NativeLayerNorm")
        begun = True
        assert not name(F.layer_norm(x, (5,))).startswith("Native")


def test_torch_is_itself_again_after_an_exception_and_when_nested():
    generator = getattr(checkpoints, _RUNS)
    x = X3.clone().requires_grad_()
    with pytest.raises(ZeroDivisionError), on(), on():
        raise ZeroDivisionError
    assert name(F.layer_norm(x, (5,))).startswith("Native")
    with on():
        with composites(lambda: False):
            assert not name(F.layer_norm(x, (5,))).startswith("Native")  # the outer one replaces
        assert not name(F.layer_norm(x, (5,))).startswith("Native")
    assert name(F.layer_norm(x, (5,))).startswith("Native")
    assert getattr(checkpoints, _RUNS) is generator


def attention(x):
    return F.scaled_dot_product_attention(x, x.sin(), x.cos())


def test_attention_takes_the_kernel_that_has_second_derivatives():
    x = numbers(1, 2, 4, 3)
    module = nn.MultiheadAttention(4, 2, batch_first=True).double()
    with on():
        assert torch.autograd.gradcheck(curvature(attention), x.requires_grad_())
        assert torch.autograd.gradcheck(
            curvature(lambda z: module(z, z, z, need_weights=False)[0]),
            numbers(2, 3, 4).requires_grad_(),
        )
    with pytest.raises(RuntimeError, match="not implemented"):
        curvature(attention)(x)
    with composites(lambda: False), pytest.raises(RuntimeError, match="not implemented"):
        curvature(attention)(x)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_keep_away_from_cudnn(kind, monkeypatch):
    seen = []

    class Flags:
        def __init__(self, *, enabled):
            seen.append(enabled)

        def __enter__(self):
            seen.append("in")

        def __exit__(self, *_):
            seen.append("out")

    module = kind(5, 4).double()
    wanted, _ = module(X3)
    monkeypatch.setattr(torch.backends.cudnn, "flags", Flags)
    with on():
        found, _ = module(X3)
    assert seen == [False, "in", "out"]
    assert torch.equal(found, wanted)


def block(x):
    return attention(F.layer_norm(x, x.shape[-1:]).tanh())


def twice(x):
    inner = checkpoint(block, x.sin(), use_reentrant=False)
    return checkpoint(block, F.layer_norm(inner, x.shape[-1:]), use_reentrant=False)


@pytest.mark.parametrize("function", [block, twice], ids=["plain", "nested"])
def test_a_checkpoint_computes_again_what_it_recorded(function):
    x = numbers(1, 2, 4, 3).requires_grad_()
    with on():
        plain = curvature(function)(x)
        again = curvature(lambda z: checkpoint(function, z, use_reentrant=False))(x)
    assert again == plain
    (wanted,) = torch.autograd.grad(plain, x)
    (found,) = torch.autograd.grad(again, x)  # recomputes here, long after the pass
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_a_checkpoint_that_was_half_native_computes_again_half_natively():
    x = X3.clone().requires_grad_()
    begun = False

    def begin(z):
        nonlocal begun
        z = F.layer_norm(z, (5,)).sin()
        begun = True
        return F.layer_norm(z, (5,)).sin()

    with composites(lambda: begun):
        value = checkpoint(begin, x, use_reentrant=False).square().sum()
        free = checkpoint(begin, x, use_reentrant=False, debug=True).square().sum()
    (found,) = torch.autograd.grad(value, x)
    (wanted,) = torch.autograd.grad(begin(x).square().sum(), x)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(free, x)[0], wanted)


def test_a_checkpoint_of_somebody_else_is_left_alone():
    x = X3.clone().requires_grad_()
    outside = checkpoint(lambda z: F.layer_norm(z, (5,)).sin(), x, use_reentrant=False).sum()
    with on():
        assert torch.autograd.grad(outside, x)[0].isfinite().all()


@pytest.mark.slow
def test_a_compiled_body_keeps_its_native_norms():
    body = nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5)).double()
    compiled = torch.compile(body, backend="eager")
    wanted = body(X3)
    with composites(lambda: False):
        found = compiled(X3)
    assert torch.equal(found, wanted)
    assert name(found).startswith("NativeLayerNorm")
