from __future__ import annotations

import json

import pytest

from famseg.tracking import comparison_url
from famseg.tracking._view import comparison_view, share_comparison

TAG = "mlflow.sharedViewState.famseg-lambda"


def shared(client, number):
    return json.loads(client.get_experiment(number).tags[TAG])


def test_the_address_names_the_view():
    url = comparison_url("http://host:1/", "7")
    assert url.startswith("http://host:1/#/experiments/7/runs?")
    assert f"viewStateShareKey={TAG.removeprefix('mlflow.sharedViewState.')}&" in url


def test_each_chart_has_a_section_and_an_id_of_its_own():
    view = comparison_view({"validation": 5})
    charts, sections = view["compareRunCharts"], view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in charts} == {s["uuid"] for s in sections}
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_the_list_sorts_by_lambda_as_a_number():
    view = comparison_view()
    assert view["orderByKey"] == view["selectedColumns"][0] == "metrics.`lambda`"


def test_the_view_fits_the_smallest_limit_of_servers_in_use():
    text = json.dumps(comparison_view({"validation": 200}), separators=(",", ":"))
    assert len(text) < 5000  # the limit before MLflow 2.17; 20,000 now


def test_pictures_open_at_their_last_step(client):
    number = client.create_experiment("x")
    share_comparison(client, number)
    share_comparison(client, number, {"b": 8})
    share_comparison(client, number, {"a": 4})
    share_comparison(client, number)
    images = [c for c in shared(client, number)["compareRunCharts"] if c["type"] == "IMAGE"]
    assert [(c["imageKeys"], c["step"]) for c in images] == [(["a"], 4), (["b"], 8)]


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"compareRunCharts": [1]}', "deflate;x"])
def test_a_view_that_cannot_be_read_is_replaced(client, text):
    number = client.create_experiment("x")
    client.set_experiment_tag(number, TAG, text)
    share_comparison(client, number)
    assert shared(client, number) == comparison_view()
