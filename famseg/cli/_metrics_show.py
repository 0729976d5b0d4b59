"""The output of ``famseg metrics``: the cases, and a table at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famseg.cli._say import say, say_json
from famseg.messages import text_table
from famseg.metrics import BY_NAME, METRICS, SCORES
from famseg.statistics import bootstrap_interval

if TYPE_CHECKING:
    from famseg.metrics import Scores


@dataclass
class Results:
    """The scored cases with label and metrics, and one line for each case that was not scored."""

    undone: list[str] = field(default_factory=list)
    cases: list[tuple[str, int | None, Scores]] = field(default_factory=list)

    def values(self, label: int | None, name: str) -> list[float | None]:
        """Return one metric of all cases."""
        return [getattr(scores, name) for _, each, scores in self.cases if each == label]

    def labels(self) -> list[int | None]:
        """Return the labels that were scored; None for a mask."""
        return list(dict.fromkeys(label for _, label, _ in self.cases))


def write_csv(results: Results, path: Path) -> None:
    """Write one row per case and label; NaN is ``nan``, missing values are empty."""
    from famseg.files import csv_text, write_atomically

    rows = _records(results)
    write_atomically(path, csv_text(list(rows[0]), rows, for_people=True).encode())


def show(results: Results, *, as_json: bool) -> None:
    """Print the metrics on standard output."""
    if as_json:
        content = {
            "cases": _finite(_records(results)),
            "summary": [_finite(each) for each in _summary(results)],
            "not_scored": results.undone,
        }
        say_json(content)
        return
    for line in _table(results):
        say(line)


def _records(results: Results) -> list[dict[str, Any]]:
    return [
        {"case": name, "label": label, **scores.flat()} for name, label, scores in results.cases
    ]


def _finite(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the statistics of each label and metric; failed cases are included in all of them."""
    for label in results.labels():
        failed = [scores.failed for _, each, scores in results.cases if each == label]
        for name in SCORES:
            of_cases = results.values(label, name)
            values = [value for value in of_cases if value is not None]
            if len(values) < len(of_cases):
                continue
            undefined = sum(map(math.isnan, values))
            figures: dict[str, Any] = {"n": len(values), "failed": sum(failed)}
            if undefined:
                counts = f"(n {len(values)}, failed {sum(failed)})"
                text = f"no mean: undefined in {undefined} {counts}"
                figures |= {"undefined": undefined, "mean": None, "text": text}
            else:
                found = bootstrap_interval(values, failed)
                figures |= {"mean": found.estimate, "low": found.low, "high": found.high}
                figures["text"] = found.text(BY_NAME[name].digits)
            yield {"label": label, "metric": name, **figures}


def _table(results: Results) -> Iterator[str]:
    """Yield the lines of the table, then those of the statistics."""
    shown = [metric for metric in METRICS if metric.short and _applies(results, metric.name)]
    labeled = results.labels() != [None]
    header = ["case", *(["label"] if labeled else []), *(metric.short for metric in shown)]
    lines = []
    for case, label, scores in results.cases:
        cells = [_cell(scores.values[m.name], 0 if m.whole else m.digits) for m in shown]
        mark = "failed" if scores.failed else ""
        lines.append([case, *([str(label)] if labeled else []), *cells, mark])
    yield text_table([*header, ""], lines, numbers=range(1, len(header)))
    yield ""
    yield "mean with 95 % confidence interval; distances in mm, volume difference in ml"
    figures = list(_summary(results))
    width = max(len(each["metric"]) for each in figures)
    for each in figures:
        front = f"label {each['label']}  " if labeled else ""
        yield f"  {front}{each['metric']:{width}}  {each['text']}"
    if any(scores.failed for _, _, scores in results.cases):
        yield ""
        yield "failed: one of the masks is empty; it is included in the means with the worst value"


def _applies(results: Results, name: str) -> bool:
    return any(getattr(scores, name) is not None for _, _, scores in results.cases)


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
