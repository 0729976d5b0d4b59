from __future__ import annotations

import json

import pytest

from famseg.config import load_pipeline
from famseg.tracking import comparison_url
from famseg.tracking._view import comparison_view, share_comparison

TAG = "mlflow.sharedViewState.famseg-lambda"
SKULL = ("val/dsc", *load_pipeline("skull").SCORES)
IMAGES = ("val/accuracy", "test/accuracy", "test/loss")


def shared(client, number):
    return json.loads(client.get_experiment(number).tags[TAG])


def charts(view, kind):
    return [chart for chart in view["compareRunCharts"] if chart["type"] == kind]


def test_the_address_names_the_view():
    url = comparison_url("http://host:1/", "7")
    assert url.startswith("http://host:1/#/experiments/7/runs?")
    assert f"viewStateShareKey={TAG.removeprefix('mlflow.sharedViewState.')}&" in url


def test_each_chart_has_a_section_and_an_id_of_its_own():
    view = comparison_view({"validation": 5}, IMAGES)
    charts, sections = view["compareRunCharts"], view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in charts} == {s["uuid"] for s in sections}
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_the_scores_are_those_of_the_pipeline():
    view = comparison_view(scores=IMAGES)
    assert [bar["metricKey"] for bar in charts(view, "BAR")] == list(IMAGES)
    (parallel,) = charts(view, "PARALLEL")  # no score that a run without evaluation lacks
    assert parallel["selectedMetrics"] == ["lambda", "train/loss", "val/accuracy"]
    curves = [line["metricKey"] for line in charts(view, "LINE")]
    assert curves == ["train/loss", "train/penalty", "val/accuracy"]
    # Training and validation are in one chart, which shows the gap.
    assert charts(view, "LINE")[0]["selectedMetricKeys"] == ["train/loss", "val/loss"]
    assert {chart["yaxis"]["key"] for chart in charts(view, "SCATTER")} == set(IMAGES)
    assert "params.`method`" in view["selectedColumns"]


def test_the_list_sorts_by_lambda_as_a_number():
    view = comparison_view()
    assert view["orderByKey"] == view["selectedColumns"][0] == "metrics.`lambda`"


def test_the_view_fits_the_smallest_limit_of_servers_in_use():
    text = json.dumps(comparison_view({"validation": 200}, SKULL), separators=(",", ":"))
    assert len(text) < 5000  # the limit before MLflow 2.17; 20,000 now


def test_images_open_at_their_last_step(client):
    number = client.create_experiment("x")
    share_comparison(client, number)
    share_comparison(client, number, {"b": 8})
    share_comparison(client, number, {"a": 4})
    share_comparison(client, number)
    images = charts(shared(client, number), "IMAGE")
    assert [(c["imageKeys"], c["step"]) for c in images] == [(["a"], 4), (["b"], 8)]


def test_scores_that_are_charted_stay(client):
    number = client.create_experiment("x")
    share_comparison(client, number, scores=IMAGES)
    share_comparison(client, number)  # the UI starts
    share_comparison(client, number, scores=SKULL[:2])  # another pipeline, the same experiment
    bars = [bar["metricKey"] for bar in charts(shared(client, number), "BAR")]
    assert bars == [*SKULL[:2], *IMAGES]
    (parallel,) = charts(shared(client, number), "PARALLEL")
    assert parallel["selectedMetrics"][-1] == "val/dsc"


def test_runs_open_in_the_view_for_training_unless_the_user_chose_another(client):
    number, chosen = client.create_experiment("x"), client.create_experiment("y")
    client.set_experiment_tag(chosen, "mlflow.experimentKind", "genai_development")
    share_comparison(client, number)
    share_comparison(client, chosen)
    kinds = [client.get_experiment(each).tags["mlflow.experimentKind"] for each in (number, chosen)]
    assert kinds == ["custom_model_development", "genai_development"]


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"compareRunCharts": [1]}', "deflate;x"])
def test_a_view_that_cannot_be_read_is_replaced(client, text):
    number = client.create_experiment("x")
    client.set_experiment_tag(number, TAG, text)
    share_comparison(client, number)
    assert shared(client, number) == comparison_view()
