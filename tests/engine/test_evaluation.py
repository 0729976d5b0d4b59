from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toy import make_experiment

from famseg.engine import Processes, evaluate_run
from famseg.messages import InputError
from famseg.runs import RunFolder


def evaluate(experiment, folder, **options):
    model = experiment.objective.model
    return evaluate_run(
        experiment, model, RunFolder(folder), processes=Processes(), epoch=1, **options
    )


def test_predictions_that_a_pipeline_has_not_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="--save: the predictions of this pipeline"):
        evaluate(make_experiment(), tmp_path, save="all")
    assert list(tmp_path.iterdir()) == []


def test_the_evaluation_that_saves_is_that_of_the_request(tmp_path):
    asked = []

    def saving(which):
        def evaluation(model, folder, *, processes):
            asked.append(which)
            folder.mkdir(parents=True)
            return {}

        return evaluation

    experiment = replace(make_experiment(), saving=saving, test_metrics=lambda summary: {"a": 1.0})
    evaluate(experiment, tmp_path, save="failed")
    assert asked == ["failed"]
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == {"a": 1.0}
