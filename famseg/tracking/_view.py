"""A ready-made comparison of methods and lambdas in the MLflow UI.

The UI keeps a shared view as JSON in a tag of the experiment and opens it by its key. The fields
are those of its ``ExperimentPageUIState``. The UI hides charts of metrics that no run has, and
appends a chart for each metric and image series that the view does not contain.

The pipeline determines which scores are charted; its runs contain their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

VIEW_KEY = "famseg-lambda"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"

_KIND_TAG, _TRAINING = "mlflow.experimentKind", "custom_model_development"

Chart = dict[str, object]

_OVER_LAMBDA = "Over lambda"
_RESULTS = "Results"
_CURVES = "Curves"
_IMAGES = "Images"
_VALIDATION = "val/"
# Three columns of the UI truncate the titles of charts on a screen of 1400 pixels.
_COLUMNS = 2
# With more charts over lambda than this, the bars are not on the first screen.
_MOST_OVER_LAMBDA = 3


def comparison_url(server: str, experiment_id: str) -> str:
    """Return the address at which the MLflow UI compares the runs of an experiment over lambda.

    Args:
        server: Address of the UI, such as ``http://127.0.0.1:5000``.
        experiment_id: Id of the experiment.

    Returns:
        The address to open in a browser.

    Example:
        >>> print(comparison_url("http://127.0.0.1:5000/", "1"))
        http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=famseg-lambda\
&compareRunsMode=CHART&workflowType=machine_learning
    """
    page = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"
    # Without the workflow type the UI shows its pages for language models.
    view = f"viewStateShareKey={VIEW_KEY}&compareRunsMode=CHART"
    return f"{page}?{view}&workflowType=machine_learning"


def share_comparison(
    client: MlflowClient,
    experiment_id: str,
    images: Mapping[str, int] | None = None,
    scores: Sequence[str] = (),
) -> None:
    """Store the view behind :func:`comparison_url` in the experiment, unless it exists.

    Args:
        client: The client of the store.
        experiment_id: Id of the experiment.
        images: Series of images and the initial step of each; those in the stored view are kept.
        scores: Names of the metrics to chart, the main one first; those in the stored view are kept
            after them.
    """
    tags = client.get_experiment(experiment_id).tags
    known, before = _stored(tags.get(VIEW_TAG))
    content = comparison_view({**known, **(images or {})}, [*scores, *before])
    view = json.dumps(content, separators=(",", ":"))
    if tags.get(VIEW_TAG) != view:
        client.set_experiment_tag(experiment_id, VIEW_TAG, view)
    # Without it the UI guesses, and opens runs in its pages for language models. A kind chosen by
    # the user is kept.
    if _KIND_TAG not in tags:
        client.set_experiment_tag(experiment_id, _KIND_TAG, _TRAINING)


def _stored(view: str | None) -> tuple[dict[str, int], list[str]]:
    """Return the images with their steps and the scores of an existing view."""
    try:
        charts = json.loads(view or "{}").get("compareRunCharts", [])
        images = {
            str(chart["imageKeys"][0]): int(chart["step"])
            for chart in charts
            if chart["type"] == "IMAGE"
        }
        return images, [str(chart["metricKey"]) for chart in charts if chart["type"] == "BAR"]
    except (ValueError, KeyError, AttributeError, IndexError, TypeError):
        return {}, []  # written manually or by another version; it is replaced


def comparison_view(
    images: Mapping[str, int] | None = None, scores: Sequence[str] = ()
) -> dict[str, object]:
    """Return the view: columns and order of the list of runs, and the charts next to it.

    Args:
        images: Series of images and the initial step of each. A series added by the UI itself opens
            at step 0, which has no image.
        scores: Names of the metrics to chart, the foremost first: the validation metric, whose name
            begins with ``val/``, and those of the final evaluation.

    Returns:
        The content that the UI reads from JSON.
    """
    images = dict(sorted((images or {}).items()))
    scores = list(dict.fromkeys(scores))
    validated = [name for name in scores if name.startswith(_VALIDATION)]
    charts = [
        *_over_lambda(scores, validated),
        *(_chart("BAR", _RESULTS, name, metricKey=name) for name in scores),
        *(
            # Raw curves, since the UI smooths charts by default.
            _chart(
                "LINE",
                _CURVES,
                title,
                metricKey=names[0],
                selectedMetricKeys=list(names),
                lineSmoothness=0,
                xAxisKey="step",
            )
            for title, *names in (
                # In one chart, so that the gap between them is visible.
                ("loss: train and val", "train/loss", "val/loss"),
                ("train/penalty", "train/penalty"),
                *((name, name) for name in validated if name != "val/loss"),
            )
        ),
        *(
            _chart("IMAGE", _IMAGES, key, imageKeys=[key], step=step, showRunParams=False)
            for key, step in images.items()
        ),
    ]
    return {
        "selectedColumns": [
            "metrics.`lambda`",
            "params.`method`",
            "params.`seed`",
            *(f"metrics.`{name}`" for name in scores),
            "tags.`sweep_id`",
        ],
        "orderByKey": "metrics.`lambda`",
        "orderByAsc": True,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [
            _section(name) for name in (_OVER_LAMBDA, _RESULTS, _CURVES, _IMAGES)
        ],
        # Keeps this order, with charts appended by the UI after it.
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }


def _over_lambda(scores: Sequence[str], validated: Sequence[str]) -> list[Chart]:
    parallel = _chart(
        "PARALLEL",
        _OVER_LAMBDA,
        "method, lambda, loss and validation",
        # Only properties that every run has, since the chart omits runs without one of them.
        selectedParams=["method"],
        selectedMetrics=["lambda", "train/loss", *validated[:1]],
        showAllRuns=True,
    )
    scatters = [
        _chart(
            "SCATTER",
            _OVER_LAMBDA,
            f"{name} over {over}",
            xaxis={"key": over, "type": "METRIC"},
            yaxis={"key": name, "type": "METRIC"},
            runsCountToCompare=100,
        )
        # Lambda 0 is visible only in the first kind; small lambdas are distinct in the second.
        for over in ("lambda", "log10_lambda")
        for name in scores[:_MOST_OVER_LAMBDA]
    ]
    return [parallel, *scatters]


def _chart(kind: str, section: str, title: str, **settings: object) -> Chart:
    return {
        "type": kind,
        "uuid": f"{kind} {title}",
        "metricSectionId": section,
        "displayName": title,
        **settings,
    }


def _section(name: str) -> Chart:
    return {
        "uuid": name,
        "name": name,
        "display": True,
        "isReordered": True,
        "columns": _COLUMNS,
    }
