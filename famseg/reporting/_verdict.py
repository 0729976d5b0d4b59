"""The result of a comparison as sentences, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator

from famseg.reporting._compare import Comparison, smaller_is_better
from famseg.reporting._overview import overview
from famseg.reporting._power import power_words, powers
from famseg.reporting._words import conclusion, counted_pairs, difference_words, label_of

POSSIBLE = (
    "No difference shown is not the same as no difference: the interval holds the differences that "
    "remain possible. Holm's correction is for the methods, not for the metrics: choose the metric "
    "that counts beforehand."
)


def verdict_lines(comparison: Comparison, cases: Comparison | None = None) -> Iterator[str]:
    """Yield a sentence for each group about the main metric, then warnings about collapses.

    Args:
        comparison: From ``compare_runs``.
        cases: The same groups paired by case, whose result is added to each sentence.
    """
    if not comparison.metrics:
        yield "the runs have no metric in common: nothing can be compared."
        return
    metric = comparison.metrics[0]
    smaller = smaller_is_better(metric)
    possible = {each.group: each for each in powers(comparison, metric)}
    compared = 0
    for group in comparison.study.groups:
        pairing = comparison.pairings.get((group.name, metric))
        if pairing is None:
            continue
        compared += 1
        text = f"{group.name} against {comparison.baseline}: {difference_words(pairing)}: "
        text += conclusion(pairing, smaller_is_better=smaller)
        if group.name in possible:
            text += f"; {power_words(possible[group.name], comparison, metric)}"
        over_cases = None if cases is None else cases.pairings.get((group.name, metric))
        if over_cases is not None:
            text += (
                f". The same trainings on new cases: {difference_words(over_cases)}: "
                f"{conclusion(over_cases, smaller_is_better=smaller)}"
            )
        yield f"{text}."
    if not compared:
        yield from _levels(comparison, metric)
    yield from overview(comparison, metric).warnings


def _levels(comparison: Comparison, metric: str) -> Iterator[str]:
    label = label_of(metric)
    for group in comparison.study.groups:
        found = comparison.figures.get((group.name, metric))
        if found is not None:
            spread = "" if found.std is None else f" ± {found.std:.{label.digits}f}"
            yield (
                f"{group.name}: {found.mean:.{label.digits}f}{spread} {label.name}, mean and "
                f"standard deviation, n = {counted_pairs('seed', found.n)}. There is no baseline "
                "to compare it with."
            )
