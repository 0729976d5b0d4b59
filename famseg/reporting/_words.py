"""Names of metrics on axes and in sentences, and differences as text."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from famseg.messages import counted
from famseg.metrics import METRICS
from famseg.reporting._pairs import CONFIDENCE, By, Pairing

LEVEL = 0.05
_SHARE = "0 to 1"
_MOST_DIGITS = 8


Verdict = Literal["better", "worse", "none", "few", "equal"]
VERDICTS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "none": "no difference shown",
    "few": "too few pairs to show one",
    "equal": "equal in every pair",
}


class Label(NamedTuple):
    """The displayed name of a metric.

    Attributes:
        name: Its name.
        unit: Its unit or range; empty if it has none.
        digits: Decimals that distinguish runs.
    """

    name: str
    unit: str
    digits: int

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


# By the last part of the name. See docs/metrics.md.
_KNOWN = {
    **{m.name: Label(m.label, m.unit, m.digits) for m in METRICS if m.in_scores},
    "soft_dsc": Label("soft DSC", _SHARE, 3),
    "accuracy": Label("accuracy", _SHARE, 4),
    "balanced_accuracy": Label("balanced accuracy", _SHARE, 4),
    "error": Label("error", _SHARE, 4),
    "confidence": Label("confidence", _SHARE, 4),
    "ece": Label("ECE", _SHARE, 4),
    "loss": Label("loss", "mean per case", 4),
    "evaluation_loss": Label("loss", "mean per case", 4),
    "gap": Label("gap in accuracy", "training minus test", 4),
    "gap_loss": Label("gap in loss", "test minus training", 4),
    "seconds": Label("training time", "s", 1),
    "epochs": Label("epochs", "", 0),
    "failed": Label("failed", "cases", 0),
}


def label_of(metric: str) -> Label:
    """Return the displayed name of a metric with its unit.

    Args:
        metric: Its flat name, such as ``test/set1/skull/dsc``.

    Example:
        >>> label_of("test/set1/skull/dsc").axis, label_of("val/depth_mm").axis
        ('DSC of the skull, set1 (0 to 1)', 'depth (mm)')
    """
    *where, last = PurePosixPath(metric).parts
    known = _KNOWN.get(last)
    if known is None:
        name, unit = (last.removesuffix("_mm"), "mm") if last.endswith("_mm") else (last, "")
        known = Label(name.replace("_", " "), unit, 4)
    places = where[1:]
    if len(places) > 1:
        return known._replace(name=f"{known.name} of the {places[-1]}, {', '.join(places[:-1])}")
    return known._replace(name=f"{known.name}, {places[0]}") if places else known


def difference_words(pairing: Pairing) -> str:
    """Return a paired difference with interval and number of pairs for a sentence."""
    label = label_of(pairing.metric)
    ends = [end for end in (pairing.low, pairing.high) if end is not None]
    digits = _decimals([pairing.difference, *ends], label.digits)
    unit = f" {label.unit}" if label.unit in ("mm", "s", "cases") else ""
    text = f"{_signed(pairing.difference, digits)}{unit} {label.name}"
    if len(ends) == 2:
        low, high = (_signed(end, digits) for end in ends)
        text += f", {CONFIDENCE:.0%} interval {low} to {high}".replace("%", " %")
    return f"{text}, n = {counted_pairs(pairing.by, pairing.n)}"


def _decimals(values: Sequence[float], usual: int) -> int:
    """Return the decimals that show two digits of the largest value, at least the usual ones."""
    largest = max(map(abs, values))
    return usual if not largest else min(_MOST_DIGITS, max(usual, 1 - floor(log10(largest))))


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # a rounded -0 is +0


def counted_pairs(by: By, n: int) -> str:
    """Return a number of pairs as text.

    Example:
        >>> counted_pairs("seed", 1), counted_pairs("case", 8)
        ('1 seed', '8 cases')
    """
    return counted(n, by)


def verdict(pairing: Pairing, *, smaller_is_better: bool) -> Verdict:
    """Return the conclusion from a paired difference.

    A difference is shown if its interval excludes zero and Holm's p is below 0.05.

    Args:
        pairing: The difference to the baseline.
        smaller_is_better: Whether a negative difference is better.
    """
    if pairing.low is None or pairing.high is None:
        return "few"
    if not pairing.difference and pairing.low == pairing.high == 0:
        return "equal"
    if pairing.p_smallest is not None and pairing.p_smallest > LEVEL:
        return "few"
    if (pairing.low > 0 or pairing.high < 0) and pairing.p_holm < LEVEL:
        return "better" if (pairing.difference < 0) == smaller_is_better else "worse"
    return "none"


def conclusion(pairing: Pairing, *, smaller_is_better: bool) -> str:
    """Return `verdict` as the end of a sentence, with its reason.

    Args:
        pairing: The difference to the baseline.
        smaller_is_better: Whether a negative difference is better.
    """
    found = verdict(pairing, smaller_is_better=smaller_is_better)
    if found == "equal":
        return "every pair is equal: no difference shown"
    if found == "few" and pairing.low is None:
        return "a single pair, which can be chance: no difference shown"
    if found == "few":
        return (
            f"no difference can be shown with {counted_pairs(pairing.by, pairing.n)} "
            f"(p is {pairing.p_smallest:.2g} or more)"
        )
    p = "p < 0.0001" if pairing.p_holm < 0.0001 else f"p = {pairing.p_holm:.2g}"
    if found == "none":
        return f"no difference shown ({p} after Holm)"
    return f"{found} than the baseline ({p} after Holm)"
