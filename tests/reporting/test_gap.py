from __future__ import annotations

import json

from made_runs import FAM, make_run

from famseg.files import write_json
from famseg.reporting import find_runs, run_page
from famseg.reporting._gap import ESTIMATED, MEASURED, TEST_GAP, course, gaps, kappa_of

FLAT = {"penalty.kind": "relative_flatness", "penalty.layer": "expand"}
ROW = {"train/loss": 0.4, "val/loss": 0.5}


def history(path, rows):
    lines = [json.dumps({"epoch": n, "time": 0, **row}) for n, row in enumerate(rows, start=1)]
    (path / "metrics.jsonl").write_text("\n".join([*lines, ""]))


def run_of(folder, name, rows, *, settings=FAM, metrics=None, epoch=1):
    path = make_run(folder, name, settings=settings, metrics=metrics or {"test/x": 0.5})
    history(path, rows)
    write_json(path / "evaluation" / "checkpoint.json", {"checkpoint": "best", "epoch": epoch})
    return path


def test_kappa_is_what_was_measured_before_what_was_estimated():
    both = [{MEASURED: 1.0, ESTIMATED: 2.0}]
    assert kappa_of(FLAT, both)[0] == MEASURED
    assert kappa_of(FLAT, both[:0]) is None
    assert kappa_of(FLAT, [{ESTIMATED: 2.0}])[1] == "kappa of expand, mean over the epoch"
    features = {**FLAT, "penalty.normalize": "features"}
    assert "number of features" in kappa_of(features, [{ESTIMATED: 2.0}])[1]
    assert kappa_of({"penalty.kind": "weight_decay"}, [{ESTIMATED: 2.0}]) is None


def test_the_course_has_the_epochs_that_were_validated():
    rows = [{"epoch": 1, **ROW, ESTIMATED: 3.0}, {"epoch": 2, "train/loss": 0.3, ESTIMATED: 2.0}]
    (point,) = course(FLAT, rows).points[""]
    assert (point.name, point.kappa, round(point.gap, 6)) == ("1", 3.0, 0.1)


def test_runs_are_compared_at_the_epoch_that_was_evaluated(tmp_path):
    rows = [{**ROW, ESTIMATED: 3.0}, {"train/loss": 0.1, "val/loss": 0.6, ESTIMATED: 2.0}]
    for number, epoch in enumerate((1, 2)):
        run_of(tmp_path, f"r{number}", rows, epoch=epoch)
    run_of(tmp_path, "plain", [ROW], settings=("penalty={kind: none}",))
    runs = find_runs([tmp_path]).runs
    found = gaps({"FAM": [r for r in runs if not r.plain], "plain": [r for r in runs if r.plain]})
    pairs = sorted((point.kappa, round(point.gap, 6)) for point in found.points["FAM"])
    assert pairs == [(2.0, 0.5), (3.0, 0.1)]
    assert found.missing == ("plain",)


def test_the_gap_of_the_evaluation_is_taken_where_all_runs_have_it(tmp_path):
    for name in ("a", "b"):
        run_of(tmp_path, name, [{**ROW, MEASURED: 3.0}], metrics={"test/gap_loss": 0.7})
    found = gaps({"FAM": find_runs([tmp_path]).runs})
    assert found.gap == TEST_GAP
    assert {point.gap for point in found.points["FAM"]} == {0.7}


def test_one_run_makes_no_comparison(tmp_path):
    run_of(tmp_path, "a", [{**ROW, MEASURED: 3.0}])
    assert gaps({"FAM": find_runs([tmp_path]).runs}) is None


def test_a_run_shows_both_losses_in_one_figure_and_kappa_against_the_gap(tmp_path):
    rows = [{**ROW, "val/dsc": 0.5, "val/depth_mm": 3.0, "val/n": 4, ESTIMATED: 3.0}] * 2
    images = {image.title: image for image in run_page(run_of(tmp_path, "a", rows)).images}
    loss = images["Loss"].content.decode()
    assert ">training<" in loss
    assert ">validation (n = 4)<" in loss
    assert "loss, mean per sample" in loss
    gap = images["Kappa against the generalization gap"].content.decode()
    assert "validation loss minus training loss" in gap
    assert "DSC (0 to 1)" in images["Validation (n = 4): DSC"].content.decode()
    assert "depth (mm)" in images["Validation (n = 4): depth"].content.decode()
    assert "relative flatness kappa, unit of the loss" in images["Penalty"].content.decode()
