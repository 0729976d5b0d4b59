r"""Rules for propagating second derivatives along one direction through operations.

A jet of a tensor :math:`x(t)` is :math:`(x', x'')` at :math:`t = 0`. For :math:`y = f(x)`,

.. math:: y' = f'(x)\, x', \qquad y'' = f'(x)\, x'' + f''(x)[x', x']

(Taylor mode of automatic differentiation; Griewank and Walther, *Evaluating Derivatives*, 2008,
chapter 13). Linear operations act on both parts in the same way, and in a piecewise linear network
the second part stays zero until a normalization or a smooth activation. Each rule uses operations
whose first derivative in torch is correct: nothing here needs torch's second derivatives, nor its
third, which are wrong for normalization layers.

Worked value: for :math:`y = \tanh x` at :math:`x = 0` with :math:`(x', x'') = (1, 3)` the slope is
1 and the second derivative 0, so :math:`(y', y'') = (1, 3)`; at :math:`x = 1` the slope is 0.420
and the second derivative -0.640, so :math:`(y', y'') = (0.420, 0.620)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from famseg.flatness._jets._graph import recomputed
from famseg.flatness._jets._norm import normalized
from famseg.flatness._jets._slope import sloped
from famseg.flatness._tracing._arguments import plain


class Jet(NamedTuple):
    """First and second derivative along a direction.

    Attributes:
        parts: Both derivatives, or only the first if the second is zero: shape ``(1 or 2, *rows)``,
            with the shape of the tensor's rows. Linear operations process both as one larger batch.
    """

    parts: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor | None) -> Jet:
        """Return the jet with the two given parts."""
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
    """There is no rule for an operation, or for the way it was called."""


class Rows(NamedTuple):
    """The samples for which jets are propagated.

    Attributes:
        n: Number of samples in the batch, which is the first dimension of every tensor with a jet.
        part: Indices of the samples; ``None`` for all.
    """

    n: int
    part: Tensor | None

    def of(self, tensor: Tensor) -> Tensor:
        """Return the selected rows of a tensor whose first dimension is the samples."""
        rows = plain(tensor)
        return rows if self.part is None else rows[self.part]

    def beside(self, value: Any, like: Tensor) -> Any:  # noqa: ANN401
        """Return the part of a broadcastable tensor that broadcasts with the selected rows."""
        aligned = isinstance(value, Tensor) and value.ndim == like.ndim
        return self.of(value) if aligned and len(value) == self.n else value


JetOf = Callable[[object], Jet | None]
Rule = Callable[..., Jet]
RULES: dict[Any, Rule] = {}
"""Rules by function.

