"""A ready-made comparison of methods and lambdas in the MLflow UI.

The UI keeps a shared view as JSON in a tag of the experiment and opens it by its key. The fields
are those of its ``ExperimentPageUIState``; charts of metrics that no run has are hidden by the UI,
and it appends a chart for each metric and image series that the view does not name.

Which scores are charted is up to the pipeline: its runs bring their names along.
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
# The UI's three columns cut the titles of charts off on a screen of 1400 pixels.
_COLUMNS = 2
# More charts over lambda than this push the bars off the first screen.
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
    # Without the work flow the UI shows its side for language models.
    view = f"viewStateShareKey={VIEW_KEY}&compareRunsMode=CHART"
    return f"{page}?{view}&workflowType=machine_learning"


def share_comparison(
    client: MlflowClient,
    experiment_id: str,
    images: Mapping[str, int] | None = None,
    scores: Sequence[str] = (),
) -> None:
    """Store the view behind :func:`comparison_url` in the experiment, if it is not there already.

    Args:
        client: The client of the store.
        experiment_id: Id of the experiment.
        images: Series of images and the step at which each shall open; those that the stored
            view has are kept.
        scores: Names of the metrics to chart, the foremost first; those that the stored view has
            are kept behind them.
    """
    tags = client.get_experiment(experiment_id).tags
    known, before = _stored(tags.get(VIEW_TAG))
    content = comparison_view({**known, **(images or {})}, [*scores, *before])
    view = json.dumps(content, separators=(",", ":"))
    if tags.get(VIEW_TAG) != view:
        client.set_experiment_tag(experiment_id, VIEW_TAG, view)
    # Without it the UI guesses, and opens runs in its side for language models. A kind that the
    # user has chosen stays.
    if _KIND_TAG not in tags:
        client.set_experiment_tag(experiment_id, _KIND_TAG, _TRAINING)


def _stored(view: str | None) -> tuple[dict[str, int], list[str]]:
    """Return the images with their steps, and the scores, of a view that is there."""
    try:
        charts = json.loads(view or "{}").get("compareRunCharts", [])
        images = {
            str(chart["imageKeys"][0]): int(chart["step"])
            for chart in charts
            if chart["type"] == "IMAGE"
        }
        return images, [str(chart["metricKey"]) for chart in charts if chart["type"] == "BAR"]
    except (ValueError, KeyError, AttributeError, IndexError, TypeError):
        return {}, []  # written by hand or by another version: it is replaced


def comparison_view(
    images: Mapping[str, int] | None = None, scores: Sequence[str] = ()
) -> dict[str, object]:
    """Return the view: columns of the list of runs, its order, and the charts beside it.

    Args:
        images: Series of images and the step at which each opens. A series that the UI adds by
            itself opens at step 0, where there is none.
        scores: Names of the metrics to chart, the foremost first: the validation metric, whose name
            begins with ``val/``, and those of the final evaluation.

    Returns:
        What the UI reads from JSON.
    """
    images = dict(sorted((images or {}).items()))
    scores = list(dict.fromkeys(scores))
    validated = [name for name in scores if name.startswith(_VALIDATION)]
    charts = [
        *_over_lambda(scores, validated),
        *(_chart("BAR", _RESULTS, name, metricKey=name) for name in scores),
        *(
            # Raw curves: the UI smooths a chart that does not say so.
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
        # Keeps this order, and what the UI appends after it.
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }


def _over_lambda(scores: Sequence[str], validated: Sequence[str]) -> list[Chart]:
    parallel = _chart(
        "PARALLEL",
        _OVER_LAMBDA,
        "method, lambda, loss and validation",
        # A run that lacks one of these is left out: only what every run has.
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
        # Lambda 0 shows in the first kind alone, small lambdas are told apart in the second.
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
