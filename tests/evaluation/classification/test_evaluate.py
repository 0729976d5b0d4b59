from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
import warm
from torch import nn
from toy_classes import CLASSES, Points, predict, run

from famseg.evaluation import Logits, classification_rows, evaluate_classification
from famseg.messages import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    run(folder)
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_row_holds_answer_confidence_and_loss() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]])
    batch = {"label": torch.tensor([1, 1]), "subject": ["a", "b"]}
    first, second = classification_rows(logits, batch)
    assert (first["subject"], first["label"], first["prediction"]) == ("a", 1, 1)
    assert first["accuracy"] == 1.0
    assert first["confidence"] == pytest.approx(0.75)
    assert first["loss"] == pytest.approx(-math.log(0.75))
    assert (second["prediction"], second["accuracy"], second["confidence"]) == (0, 0.0, 0.5)


def test_a_sure_answer_keeps_the_digits_of_its_loss() -> None:
    (row,) = classification_rows(
        torch.tensor([[200.0, 0.0]]), {"label": torch.tensor([1]), "subject": ["a"]}
    )
    assert row["loss"] == pytest.approx(200.0)
    assert not row["failed"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_count_as_wrong(bad) -> None:
    logits = torch.tensor([[bad, 0.0], [1.0, 0.0]])
    failed, other = classification_rows(
        logits, {"label": torch.tensor([0, 0]), "subject": ["a", "b"]}
    )
    assert failed == {
        "subject": "a",
        "label": 0,
        "prediction": -1,
        "accuracy": 0.0,
        "confidence": 1.0,
        "loss": 87.34,
        "failed": True,
    }
    assert not other["failed"]


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        (torch.zeros(1, 3), 3, r"a: label 3 is not one of the network's 3 classes, 0 to 2"),
        (torch.zeros(1, 3), -1, "a: label -1 is not one of"),
        (torch.zeros(3), 0, r"shape \(n, classes\) for the 1 samples of the batch, got \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused(logits, label, message) -> None:
    with pytest.raises(ValueError, match=message):
        classification_rows(logits, {"label": torch.tensor([label]), "subject": ["a"]})


def test_the_table_has_a_row_a_sample(folder) -> None:
    with (folder / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["set"], row["subject"]) for row in rows] == [
        *(("test", f"test-{index}") for index in range(23)),
        *(("train", f"train-{index}") for index in range(10)),
    ]
    for row in rows:
        assert row["correct"] == str(int(row["label"] == row["prediction"]))
        assert (row["failed"] == "True") == (row["prediction"] == "-1")
    summary = json.loads((folder / "summary.json").read_text())
    right = [int(row["correct"]) for row in rows if row["set"] == "test"]
    assert summary["test"]["accuracy"]["mean"] == sum(right) / 23
    losses = [float(row["loss"]) for row in rows if row["set"] == "test"]
    assert summary["test"]["loss"]["mean"] == pytest.approx(sum(losses) / 23)
    assert summary["test"]["failed"] == sum(row["failed"] == "True" for row in rows) == 1


def test_batches_that_come_ready_give_the_same(folder, tmp_path) -> None:
    sets = {
        "test": Points(23, name="test", ready=True),
        "train": Points(10, name="train", ready=True),
    }
    run(tmp_path, sets=sets, collate=lambda batch: batch)
    assert files(tmp_path) == files(folder)


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter(folder, tmp_path) -> None:
    script = str(Path(__file__).parents[1].joinpath("toy_classes.py"))
    # There are three batches of train: one process has none.
    ranks = warm.run_ranks(4, script, str(tmp_path))
    assert [done.returncode for done in ranks] == [0] * 4
    assert len({done.stdout for done in ranks}) == 1  # every process has the whole result
    assert files(tmp_path) == files(folder)


def test_progress_is_told_batch_by_batch(tmp_path) -> None:
    told = []
    run(tmp_path, progress=lambda *news: told.append(news))
    assert told == [
        *(("test", done, 23) for done in (4, 8, 12, 16, 20, 23)),
        *(("train", done, 10) for done in (4, 8, 10)),
    ]


def test_an_old_summary_does_not_pass_for_the_new_one(tmp_path) -> None:
    (tmp_path / "summary.json").write_text("{}")

    def broken(inputs):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_classification(broken, {"test": Points(2, name="test")}, tmp_path, classes=CLASSES)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": {}}, r"every evaluation set needs a sample, got sizes \{\}"),
        ({"sets": {"test": Points(0, name="test")}}, r"got sizes \{'test': 0\}"),
        ({"classes": ("a", "b")}, "test: the network has 3 outputs for 2 classes"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/evaluation: cannot be written to .*Choose another"):
        run(tmp_path / "file" / "evaluation")


def test_logits_are_those_of_evaluation_mode_whatever_the_network_takes() -> None:
    class Doubling(nn.Module):
        def forward(self, *, points: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(2 * points, training=self.training)

    model = Doubling()
    points = torch.randn(2, 3)
    assert torch.equal(Logits(model, torch.device("cpu"))({"points": points}), 2 * points)
    assert model.training
    assert predict(points).shape == (2, 3)


def test_a_network_that_returns_no_logits_is_named() -> None:
    class Pair(nn.Module):
        def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return points, points

    with pytest.raises(ValueError, match="must return logits, got a tuple"):
        Logits(Pair(), torch.device("cpu"))(torch.zeros(1, 2))
