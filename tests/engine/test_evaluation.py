from __future__ import annotations

import json

import pytest
from toy import changed, make_experiment

from famseg.engine import Experiment, Processes, evaluate_run
from famseg.messages import InputError
from famseg.runs import RunFolder


def evaluate(experiment, folder, **options):
    model = experiment.objective.model
    return evaluate_run(
        experiment, model, RunFolder(folder), processes=Processes(), epoch=1, **options
    )


def test_predictions_that_a_pipeline_has_not_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="--save: this pipeline writes no predictions"):
        evaluate(make_experiment(), tmp_path, save="all")
    assert list(tmp_path.iterdir()) == []


def test_the_evaluation_that_saves_is_that_of_the_request(tmp_path):
    asked = []

    def evaluation(model, folder, *, processes, save):
        asked.append(save)
        folder.mkdir(parents=True, exist_ok=True)
        return {}

    methods = {"evaluate": evaluation, "test_metrics": lambda summary: {"a": 1.0}}
    experiment = changed(make_experiment(), saves_predictions=True, **methods)
    for save in ("failed", None):
        evaluate(experiment, tmp_path, save=save)
    assert asked == ["failed", None]
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == {"a": 1.0}


def test_an_experiment_names_its_key_metric():
    class Nameless(Experiment):
        def score(self, outputs, batch):
            return []

    toy = make_experiment()
    parts = {"train": toy.train, "validation": toy.validation, "data_hash": ""}
    with pytest.raises(TypeError, match=r"Nameless has no key_metric\. Name the column"):
        Nameless(toy.config, toy.objective, **parts)
