from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import warm

from famseg.config import load
from famseg.engine import Experiment, Interrupted, Processes, StopRequest, TrainingConfig
from famseg.messages import InputError

pytest.importorskip("transformers")

TINY = [
    "data.train=48",
    "data.test=12",
    "data.validation=0.25",
    "model.layers=1",
    "model.hidden=16",
    "model.heads=2",
    "model.dropout=0.2",
]
CPU = torch.device("cpu")


def build(*overrides: str, config: str = "smoke/rte_fam") -> Experiment:
    pipeline, loaded = load(config, [*TINY, *overrides])
    return pipeline.build(loaded, CPU)


def batch(experiment: Experiment, count: int = 4):
    assert experiment.collate is not None
    return experiment.collate([experiment.train[i] for i in range(count)])


def test_a_batch_holds_tokens_labels_and_names() -> None:
    experiment = build("tokens.pad_to_multiple_of=32")
    found = batch(experiment)
    assert {name: tuple(each.shape) for name, each in found["tokens"].items()} == {
        "input_ids": (4, 64),
        "token_type_ids": (4, 64),
        "attention_mask": (4, 64),
    }
    assert found["label"].shape == (4,)
    assert all(name.startswith("train-") for name in found["subject"])
    assert experiment.lengths is not None
    assert len(experiment.lengths) == len(experiment.train) == 36
    assert found["tokens"]["attention_mask"].sum(1).tolist() == experiment.lengths[:4]


def test_lambda_weighs_the_kappa_of_the_head() -> None:
    objective = build("lambda=0.5").objective.train()
    terms = objective(batch(build()))
    torch.testing.assert_close(terms.total, terms.loss + 0.5 * terms.penalty)
    assert objective.terms.explain().startswith("layer 'head' (2 x 16): closed_form, exact and")
    plain = build(config="smoke/rte_baseline").objective.train()
    assert plain(batch(build())).penalty is None


def test_the_data_hash_tells_data_apart() -> None:
    assert build().data_hash == build("seed=1", "lambda=2").data_hash
    assert build().data_hash != build("data.seed=1").data_hash
    assert build().data_hash != build("data.train=47").data_hash


def test_the_evaluation_scores_test_and_training_samples(tmp_path: Path) -> None:
    experiment = build()
    model = experiment.objective.model
    summary = experiment.evaluate(model, tmp_path, processes=Processes())
    assert (summary["test"]["n"], summary["train"]["n"]) == (12, 36)
    assert set(summary["test"]["per_class"]) == {"entailment", "not_entailment"}
    metrics = experiment.test_metrics(summary)
    assert metrics["test/accuracy"] == summary["test"]["accuracy"]["mean"]
    assert metrics.keys() >= set(experiment.scores)
    assert "entailment" in experiment.table(summary)
    assert (tmp_path / "cases.csv").read_text().count("\n") == 1 + 12 + 36
    assert experiment.monitor is not None
    assert experiment.monitor(model)["train/kappa"] > 0


def test_samples_longer_than_the_network_takes_are_refused() -> None:
    with pytest.raises(InputError, match=r"tokens\.max_length: 600 tokens are more than the 512"):
        build("tokens.max_length=600")


def test_a_root_turns_the_embedded_sentences_into_files() -> None:
    _, config = load("smoke/rte_baseline", ["data.root=somewhere"])
    assert (config.data.kind, config.data.root, config.data.train_limit) == (
        "glue",
        "somewhere",
        800,
    )


class StopAfter:
    """Observes the training and stops it after a step; keeps the losses."""

    def __init__(self, stop: StopRequest, step: int | None = None) -> None:
        self.stop, self.step = stop, step
        self.losses: dict[int, float] = {}

    def started(self, **extent: int) -> None:
        pass

    def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
        self.losses[step] = loss
        if step == self.step:
            self.stop(signal.SIGTERM, None)

    def epoch(self, epoch: int, metrics: object) -> None:
        pass


def fit(folder: Path, *, until: int | None = None) -> dict[int, float]:
    """Train or continue training in a folder; return the loss of each step."""
    experiment, stop = build("training.epochs=3"), StopRequest()
    training = TrainingConfig(epochs=3, batch_size=8).build(
        experiment, folder=folder, processes=Processes(), device=CPU, seed=0
    )
    training.restore()
    watch = StopAfter(stop, until)
    with nullcontext() if until is None else pytest.raises(Interrupted):
        training.run(observers=[watch], stop=stop)
    return watch.losses


def test_an_interrupted_training_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    """With dropout, batches by length and a learning rate that changes with every step."""
    whole = fit(tmp_path / "whole")
    parts = fit(tmp_path / "parts", until=7)
    rest = fit(tmp_path / "parts")
    assert min(rest) == 8
    assert parts | rest == whole
    assert len(whole) == 3 * 5


@pytest.mark.slow
def test_the_embedded_task_is_learnt(tmp_path: Path) -> None:
    pipeline, config = load("smoke/rte_baseline")
    experiment = pipeline.build(config, CPU)
    config.training.build(
        experiment, folder=tmp_path, processes=Processes(), device=CPU, seed=0
    ).run(stop=StopRequest())
    summary = experiment.evaluate(
        experiment.objective.model, tmp_path / "evaluation", processes=Processes()
    )
    assert summary["test"]["accuracy"]["low"] > 0.6


@pytest.mark.nightly
@pytest.mark.slow
def test_a_smoke_configuration_takes_the_real_files(real_data: Path, tmp_path: Path) -> None:
    root = (real_data / "rte").resolve()
    command = ["-m", "famseg", "train", "--config", "smoke/rte_fam", "--json"]
    limits = ["data.train_limit=64", "data.test_limit=20", "training.epochs=1"]
    done = warm.run(*command, f"data.root={root}", *limits, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["test"]["n"] == 20
