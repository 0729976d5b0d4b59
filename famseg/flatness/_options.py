"""The options of `FAM`, which determine how a penalty is computed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from famseg.flatness._check import check_choice, check_count
from famseg.flatness._errors import FlatnessError
from famseg.flatness._estimators._bound import Bound
from famseg.flatness._estimators._factor import Quantity
from famseg.flatness._estimators._probes import Distribution
from famseg.flatness._estimators._products import Gradient

EstimatorName = Literal[
    "auto",
    "exact",
    "closed_form",
    "columns",
    "hutchinson",
    "gauss_newton",
    "finite_difference",
    "noise",
]
ProbePer = Literal["sample", "batch"]


@dataclass(frozen=True, kw_only=True)
class Options:
    r"""Options of `famseg.flatness.FAM`, which takes each of them by its name.

    Attributes:
        estimator: How the flatness is computed; see `FAM`.
        quantity: ``"relative_flatness"``; ``"simplified"``: :math:`\lVert W\rVert^2` times the
            trace of ``H`` (Petzka et al. 2019); or ``"max_eigenvalue"``:
            :math:`\sum_s \lVert w_s\rVert^2 \lambda_{\max}(H_{ss})`, at ``d`` products and more.
        gradient: ``"full"``, or ``"weights_only"``: the curvature is held constant, so that the
            penalty moves its own layer only, as in the authors' code (term I of the gradient).
        as_released: Do as the authors' code does: :math:`\kappa / m`, or :math:`\lVert W\rVert
            \operatorname{tr} H`, and term I of the gradient only.
        standardize: Measure features in units of their standard deviation over the batch.
        probes: Probes of the estimators that draw them; their mean is taken.
        probe_per: ``"sample"``: probes for each sample, less noise, for samples that do not
            interact (this is checked); ``"batch"``: for the whole batch, always unbiased.
        distribution: Of the probes: ``"rademacher"`` (signs) or ``"gaussian"``.
        antithetic: Take the noise of ``"noise"`` both ways, for another run of the network.
        every: Penalize only every ``every``-th step, ``every`` times as strongly, so that the mean
            gradient stays. A step is a forward pass in training, unless `FAM.seek` says otherwise.
            ``"auto"``: 1 with an estimator that was named and where a step costs nothing; else 4
            where a part of the batch can replace it and 10 where not, and less where the penalty
            is strong, so that more steps are penalized: see `famseg.flatness._estimators._pace`.
        samples: How many samples, drawn anew each time, the penalty looks at, or ``"all"``.
            ``"auto"``: all with an estimator that was named; else a quarter of the batch where
            their mean is unbiased, more where the penalty is strong.
        samples_in: Dotted paths of the tensors that hold one row a sample, such as
            ``("inputs.0", "targets")``; all others are never cut. By default that is found out.
        bound: What becomes of negative flatness, see `famseg.flatness.bounded`. The default keeps
            the objective at or above the loss.
        ceiling: The largest flatness that counts, of a sample or of the batch as `bound` has it;
            what exceeds it has no gradient. Needed for a negative ``weight``.
        normalize: ``"features"`` divides by the number of features ``m``, the convention of the
            authors' code.

    Raises:
        FlatnessError: If a value is out of range, or two options do not go together.

    Example:
        >>> Options(estimator="hutchinson", probes=2).estimator
        'hutchinson'
    """

    estimator: EstimatorName = "auto"
    quantity: Quantity = "relative_flatness"
    gradient: Gradient = "full"
    as_released: bool = False
    standardize: bool = False
    probes: int = 1
    probe_per: ProbePer = "sample"
    distribution: Distribution = "rademacher"
    antithetic: bool = False
    every: int | Literal["auto"] = "auto"
    samples: int | Literal["auto", "all"] = "auto"
    samples_in: tuple[str, ...] | None = None
    bound: Bound = "positive"
    ceiling: float | None = None
    normalize: Literal["features"] | None = None

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, get_args(EstimatorName))
        check_choice("quantity", self.quantity, get_args(Quantity))
        check_choice("gradient", self.gradient, get_args(Gradient))
        check_choice("probe_per", self.probe_per, get_args(ProbePer))
        check_choice("distribution", self.distribution, get_args(Distribution))
        check_choice("bound", self.bound, get_args(Bound))
        check_choice("normalize", self.normalize, ("features", None))
        check_count("probes", self.probes)
        check_count("every", self.every, "auto")
        check_count("samples", self.samples, "auto", "all")
        ceiling = self.ceiling
        if ceiling is not None and not (math.isfinite(ceiling) and ceiling > 0):
            raise FlatnessError(f"ceiling must be a finite number above 0, got {ceiling!r}.")
        self._check_samples_in()
        self._check_together()

    @property
    def weights_only(self) -> bool:
        """Whether the gradient is only term I, in the layer's own weight."""
        return self.as_released or self.gradient == "weights_only"

    @property
    def per_feature(self) -> bool:
        """Whether the value is divided by the number of features."""
        released = self.as_released and self.quantity == "relative_flatness"
        return self.normalize == "features" or released

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Return options from arguments, and refuse unknown names.

        Raises:
            TypeError: If there is no such option; the message lists near names.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
                hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise TypeError(f"FAM has no option {name!r}.{hint} It has {', '.join(names)}.")
        if isinstance(given.get("samples_in"), list):
            given = {**given, "samples_in": tuple(given["samples_in"])}
        return cls(**given)

    def with_(self, **changes: Any) -> Options:  # noqa: ANN401
        """Return a copy with some options replaced."""
        return replace(self, **changes)

    def _check_samples_in(self) -> None:
        for path in self.samples_in or ():
            if path.partition(".")[0] not in ("inputs", "targets"):
                raise FlatnessError(
                    f"samples_in contains {path!r}, but a path begins with inputs or targets, "
                    'such as "inputs.0" for the first of several arguments or "inputs.mask" for a '
                    "named one."
                )

    def _check_together(self) -> None:
        """Refuse incompatible options."""
        if self.antithetic and self.estimator != "noise":
            raise FlatnessError(f'antithetic=True needs estimator="noise", got {self.estimator!r}.')
        if self.quantity == "max_eigenvalue":
            if self.estimator != "auto":
                raise FlatnessError(
                    'quantity="max_eigenvalue" has its own method. Leave estimator at '
                    f'"auto", got {self.estimator!r}.'
                )
            if self.as_released:
                raise FlatnessError(
                    'as_released=True is for the quantities "relative_flatness" and "simplified": '
                    "the largest eigenvalue of the released code does not run."
                )
        if self.estimator == "noise" and (self.gradient != "full" or self.as_released):
            raise FlatnessError(
                'estimator="noise" trains a noisy network and always uses the full gradient. '
                'Use gradient="full" without as_released, or another estimator.'
            )
        if self.estimator == "noise" and self.ceiling is not None:
            raise FlatnessError(
                'estimator="noise" does not compute a flatness that a ceiling could limit. Use '
                "another estimator."
            )
