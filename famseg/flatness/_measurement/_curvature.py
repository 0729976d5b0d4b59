"""The curvature of one layer as a matrix that is given by its products with vectors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, get_args

import torch
from torch import Tensor, nn

from famseg.flatness._check import check_choice, check_count
from famseg.flatness._errors import FlatnessError
from famseg.flatness._estimators._probes import normals, signs
from famseg.flatness._measurement._batches import Data
from famseg.flatness._measurement._block_lanczos import Which, extreme_pairs
from famseg.flatness._measurement._density import SpectralDensity, spectral_density
from famseg.flatness._measurement._layer_products import CurvatureQuantity, LayerProducts
from famseg.flatness._measurement._trace import (
    LEAST,
    METHODS,
    PROBES,
    Probes,
    TraceEstimate,
    TraceMethod,
    exact,
)
from famseg.flatness._tracing._arguments import Loss

_Numbers: TypeAlias = Callable[[tuple[int, ...], Tensor, torch.Generator], Tensor]

_TOGETHER = 2**24  # numbers in the unit vectors that are multiplied at once


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    r"""Eigenvalues of a layer's curvature, as far as they were found.

    Attributes:
        values: The eigenvalues, in the requested order, shape ``(k,)``, float64, on the CPU.
        vectors: Orthonormal eigenvectors :math:`x_i` of the symmetric form, each of the weight's
            shape: ``(k, *shape)``.
        directions: Changes of the weight :math:`A x_i`, shape ``(k, *shape)``: moved along one, the
            loss has the second derivative ``values[i]``. They are eigenvectors of
            :math:`(AA^\top \otimes I_m) H`.
        residuals: :math:`\lVert M x_i - \theta_i x_i\rVert`, shape ``(k,)``: an eigenvalue lies
            that close to each value.
        converged: Which residuals are within the tolerance, shape ``(k,)``.
        products: Number of products that were taken.
    """

    values: Tensor
    vectors: Tensor
    directions: Tensor
    residuals: Tensor
    converged: Tensor
    products: int


class LayerCurvature:
    r"""The relative curvature of one layer, :math:`(WW^\top \otimes I_m)\, H`, without the matrix.

    ``H`` is the Hessian of the mean loss in the layer's weight ``W`` (``d`` rows, ``m`` columns; a
    convolution kernel as rows, its groups side by side). The trace of that product is relative
    flatness. A product of two symmetric matrices is not symmetric, and this class represents the
    symmetric matrix

    .. math:: M = (A \otimes I_m)\, H\, (A \otimes I_m), \qquad A = (WW^\top)^{1/2},

    which maps weights to weights, :math:`V \mapsto A\, H[A V]`. It has the same ``N = d m``
    eigenvalues with the same multiplicities, since those of :math:`XY` and :math:`YX` agree, here
    with :math:`X = A \otimes I_m` and :math:`Y = XH`. So trace (:math:`\kappa`), moments and
    spectral density are those of the definition. In addition its eigenvectors are orthonormal, as
    Lanczos' method needs them, and the variance of :math:`v^\top M v` for normal ``v`` is never
    larger than that of the same form with the matrix of the definition, which
    `product_as_defined` multiplies with.

    :math:`x^\top M x` is the second derivative of the loss along :math:`Ax`, a relative change
    :math:`WZ` of the weight with :math:`\lVert Z\rVert_F = \lVert x\rVert`. Eigenvalues
    therefore have the unit of the loss and do not move when the layer is rescaled; their sum is
    :math:`\kappa`.

    The model runs in evaluation mode and in full precision, and is not changed: parameters, their
    ``.grad``, buffers, training flags and global random state. The curvature is that at the present
    weights; once they have changed it refuses to be used.

    Cost: a vector takes a Hessian-vector product, about two plain steps of the network after the
    layer. One batch is run once, and its graph is kept as long as this object lives. Several
    batches are run anew for each stack of vectors, one in memory at a time: multiply stacks.

    Args:
        model: The network, called as `famseg.flatness.FAM` calls it, on the device of the data.
        data: ``(inputs, targets)``, a tuple, or an iterable of such batches, all of which are kept.
            The loss of several is the mean weighted by their numbers of samples.
        loss: ``loss(prediction, targets)``, a scalar, the mean over the samples of a batch.
        layer: Dotted name of a linear or convolution layer.
        quantity: ``"relative_flatness"``; ``"simplified"``: :math:`A = \lVert W\rVert_F I`, whose
            trace is :math:`\lVert W\rVert_F^2 \operatorname{tr} H`; or ``"hessian"``:
            :math:`A = I`, the plain Hessian of the layer.
        output: Key or attribute of the model's output that the loss takes.

    Raises:
        LayerNotFoundError: If there is no such layer.
        FlatnessError: If an argument is wrong, or the layer, the loss or an operation after the
            layer cannot be differentiated.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        >>> data = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> curvature = LayerCurvature(net, data, nn.CrossEntropyLoss(), layer="0")
        >>> curvature.shape, curvature.weight_shape
        ((32, 32), (8, 4))
        >>> whole = curvature @ torch.eye(32).double()
        >>> torch.allclose(whole.trace(), torch.tensor(curvature.trace(products=32).value).double())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        loss: Loss,
        *,
        layer: str,
        quantity: CurvatureQuantity = "relative_flatness",
        output: str | None = None,
    ) -> None:
        self._products = LayerProducts(model, data, loss, layer, quantity, output)
        self._weight = self._products.weight

    @property
    def shape(self) -> tuple[int, int]:
        """Shape ``(N, N)`` of the matrix, ``N`` the number of weights."""
        return self._weight.numel(), self._weight.numel()

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weight, and of each vector."""
        return tuple(self._weight.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors: that of the weight."""
        return self._weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the vectors: that of the weight."""
        return self._weight.device

    def matvec(self, vectors: Tensor) -> Tensor:
        r"""Return :math:`M V`, the symmetric form times vectors of the weight's shape.

        Args:
            vectors: One vector of the weight's shape, or a stack of them, ``(k, *weight_shape)``.

        Returns:
            The same shape, without graph.

        Raises:
            FlatnessError: If shape, type or device are not those of the weight, or if the weights
                of the model have changed.
        """
        return self._products.symmetric(self._checked(vectors)).reshape(vectors.shape)

    def product_as_defined(self, vectors: Tensor) -> Tensor:
        r"""Return :math:`(AA^\top \otimes I_m) H V`, with :math:`AA^\top = WW^\top` by default.

        Not symmetric; with respect to the inner product :math:`\operatorname{tr}(U^\top
        (AA^\top)^{-1} V)` it is. Its eigenvalues are those of `matvec`, and its eigenvectors are
        `Eigenpairs.directions`.

        Args:
            vectors: As in `matvec`.
        """
        return self._products.as_defined(self._checked(vectors)).reshape(vectors.shape)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        r"""Return :math:`M V` for flat columns, as a matrix does: shape ``(N,)`` or ``(N, k)``."""
        size = self.shape[0]
        if not isinstance(vectors, Tensor) or vectors.ndim not in (1, 2) or len(vectors) != size:
            given = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise FlatnessError(
                f"curvature @ v needs v of shape ({size},) or ({size}, k), got {given}. For "
                "vectors of the weight's shape use curvature.matvec(v)."
            )
        rows = vectors.reshape(size, -1).T.reshape(-1, *self.weight_shape)
        return self.matvec(rows).flatten(1).T.reshape(vectors.shape)

    def trace(
        self,
        method: TraceMethod = "xtrace",
        *,
        products: int = 30,
        generator: torch.Generator | None = None,
    ) -> TraceEstimate:
        r"""Estimate the trace: :math:`\kappa`, or that of the other quantities.

        All methods are unbiased and return their standard error over the probes. With :math:`p`
        products:

        - ``"hutchinson"`` (1990): the mean of :math:`\omega^\top M \omega` over vectors of signs,
          of variance :math:`\tfrac2p (\lVert M\rVert_F^2 - \sum_i M_{ii}^2)`.
        - ``"hutch++"`` (Meyer et al. 2021): the trace on the span of :math:`M\Omega`, exactly, and
          Hutchinson's estimate of the rest; a third of the products each.
        - ``"xtrace"`` (Epperly, Tropp and Webber 2024): the same with each probe left out of the
          sketch once, so that all products serve both purposes.

        The last two are far better if few eigenvalues are large, as is usual in networks; for a
        flat spectrum the first is better, by a factor of two or three in variance. If ``products``
        reaches ``N``, the trace is computed exactly from ``N`` products. `FAM.measure` is cheaper
        where samples do not interact: it has probes for each sample, whereas this trace does not
        distinguish samples.

        Args:
            method: See above.
            products: Products with the matrix, at least 2, or 4 for the last two methods. Up to
                twice as many vectors are held.
            generator: Draws the probes; by default always the same.

        Returns:
            Value, standard error, and the number of products.

        Raises:
            FlatnessError: If an argument is wrong, or the curvature is not finite.
        """
        check_choice("method", method, get_args(TraceMethod))
        check_count("products", products)
        size = self.shape[0]
        if products >= size:
            together = max(1, _TOGETHER // size)
            return exact(self._finite, size, self._weight, together=together)
        if products < LEAST[method]:
            raise FlatnessError(
                f"trace by {method!r} needs at least {LEAST[method]} products for a standard "
                f"error, got {products}."
            )
        numbers = signs if PROBES[method] == "rademacher" else normals
        return METHODS[method](self._finite, self._probes(numbers, generator), products)

    def eigenvalues(
        self,
        k: int = 1,
        *,
        which: Which = "magnitude",
        tolerance: float = 1e-3,
        max_products: int = 1000,
        generator: torch.Generator | None = None,
    ) -> Eigenpairs:
        r"""Return eigenvalues at an end of the spectrum, with their vectors and residuals.

        Block Lanczos with full reorthogonalization, ``k`` products at a time: repeated eigenvalues
        are found with their multiplicity. Takes about ten to thirty times ``k`` products if the
        requested eigenvalues are well separated from the others.

        Args:
            k: How many. Up to 200 vectors are held, as many as fit into 256 MB in float32, or
                ``4 k`` where these are more.
            which: Which end: ``"magnitude"``, ``"largest"`` or ``"smallest"``; the last shows
                whether, and along what, the curvature is negative.
            tolerance: Residual, relative to the value, at which an eigenpair is accepted.
            max_products: Most products, at least ``k``.
            generator: Draws the start; by default always the same.

        Returns:
            The pairs, best first. A warning says if some did not converge; their residuals bound
            the error.

        Raises:
            FlatnessError: If an argument is wrong, or the curvature is not finite.
        """
        check_choice("which", which, get_args(Which))
        check_count("k", k)
        check_count("max_products", max_products)
        size = self.shape[0]
        if k > size:
            raise FlatnessError(f"k must be at most {size}, the number of weights, got {k}.")
        if max_products < k:
            raise FlatnessError(f"max_products must be at least k = {k}, got {max_products}.")
        if not tolerance > 0:
            raise FlatnessError(f"tolerance must be above 0, got {tolerance!r}.")
        pairs = extreme_pairs(
            self._finite,
            self._probes(normals, generator),
            k,
            which=which,
            tolerance=tolerance,
            max_products=max_products,
        )
        if missing := int((~pairs.converged).sum()):
            worst = (pairs.residuals / pairs.values.abs())[~pairs.converged].max().item()
            warnings.warn(
                f"layer {self._products.name!r}: {missing} of {k} eigenvalues did not converge in "
                f"{pairs.products} products (residual up to {worst:.1g} of the value). Raise "
                "max_products or tolerance.",
                RuntimeWarning,
                stacklevel=2,
            )
        vectors = pairs.vectors.reshape(k, *self.weight_shape)
        return Eigenpairs(
            values=pairs.values,
            vectors=vectors,
            directions=self._products.moved(vectors),
            residuals=pairs.residuals,
            converged=pairs.converged,
            products=pairs.products,
        )

    def spectral_density(
        self,
        *,
        probes: int = 8,
        steps: int = 50,
        points: int = 1024,
        width: float | None = None,
        generator: torch.Generator | None = None,
    ) -> SpectralDensity:
        r"""Return the density of all ``N`` eigenvalues by stochastic Lanczos quadrature.

        .. math:: \hat p(\lambda) = \frac1p \sum_{l=1}^{p} \sum_j \tau_j^{(l)}\,
            g_\sigma(\lambda - \theta_j^{(l)})

        from the Ritz values :math:`\theta_j` of Lanczos' method at random unit vectors and the
        squared first components :math:`\tau_j` of their eigenvectors (Ubaru, Chen and Saad 2017;
        Ghorbani, Krishnan and Xiao 2019). Its first ``2 * steps - 1`` moments are unbiased
        estimates of :math:`\operatorname{tr}(M^q) / N`, see `SpectralDensity.mean`; ``N`` times the
        first is :math:`\kappa`. The variance falls with the number of probes and with ``N``.
        Costs ``probes * steps`` products, those of all probes together at each step, and holds as
        many vectors, or 256 MB of them.

        Args:
            probes: Number of random vectors, at least 2: the spread of their densities is the
                error.
            steps: Lanczos steps of each, ``N`` at most.
            points: Points of the grid, which reaches five widths beyond the outermost nodes.
            width: Standard deviation of the Gaussian :math:`g_\sigma`; by default 1 % of the range
                of the nodes.
            generator: Draws the vectors; by default always the same.

        Raises:
            FlatnessError: If an argument is wrong, or the curvature is not finite.
        """
        for name, value in (("probes", probes), ("steps", steps), ("points", points)):
            check_count(name, value)
        if probes < 2:
            raise FlatnessError(
                "probes must be at least 2: a single probe gives no standard error."
            )
        if width is not None and not (math.isfinite(width) and width > 0):
            raise FlatnessError(f"width must be a finite number above 0, got {width!r}.")
        return spectral_density(
            self._finite,
            self._probes(normals, generator),
            probes,
            steps=steps,
            points=points,
            width=width,
        )

    def _finite(self, rows: Tensor) -> Tensor:
        """Multiply flat rows, ``(k, N)``, and refuse results that are not finite."""
        image = self.matvec(rows.reshape(-1, *self.weight_shape)).flatten(1)
        if not image.isfinite().all():
            raise FlatnessError(
                f"the second derivatives of layer {self._products.name!r} are not finite. Measure "
                "in float64, and check the loss: did the training diverge?"
            )
        return image

    def _probes(self, numbers: _Numbers, generator: torch.Generator | None) -> Probes:
        source = torch.Generator().manual_seed(0) if generator is None else generator
        return lambda count: numbers((count, self._weight.numel()), self._weight, source)

    def _checked(self, vectors: Tensor) -> Tensor:
        """Return vectors as a stack, ``(k, *weight_shape)``."""
        shape, weight = self.weight_shape, self._weight
        given = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        if shape not in (given, given[1:]):
            raise FlatnessError(
                f"vectors must have the weight's shape {shape}, or be a stack of such vectors, got "
                f"{given}. For flat vectors use curvature @ v."
            )
        if (vectors.dtype, vectors.device) != (weight.dtype, weight.device):
            raise FlatnessError(
                f"the vectors are {vectors.dtype} on {vectors.device}, the weight is "
                f"{weight.dtype} on {weight.device}: use v.to(curvature.device, curvature.dtype)."
            )
        return vectors.detach().reshape(-1, *shape)
