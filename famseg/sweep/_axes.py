"""The axes of a sweep as typed by the user: ``lambda=0,0.002 seed=1..5``."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from famseg.messages import InputError

_DISTRIBUTION = re.compile(r"(uniform|loguniform|randint)\(([^,()]+),([^,()]+)\)")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")
_MOST_VALUES = 100_000
_BRACKETS = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}

Kind = Literal["uniform", "loguniform", "randint"]


@dataclass(frozen=True)
class Distribution:
    """A range from which values are drawn.

    Args:
        kind: ``uniform``, ``loguniform`` (uniform in the logarithm) or ``randint`` (integers
            including both limits).
        low: The smallest value.
        high: The largest value.
    """

    kind: Kind
    low: float
    high: float

    def draw(self, generator: random.Random) -> str:
        """Return a drawn value as text with four significant digits."""
        if self.kind == "randint":
            return str(generator.randint(round(self.low), round(self.high)))
        if self.kind == "uniform":
            return f"{generator.uniform(self.low, self.high):.4g}"
        exponent = generator.uniform(math.log(self.low), math.log(self.high))
        return f"{math.exp(exponent):.4g}"


@dataclass(frozen=True)
class Axis:
    """A key of the configuration with its values.

    Args:
        key: Dotted key, such as ``optimizer.learning_rate``.
        values: The values as typed, in order; empty if they are drawn.
        distribution: The distribution of drawn values, or None.
    """

    key: str
    values: tuple[str, ...] = ()
    distribution: Distribution | None = None

    @property
    def varies(self) -> bool:
        """Whether it has more than one value."""
        return self.distribution is not None or len(self.values) > 1


def parse_axes(words: Sequence[str]) -> list[Axis]:
    """Parse the keys that a sweep varies and sets.

    Args:
        words: Texts ``key=value`` (set for all trials), ``key=a,b,c`` (values), ``key=1..5``
            (whole numbers, both ends included; ``1..9..2`` in steps), ``key=loguniform(1e-4,0.1)``,
            ``uniform(a,b)`` or ``randint(a,b)`` (drawn). Commas within brackets or quotes do not
            divide: ``model.channels=[8,16],[16,32]``.

    Returns:
        An axis for each word, in their order.

    Raises:
        InputError: With a line for each text that is invalid, or key that is repeated.

    Example:
        >>> [(axis.key, axis.values) for axis in parse_axes(["lambda=0,0.002", "seed=1..3"])]
        [('lambda', ('0', '0.002')), ('seed', ('1', '2', '3'))]
    """
    axes, faults = [], []
    for word in words:
        try:
            axes.append(_axis(word))
        except ValueError as error:
            faults.append(str(error))
    keys = ["penalty.lambda" if axis.key == "lambda" else axis.key for axis in axes]
    faults += [
        f"{key}: is given twice. Give all its values in one argument: {key}=a,b,c"
        for key in dict.fromkeys(key for key in keys if keys.count(key) > 1)
    ]
    if faults:
        raise InputError(*faults)
    return axes


def _axis(word: str) -> Axis:
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ValueError(
            f"{word!r}: is not of the form key=value, such as lambda=0,0.002 seed=1..5"
        )
    if match := _DISTRIBUTION.fullmatch(text.strip()):
        return Axis(key, distribution=_distribution(word, *match.groups()))
    if match := _RANGE.fullmatch(text.strip()):
        return Axis(key, _range(word, *match.groups()))
    values = _split(text)
    if len(values) > 1 and "" in values:
        raise ValueError(f"{word}: has an empty value between commas")
    if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"{word}: has the value {twice[0]} twice")
    return Axis(key, tuple(values))


def _distribution(word: str, kind: str, low: str, high: str) -> Distribution:
    try:
        bounds = float(low), float(high)
    except ValueError:
        raise ValueError(f"{word}: the bounds must be numbers") from None
    least = 0.0 if kind == "loguniform" else -math.inf
    if not least < bounds[0] < bounds[1] < math.inf:
        rule = "0 < low < high" if kind == "loguniform" else "low < high"
        raise ValueError(f"{word}: needs {rule}, such as loguniform(1e-4,0.1)")
    if kind == "randint" and any(bound != round(bound) for bound in bounds):
        raise ValueError(f"{word}: the bounds must be whole numbers")
    return Distribution(kind, *bounds)  # type: ignore[arg-type]  # the pattern allows only three kinds


def _range(word: str, first: str, last: str, step: str | None) -> tuple[str, ...]:
    numbers = range(int(first), int(last) + 1, int(step or 1)) if step != "0" else range(0)
    if not 0 < len(numbers) <= _MOST_VALUES:
        raise ValueError(f"{word}: has no value, or too many. Write a smaller number first: 1..5")
    return tuple(map(str, numbers))


def _split(text: str) -> list[str]:
    """Return the parts between commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _BRACKETS:
            depth += _BRACKETS[letter]
        elif letter == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += letter
    return [part.strip() for part in parts]


def grid(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Return all combinations, with ``seed`` varying slowest, for early results of each setting.

    Args:
        axes: The axes, without drawn ones.

    Raises:
        InputError: If one of them is drawn from a range.
    """
    if drawn := [axis.key for axis in axes if axis.distribution is not None]:
        raise InputError(
            f"{drawn[0]}: is drawn from a range. Set the number of draws with --trials N, or list "
            "values."
        )
    points: list[dict[str, str]] = [{}]
    for axis in sorted(axes, key=lambda axis: axis.key != "seed"):
        points = [{**point, axis.key: value} for point in points for value in axis.values]
    return [_ordered(point, axes) for point in points]


def draws(axes: Sequence[Axis], number: int, *, seed: int) -> list[dict[str, str]]:
    """Return random settings, each with all seeds; a larger number begins with the same ones.

    Args:
        axes: The axes; one value of each is drawn, but all values of ``seed`` are used.
        number: Number of settings.
        seed: The seed of the draws.
    """
    seeds = [axis for axis in axes if axis.key == "seed" and axis.distribution is None]
    rest = [axis for axis in axes if axis not in seeds]
    points = []
    for index in range(number):
        generator = random.Random(f"{seed} {index}")  # noqa: S311  # not for cryptography
        points.append({axis.key: _draw(axis, generator) for axis in rest})
    repeated: Sequence[Mapping[str, str]] = grid(seeds)
    return [_ordered({**point, **each}, axes) for each in repeated for point in points]


def _draw(axis: Axis, generator: random.Random) -> str:
    if axis.distribution is not None:
        return axis.distribution.draw(generator)
    return axis.values[0] if len(axis.values) == 1 else generator.choice(axis.values)


def _ordered(point: Mapping[str, str], axes: Sequence[Axis]) -> dict[str, str]:
    return {axis.key: point[axis.key] for axis in axes}
