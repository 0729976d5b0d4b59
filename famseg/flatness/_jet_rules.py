r"""How second derivatives along one direction pass through the operations of a network.

A jet of a tensor :math:`x(t)` is :math:`(x', x'')` at :math:`t = 0`. For :math:`y = f(x)`,

.. math:: y' = f'(x)\, x', \qquad y'' = f'(x)\, x'' + f''(x)[x', x']

(Taylor mode of automatic differentiation; Griewank and Walther, *Evaluating Derivatives*, 2008,
chapter 13). Linear operations act on both parts alike, and the second part of what is piecewise
linear stays zero until a normalization or a smooth activation bends it. Each rule is written in
operations that torch differentiates once and rightly: nothing here needs a second derivative of
torch, nor the third ones that its normalization layers have wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from famseg.flatness._arguments import plain


class Jet(NamedTuple):
    """First and second derivative along a direction.

    Attributes:
        parts: The two, or the first only where the second is zero: shape ``(1 or 2, *rows)``, with
            the shape of the tensor's rows. Linear operations take both as one larger batch.
    """

    parts: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor | None) -> Jet:
        """Return the jet of two parts."""
        return cls(first[None] if second is None else torch.stack([first, second]))

    @property
    def first(self) -> Tensor:
        """The first derivative."""
        return self.parts[0]

    @property
    def second(self) -> Tensor | None:
        """The second derivative; ``None`` where it is zero."""
        return self.parts[1] if len(self.parts) == 2 else None


class NoRuleError(Exception):
    """An operation, or a way to call it, that has no rule."""


class Rows(NamedTuple):
    """The samples that jets are carried for.

    Attributes:
        n: Number of samples of the batch: the first dimension of every tensor that has a jet.
        part: Numbers of the samples; ``None`` for all.
    """

    n: int
    part: Tensor | None

    def of(self, tensor: Tensor) -> Tensor:
        """Return the rows of a tensor whose first dimension counts the samples."""
        rows = plain(tensor)
        return rows if self.part is None else rows[self.part]

    def beside(self, value: Any, like: Tensor) -> Any:  # noqa: ANN401
        """Return what broadcasts against the rows of a tensor, of what does so with all of it."""
        aligned = isinstance(value, Tensor) and value.ndim == like.ndim
        return self.of(value) if aligned and len(value) == self.n else value


JetOf = Callable[[object], Jet | None]
Rule = Callable[..., Jet]
RULES: dict[Any, Rule] = {}
"""By function: takes ``(rows, jet_of, function, result, *args, **kwargs)``, returns the jet of the
result."""


def _rule(*functions: Any) -> Callable[[Rule], Rule]:  # noqa: ANN401
    def note(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(functions, rule))
        return rule

    return note


def _each(jet: Jet, function: Callable[[Tensor], Tensor]) -> Jet:
    """The jet behind a linear function that takes rows, however many."""
    count = len(jet.parts)
    moved = function(jet.parts.flatten(0, 1))
    return Jet(moved.reshape(count, len(moved) // count, *moved.shape[1:]))


def _times(jet: Jet, factor: Any) -> Jet:  # noqa: ANN401
    """The jet times something of the shape of its rows, or that broadcasts to it."""
    return Jet(jet.parts * factor)


def _only(jet_of: JetOf, own: Tensor, *others: object) -> Jet:
    """The jet of an argument, which must be the only one with a jet."""
    jet = jet_of(own)
    if jet is None or any(jet_of(other) is not None for other in others):
        raise NoRuleError
    return jet


_CONVOLUTIONS = (
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)


@_rule(*_CONVOLUTIONS)
def _linear(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Jet:
    jet = _only(jet_of, input, weight, bias)
    return _each(jet, lambda x: function(x, weight, None, *args, **kwargs))


_BY_SAMPLE = (
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    F.interpolate,
    F.pixel_shuffle,
    torch.neg,
    Tensor.neg,
    Tensor.__neg__,
    Tensor.contiguous,
    Tensor.clone,
    torch.clone,
)


@_rule(*_BY_SAMPLE)
def _same(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Jet:
    """Linear functions that treat each sample by itself."""
    jet = _only(jet_of, input, *args)
    return _each(jet, lambda x: function(x, *args, **kwargs))


@_rule(F.pad)
def _pad(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Jet:
    if len(result) != rows.n:
        raise NoRuleError
    return _each(_only(jet_of, input), lambda x: F.pad(x, pad, mode=mode))


@_rule(torch.mean, Tensor.mean, torch.sum, Tensor.sum)
def _reduced(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
) -> Jet:
    dims = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if not dims or any(d % input.ndim == 0 for d in dims):
        raise NoRuleError
    return _each(_only(jet_of, input), lambda x: function(x, dim, keepdim))


_RESHAPES = (
    Tensor.view,
    Tensor.reshape,
    torch.reshape,
    Tensor.flatten,
    torch.flatten,
    Tensor.unflatten,
    torch.unflatten,
    Tensor.squeeze,
    torch.squeeze,
    Tensor.unsqueeze,
    torch.unsqueeze,
)


@_rule(*_RESHAPES)
def _reshaped(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Jet:
    """All keep the order of the numbers: rows stay rows where their number does."""
    if any(isinstance(a, torch.dtype) for a in args) or not result.ndim or len(result) != rows.n:
        raise NoRuleError
    shape = result.shape[1:]
    return _each(_only(jet_of, input), lambda x: x.reshape(len(x), *shape))


@_rule(Tensor.transpose, torch.transpose, Tensor.permute, torch.permute)
def _permuted(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    *dims: Any,  # noqa: ANN401
) -> Jet:
    flat = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    positive = [d % input.ndim for d in flat]
    first_stays = positive[0] == 0 if len(positive) == input.ndim else 0 not in positive
    if function in (Tensor.transpose, torch.transpose):
        first_stays = 0 not in positive
    if not first_stays:
        raise NoRuleError
    return _each(_only(jet_of, input), lambda x: function(x, *dims))


@_rule(Tensor.__getitem__)
def _indexed(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    index: Any,  # noqa: ANN401
) -> Jet:
    plain = isinstance(index, tuple) and all(isinstance(i, slice | int) for i in index)
    if not plain or index[0] != slice(None):
        raise NoRuleError
    return _each(_only(jet_of, input), lambda x: x[index])


@_rule(torch.cat, torch.concat)
def _joined(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    tensors: Sequence[Tensor],
    dim: int = 0,
) -> Jet:
    if dim % result.ndim == 0:
        raise NoRuleError
    jets = [jet_of(tensor) for tensor in tensors]
    count = max(len(jet.parts) for jet in jets if jet is not None)

    def parts(tensor: Tensor, jet: Jet | None) -> Tensor:
        own = tensor.new_zeros(0) if jet is None else jet.parts
        if len(own) == count:
            return own
        zeros = torch.zeros_like(rows.of(tensor))[None].expand(
            count - len(own), *[-1] * tensor.ndim
        )
        return zeros if jet is None else torch.cat([own, zeros])

    pieces = [parts(tensor, jet) for tensor, jet in zip(tensors, jets, strict=True)]
    return Jet(torch.cat(pieces, dim % result.ndim + 1))


_SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__)
_DIFFERENCES = (torch.sub, Tensor.sub, Tensor.__sub__, Tensor.sub_, Tensor.__isub__)


@_rule(*_SUMS, *_DIFFERENCES)
def _added(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Any,  # noqa: ANN401
    other: Any,  # noqa: ANN401
    *,
    alpha: float = 1,
) -> Jet:
    sign = -alpha if function in _DIFFERENCES else alpha
    one, two = _aligned(jet_of, input, result), _aligned(jet_of, other, result)
    shape = (len(rows.of(result)), *result.shape[1:])

    def spread(jet: Jet) -> Tensor:
        return jet.parts.expand(len(jet.parts), *shape)

    if two is not None and sign != 1:
        two = _times(two, sign)
    if one is None or two is None:
        own = two if one is None else one
        assert own is not None  # noqa: S101 - one of the two has a jet
        return Jet(spread(own))
    left, right = spread(one), spread(two)
    if len(left) == len(right):
        return Jet(left + right)
    more, fewer = (left, right) if len(left) > len(right) else (right, left)
    return Jet.of(more[0] + fewer[0], more[1])


_PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
_MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)


@_rule(*_PRODUCTS, *_MATRIX_PRODUCTS)
def _multiplied(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Any,  # noqa: ANN401
    other: Any,  # noqa: ANN401
) -> Jet:
    one, two = _aligned(jet_of, input, result), _aligned(jet_of, other, result)
    left, right = rows.beside(input, result), rows.beside(other, result)
    if function in _MATRIX_PRODUCTS and result.ndim == 2:
        if two is not None:  # it would mix the samples
            raise NoRuleError
        right = other
    if one is not None and two is not None:
        first = function(one.first, right) + function(left, two.first)
        second = 2 * function(one.first, two.first)
        if one.second is not None:
            second = second + function(one.second, right)
        if two.second is not None:
            second = second + function(left, two.second)
        return Jet.of(first, second)
    jet = one or two
    assert jet is not None  # noqa: S101 - one of the two has a jet
    moved = [function(x, right) if one is not None else function(left, x) for x in jet.parts]
    return Jet(torch.stack(moved) if len(moved) > 1 else moved[0][None])


@_rule(torch.div, Tensor.div, Tensor.__truediv__)
def _divided(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    other: Any,  # noqa: ANN401
) -> Jet:
    jet = _only(jet_of, input, other)
    _aligned(jet_of, input, result)
    by = rows.beside(other, result)
    return _times(jet, 1 / by)


def _aligned(jet_of: JetOf, value: Any, result: Tensor) -> Jet | None:  # noqa: ANN401
    """The jet of an operand, whose first dimension must be that of the result."""
    jet = jet_of(value)
    if jet is not None and value.ndim != result.ndim:
        raise NoRuleError
    return jet


def _bent(jet: Jet, slope: Tensor, bend: Tensor | None) -> Jet:
    """The jet behind an elementwise function with a slope and a second derivative."""
    sloped = slope * jet.parts
    if bend is None:
        return Jet(sloped)
    curved = bend * jet.first.square()
    return Jet.of(sloped[0], curved if len(sloped) == 1 else sloped[1] + curved)


@_rule(F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_)
def _relu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    inplace: bool = False,
) -> Jet:
    # From the result, since the input may have been overwritten.
    return _bent(_only(jet_of, input), (rows.of(result) > 0).to(result.dtype), None)


@_rule(F.leaky_relu)
def _leaky_relu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Jet:
    if negative_slope < 0:
        raise NoRuleError
    positive = (rows.of(result.detach()) > 0).to(result.dtype)
    return _bent(_only(jet_of, input), negative_slope + (1 - negative_slope) * positive, None)


@_rule(torch.prelu, Tensor.prelu)
def _prelu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    weight: Tensor,
) -> Jet:
    jet = _only(jet_of, input, weight)
    if weight.numel() > 1:
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    positive = (rows.of(input.detach()) > 0).to(input.dtype)
    return _bent(jet, weight + (1 - weight) * positive, None)


@_rule(torch.tanh, Tensor.tanh, F.tanh)
def _tanh(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
) -> Jet:
    y = rows.of(result)
    slope = 1 - y.square()
    return _bent(_only(jet_of, input), slope, -2 * y * slope)


@_rule(torch.sigmoid, Tensor.sigmoid, F.sigmoid)
def _sigmoid(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
) -> Jet:
    y = rows.of(result)
    slope = y * (1 - y)
    return _bent(_only(jet_of, input), slope, slope * (1 - 2 * y))


@_rule(F.silu)
def _silu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    inplace: bool = False,
) -> Jet:
    if inplace:
        raise NoRuleError
    x = rows.of(input)
    s = x.sigmoid()
    slope = s * (1 + x * (1 - s))
    return _bent(_only(jet_of, input), slope, s * (1 - s) * (2 + x * (1 - 2 * s)))


@_rule(F.gelu)
def _gelu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    approximate: str = "none",
) -> Jet:
    if approximate != "none":
        raise NoRuleError
    x = rows.of(input)
    density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
    slope = torch.special.ndtr(x) + x * density
    return _bent(_only(jet_of, input), slope, density * (2 - x.square()))


@_rule(F.softplus)
def _softplus(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    beta: float = 1,
    threshold: float = 20,
) -> Jet:
    x = rows.of(input)
    linear = x.detach() * beta > threshold
    s = (beta * x).sigmoid()
    slope = torch.where(linear, torch.ones_like(s), s)
    bend = torch.where(linear, torch.zeros_like(s), beta * s * (1 - s))
    return _bent(_only(jet_of, input), slope, bend)


@_rule(F.elu)
def _elu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    alpha: float = 1.0,
    inplace: bool = False,
) -> Jet:
    if inplace:
        raise NoRuleError
    x = rows.of(input)
    positive = x.detach() > 0
    bend = alpha * x.clamp(max=0).exp()
    zero = torch.zeros_like(bend)
    slope = torch.where(positive, zero + 1, bend)
    return _bent(_only(jet_of, input), slope, torch.where(positive, zero, bend))


@_rule(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
def _not_dropped(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Jet:
    if training and p > 0:
        raise NoRuleError
    return _only(jet_of, input)


@_rule(F.group_norm)
def _group_norm(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Jet:
    jet = _only(jet_of, input, weight, bias)
    n, count = len(jet.first), len(jet.parts)
    grouped = Jet(jet.parts.reshape(count, n, num_groups, -1))
    normal = _normalized(rows.of(input).reshape(n, num_groups, -1), grouped, (2,), eps)
    shaped = Jet(normal.parts.reshape(2, n, *input.shape[1:]))
    return _scaled(shaped, weight, input.ndim - 2)


@_rule(F.layer_norm)
def _layer_norm(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Jet:
    jet = _only(jet_of, input, weight, bias)
    dims = tuple(range(-len(normalized_shape), 0))
    if len(dims) >= input.ndim:
        raise NoRuleError
    normal = _normalized(rows.of(input), jet, dims, eps)
    return _scaled(normal, weight, 0)


@_rule(F.batch_norm)
def _batch_norm(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Jet:
    jet = _only(jet_of, input, weight, bias)
    if not training and running_var is not None:
        scale = (running_var + eps).rsqrt()
        scaled = _scaled(jet, scale, input.ndim - 2)
        return _scaled(scaled, weight, input.ndim - 2)
    if rows.part is not None:  # the statistics are those of all samples
        raise NoRuleError
    dims = (0, *range(2, input.ndim))
    return _scaled(_normalized(input, jet, dims, eps), weight, input.ndim - 2)


def _scaled(jet: Jet, weight: Tensor | None, behind: int) -> Jet:
    """A jet times a weight of the channels, with so many dimensions behind them."""
    if weight is None:
        return jet
    return _times(jet, weight.reshape(*weight.shape, *[1] * behind))


def _normalized(x: Tensor, jet: Jet, dims: tuple[int, ...], eps: float) -> Jet:
    r"""The jet of ``(x - mean) / sqrt(var + eps)``.

    With centered values :math:`c`, variance :math:`s = \overline{c^2}` and :math:`r = (s +
    \epsilon)^{-1/2}`: :math:`s' = 2\overline{c c'}`, :math:`s'' = 2\overline{c'^2 + c c''}`,
    :math:`r' = -\tfrac12 r^3 s'` and :math:`r'' = \tfrac34 r^5 s'^2 - \tfrac12 r^3 s''`.
    """
    c = x - x.mean(dims, keepdim=True)
    behind = tuple(d if d < 0 else d + 1 for d in dims)
    centered = jet.parts - jet.parts.mean(behind, keepdim=True)
    c1, c2 = centered[0], centered[1] if len(centered) == 2 else None
    r = (c.square().mean(dims, keepdim=True) + eps).rsqrt()
    s1 = 2 * (c * c1).mean(dims, keepdim=True)
    s2 = c1.square()
    if c2 is not None:
        s2 = s2 + c * c2
    s2 = 2 * s2.mean(dims, keepdim=True)
    cube = -r.pow(3) / 2
    r1 = cube * s1
    r2 = cube * s2 + 0.75 * r.pow(5) * s1.square()
    second = c1 * (2 * r1) + c * r2
    if c2 is not None:
        second = second + c2 * r
    return Jet.of(c1 * r + c * r1, second)


@_rule(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    dim: int | None = None,
    *_: Any,  # noqa: ANN401
    **__: Any,  # noqa: ANN401
) -> Jet:
    if dim is None or dim % input.ndim == 0:
        raise NoRuleError
    jet = _only(jet_of, input)
    y = rows.of(result)

    def centered(x: Tensor) -> Tensor:
        return x - (y * x).sum(dim, keepdim=True)

    one = centered(jet.first)
    bend = one.square() if jet.second is None else one.square() + jet.second
    return Jet.of(y * one, y * centered(bend))


@_rule(F.max_pool1d, F.max_pool2d, F.max_pool3d)
def _max_pool(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    *args: Any,  # noqa: ANN401
    **kwargs: Any,  # noqa: ANN401
) -> Jet:
    jet = _only(jet_of, input)
    if input.ndim < 3 or len(result) != rows.n:  # channels and positions of one sample
        raise NoRuleError
    _, largest = function(rows.of(input.detach()), *args, **{**kwargs, "return_indices": True})
    flat = largest.flatten(2).expand(len(jet.parts), -1, -1, -1)
    moved = jet.parts.flatten(3).gather(3, flat)
    return Jet(moved.reshape(len(jet.parts), *largest.shape))
