"""The model card of an export, for users who did not train the model, as JSON and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import famseg
from famseg.export._source import Source

USE = "Research only. Not a medical device: not for diagnosis, planning or treatment."
NO_LICENSE = (
    "None is stated. The weights belong to the people who trained them: ask before you use this "
    "model or pass it on."
)
KIND = "famseg export"
"""The value of `kind` in the JSON card of every export."""

_TASKS = {
    "implant": "Predict the implant that completes a skull with a defect.",
    "classes": "Classify what an image shows.",
}


def card(source: Source, export_format: str, license_text: str | None) -> dict[str, Any]:
    """Return the card without the hashes of the files, in JSON types.

    Args:
        source: The network.
        export_format: ``bundle``, ``onnx`` or ``torchscript``.
        license_text: The name of the license; None for that of the source.
    """
    return {
        "kind": KIND,
        "format": export_format,
        "name": source.name,
        "famseg_version": famseg.__version__,
        "task": _TASKS[source.kind],
        "intended_use": USE,
        "input": {"name": source.input_name, "shape": ["n", *source.shape], "dtype": "float32"},
        "preprocessing": dict(source.preprocessing),
        "data": dict(source.data) or "not stated",
        "metrics": source.metrics or source.details.get("metrics", "not evaluated"),
        "limits": list(source.limits),
        "license": license_text or source.license_id or NO_LICENSE,
        "weights_sha256": source.weights_sha256,
        "details": {k: v for k, v in source.details.items() if k not in ("metrics", "limits")},
    }


def markdown(content: Mapping[str, Any]) -> str:
    """Return a card as Markdown.

    Args:
        content: The result of `card`.
    """
    lines = [f"# {_plain(content['name'])}", "", f"**{content['intended_use']}**", ""]
    lines += [content["task"], ""]
    for title in ("input", "preprocessing", "data"):
        lines += [f"## {title.capitalize()}", "", *_listed(content[title]), ""]
    lines += ["## Metrics", "", *_metrics(content["metrics"]), ""]
    lines += ["## Limits", "", *(f"- {each}" for each in content["limits"]), ""]
    lines += ["## License", "", content["license"], ""]
    lines += ["## Weights", "", f"SHA-256 of the weights: `{content['weights_sha256']}`", ""]
    lines += ["## Details", "", *_listed(content["details"])]
    lines += [f"- exported by famseg {content['famseg_version']} as {content['format']}", ""]
    return "\n".join(lines)


def _metrics(rows: Any) -> Iterator[str]:  # noqa: ANN401  # JSON
    """Yield a table of means with spread and n, or the metrics stated in a packaged model."""
    if not isinstance(rows, list):
        yield from _listed(rows)
        return
    yield "| metric | mean | spread | n | failed |"
    yield "| --- | --- | --- | --- | --- |"
    for row in rows:
        interval = f"95 % interval {row['low']:.4g} to {row['high']:.4g}" if "low" in row else ""
        spread = f"standard deviation {row['std']:.4g}" if "std" in row else interval
        yield (
            f"| {_plain(row['metric'])} | {row['mean']:.4g} | {spread} | {row['n']} | "
            f"{row.get('failed', 'not stated')} |"
        )
    yield ""
    yield "The means include failed cases. Distances end in `_mm`; DSC, accuracy and NSD have none."


def _listed(value: Any, depth: int = 0) -> Iterator[str]:  # noqa: ANN401  # JSON
    """Yield JSON as a nested list of Markdown."""
    indent = "  " * depth
    if not isinstance(value, Mapping):
        yield f"{indent}- {_plain(value)}"
        return
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield f"{indent}- {_plain(name)}:"
            yield from _listed(each, depth + 1)
        else:
            yield f"{indent}- {_plain(name)}: {_plain(each)}"


def _plain(value: object) -> str:
    """Return untrusted text escaped for Markdown and HTML."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = " ".join(text.split())
    for sign in "\\`*<>[]|":
        text = text.replace(sign, f"\\{sign}")
    return text