A rule takes ``(rows, jet_of, function, result, *args, **kwargs)``; it returns the result's jet.
"""


# Rules have many arguments: the first four, and those of the torch function by name.
def _rule(*functions: Any) -> Callable[[Rule], Rule]:  # noqa: ANN401
    def note(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(functions, rule))
        return rule

    return note


def _each(jet: Jet, function: Callable[[Tensor], Tensor]) -> Jet:
    """Return the jet after a linear function that accepts any number of rows."""
    count = len(jet.parts)
    moved = function(jet.parts.flatten(0, 1))
    return Jet(moved.reshape(count, len(moved) // count, *moved.shape[1:]))


def _times(jet: Jet, factor: Any) -> Jet:  # noqa: ANN401
    """Return the jet multiplied by a factor that broadcasts to the shape of its rows."""
    return Jet(jet.parts * factor)


def _only(jet_of: JetOf, own: Tensor, *others: object) -> Jet:
    """Return the jet of an argument, which must be the only one with a jet."""
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
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
# For results with at most this many channels the CPU is faster sample by sample: torch uses a
# matrix product for one sample, but oneDNN for several, which took 21 ms instead of 3.5 ms for 32
# channels of 32^3 voxels to one channel of 64^3.
_FEW_CHANNELS = 2


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

    def moved(x: Tensor) -> Tensor:
        # Without the bias, which is constant and has zero derivatives.
        result: Tensor = function(x, weight, None, *args, **kwargs)
        return result

    if (
        function in _TRANSPOSED
        and jet.parts.device.type == "cpu"
        and weight.shape[1] <= _FEW_CHANNELS
    ):
        return _each(jet, lambda x: torch.cat([moved(x[k : k + 1]) for k in range(len(x))]))
    return _each(jet, moved)


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
    """Linear functions that process each sample separately."""
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
    # Padded with 0 instead of ``value``, since the derivative of a constant border is zero.
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
    """Reshapes keep the order of elements, so rows are preserved if their number is unchanged."""
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
    # Samples must stay in the first dimension, since a jet contains only some of them.
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
        if two is not None:  # otherwise the product would mix samples
            raise NoRuleError
        right = other
    if one is not None and two is not None:
        # (ab)' = a'b + ab' and (ab)'' = a''b + 2a'b' + ab''.
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
    """Return the jet of an operand whose first dimension must be that of the result."""
    jet = jet_of(value)
    if jet is not None and value.ndim != result.ndim:
        raise NoRuleError
    return jet


Slopes = Callable[..., tuple[Tensor, Tensor | None]]
"""Takes rows of tensors; returns slope and second derivative of a function, ``None`` if zero."""


def _bent(rows: Rows, jet: Jet, slopes: Slopes, value: Tensor, *others: Tensor) -> Jet:
    """Return the jet after an elementwise function: ``(f' x', f' x'' + f'' x'^2)``.

    Args:
        rows: The samples.
        jet: The jet of its argument.
        slopes: Takes the rows of the value and the other tensors.
        value: Argument or result of the function, whichever the plain pass keeps anyway. It is
            saved for the backward pass and must not be changed in place.
        others: Other tensors on which the slopes depend.
    """

    def moved(parts: Tensor, value: Tensor, *others: Tensor) -> Tensor:
        slope, bend = slopes(rows.of(value), *others)
        sloped = slope * parts
        if bend is None:
            return sloped
        curved = bend * parts[0].square()
        return torch.stack([sloped[0], curved if len(parts) == 1 else sloped[1] + curved])

    return Jet(recomputed(moved, jet.parts, plain(value), *others))


def _positive(values: Tensor) -> Tensor:
    return (values.detach() > 0).to(values.dtype)


@_rule(F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_)
def _relu(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
    inplace: bool = False,
) -> Jet:
    # Computed from the result, since the input may have been overwritten.
    return _bent(rows, _only(jet_of, input), lambda y: (_positive(y), None), result)


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
    if negative_slope < 0:  # the sign of the result does not determine that of the input
        raise NoRuleError

    def slopes(x: Tensor) -> tuple[Tensor, None]:
        return negative_slope + (1 - negative_slope) * _positive(x), None

    return _bent(rows, _only(jet_of, input), slopes, result if inplace else input)


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

    return Jet(sloped(jet.parts, rows.of(input) > 0, weight))


@_rule(torch.tanh, Tensor.tanh, F.tanh)
def _tanh(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
) -> Jet:
    def slopes(y: Tensor) -> tuple[Tensor, Tensor]:
        slope = 1 - y.square()
        return slope, -2 * y * slope

    return _bent(rows, _only(jet_of, input), slopes, result)


@_rule(torch.sigmoid, Tensor.sigmoid, F.sigmoid)
def _sigmoid(
    rows: Rows,
    jet_of: JetOf,
    function: Any,  # noqa: ANN401
    result: Tensor,
    input: Tensor,
) -> Jet:
    def slopes(y: Tensor) -> tuple[Tensor, Tensor]:
        slope = y * (1 - y)
        return slope, slope * (1 - 2 * y)

    return _bent(rows, _only(jet_of, input), slopes, result)


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

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        s = x.sigmoid()
        return s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))

    return _bent(rows, _only(jet_of, input), slopes, input)


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

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        # gelu(x) = x P(x) with P the normal distribution function and p its density, so the slope
        # is P + x p and the second derivative p (2 - x^2).
        density = (-x.square() / 2).exp() / math.sqrt(2 * math.pi)
        return torch.special.ndtr(x) + x * density, density * (2 - x.square())

    return _bent(rows, _only(jet_of, input), slopes, input)


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
    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        # Above the threshold torch returns x itself, so the slopes are 1 and 0 there.
        linear = x.detach() * beta > threshold
        s = (beta * x).sigmoid()
        slope = torch.where(linear, torch.ones_like(s), s)
        return slope, torch.where(linear, torch.zeros_like(s), beta * s * (1 - s))

    return _bent(rows, _only(jet_of, input), slopes, input)


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

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        positive = x.detach() > 0
        bend = alpha * x.clamp(max=0).exp()
        zero = torch.zeros_like(bend)
        return torch.where(positive, zero + 1, bend), torch.where(positive, zero, bend)

    return _bent(rows, _only(jet_of, input), slopes, input)


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
    n = len(jet.first)

    def moved(parts: Tensor, input: Tensor, *weights: Tensor) -> Tensor:
        grouped = parts.reshape(len(parts), n, num_groups, -1)
        normal = normalized(rows.of(input).reshape(n, num_groups, -1), grouped, (2,), eps)
        return _scaled(normal.reshape(2, *parts.shape[1:]), *weights, behind=input.ndim - 2)

    return Jet(recomputed(moved, jet.parts, plain(input), *_given(weight)))


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

    def moved(parts: Tensor, input: Tensor, *weights: Tensor) -> Tensor:
        return _scaled(normalized(rows.of(input), parts, dims, eps), *weights, behind=0)

    return Jet(recomputed(moved, jet.parts, plain(input), *_given(weight)))


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
        # With running statistics the layer is affine, so both parts are only scaled.
        scale = (running_var + eps).rsqrt()
        weights = (scale, *_given(weight))
        return Jet(_scaled(jet.parts, *weights, behind=input.ndim - 2))
    if rows.part is not None:  # the statistics depend on all samples
        raise NoRuleError
    dims = (0, *range(2, input.ndim))

    def moved(parts: Tensor, input: Tensor, *weights: Tensor) -> Tensor:
        normal = normalized(input, parts, dims, eps)
        return _scaled(normal, *weights, behind=input.ndim - 2)

    return Jet(recomputed(moved, jet.parts, plain(input), *_given(weight)))


def _given(weight: Tensor | None) -> tuple[Tensor, ...]:
    return () if weight is None else (weight,)


def _scaled(parts: Tensor, *weights: Tensor, behind: int) -> Tensor:
    """Return a jet multiplied by channel weights, with ``behind`` dimensions after the channels."""
    for weight in weights:
        factor = weight.reshape(*weight.shape, *[1] * behind)
        parts = parts * factor
    return parts


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

    def moved(parts: Tensor, result: Tensor) -> Tensor:
        y = rows.of(result)

        # y' = y (x' - <y, x'>). The second derivative of log y is x'' minus a constant that makes
        # the sum of y'' zero, hence the second centering.
        def centered(x: Tensor) -> Tensor:
            return x - (y * x).sum(dim, keepdim=True)

        one = centered(parts[0])
        bend = one.square() if len(parts) == 1 else one.square() + parts[1]
        return torch.stack([y * one, y * centered(bend)])

    return Jet(recomputed(moved, _only(jet_of, input).parts, plain(result)))


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
    if input.ndim < 3 or len(result) != rows.n:  # samples, channels and positions are required
        raise NoRuleError
    # Piecewise linear: both parts are taken at the position of the largest value.
    _, largest = function(rows.of(input.detach()), *args, **{**kwargs, "return_indices": True})
    flat = largest.flatten(2).expand(len(jet.parts), -1, -1, -1)
    moved = jet.parts.flatten(3).gather(3, flat)
    return Jet(moved.reshape(len(jet.parts), *largest.shape))
