from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from famseg.evaluation import case_scores, flat_metrics, summarize, table
from famseg.metrics import METRICS


@pytest.fixture
def rows(box):
    """Three cases of one set: two hits, one missed; and the baseline on the same three."""
    answers = {"a": box, "b": np.roll(box, 1, axis=0), "c": np.zeros_like(box)}
    rows = []
    for subject, answer in answers.items():
        for source, mask in (("model", answer), ("mean_skull", np.roll(box, 2, axis=0))):
            rows += case_scores(
                mask, box, box, (2.0,) * 3, subject=subject, dataset="set1", source=source
            )
    return rows


def test_figures_by_hand(rows):
    dsc = summarize(rows)["set1"]["skull"]["dsc"]
    values = [1.0, 5 / 6, 0.0]
    assert dsc["mean"] == pytest.approx(np.mean(values))
    assert dsc["std"] == pytest.approx(np.std(values))
    assert (dsc["median"], dsc["min"], dsc["max"]) == (5 / 6, 0.0, 1.0)
    assert (dsc["n"], dsc["failed"]) == (3, 1)


def test_a_missed_case_stays_in_the_mean_of_the_distances(rows):
    hd95 = summarize(rows)["set1"]["skull"]["hd95_mm"]
    assert hd95["max"] == pytest.approx(40 * np.sqrt(3))  # the image's diagonal
    assert hd95["mean"] == pytest.approx((0 + 2 + 40 * np.sqrt(3)) / 3)


def test_a_missed_implant_stays_in_the_means_of_border_and_roughness(rows):
    implant = summarize(rows)["set1"]["implant"]
    assert implant["bdsc"]["min"] == 0.0
    assert implant["roughness_mm"]["max"] == 6.0  # the radius: three voxels of 2 mm
    assert implant["components"]["mean"] == pytest.approx(2 / 3)
    assert implant["volume_difference_ml"]["min"] == pytest.approx(-0.96)  # 120 voxels of 8 mm3
    assert {implant[name]["n"] for name in ("bdsc", "roughness_mm")} == {3}


def test_a_region_without_a_metric_has_no_figures_of_it(rows):
    summary = summarize(rows)["set1"]
    assert "bdsc" not in summary["skull"]
    assert "roughness_mm" not in summary["skull"]
    assert summary["skull"]["components"]["n"] == 3
    assert "test/set1/skull/bdsc" not in flat_metrics({"set1": summary})
    assert "test/set1/implant/bdsc" in flat_metrics({"set1": summary})


def test_all_missed_is_no_perfect_score(rows):
    missed = [row for row in rows if row.failed]
    figures = summarize(missed)["set1"]["skull"]["hd95_mm"]
    assert figures["mean"] == pytest.approx(40 * np.sqrt(3))
    assert figures["failed"] == figures["n"] == 1


def test_the_baseline_stands_beside_the_model(rows):
    baseline = summarize(rows)["set1"]["mean_skull"]
    assert baseline["skull"]["dsc"]["mean"] == pytest.approx(4 / 6)
    assert baseline["skull"]["dsc"]["std"] == 0
    assert baseline["implant"]["dsc"]["n"] == 3


def test_without_a_baseline_there_is_none(rows):
    summary = summarize(row for row in rows if row.source == "model")
    assert set(summary["set1"]) == {"skull", "implant", "implant_masked"}


def test_the_order_of_the_rows_does_not_matter(rows):
    assert summarize(rows[::-1]) == summarize(rows)


def test_a_summary_is_json(rows):
    summary = summarize(rows + [replace(row, set="set2") for row in rows])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert list(summary) == ["set1", "set2"]


def test_flat_names_for_trackers(rows):
    summary = summarize(rows)
    summary["set1"]["variance_ratio"] = 0.9
    flat = flat_metrics(summary)
    assert flat["test/set1/skull/dsc"] == summary["set1"]["skull"]["dsc"]["mean"]
    assert flat["test/set1/implant/hd95_mm_std"] == summary["set1"]["implant"]["hd95_mm"]["std"]
    assert flat["test/set1/mean_skull/skull/dsc"] == pytest.approx(4 / 6)
    assert (flat["test/set1/skull/n"], flat["test/set1/skull/failed"]) == (3, 1)
    assert flat["test/set1/variance_ratio"] == 0.9


def test_an_undefined_ratio_is_not_tracked():
    assert flat_metrics({"set1": {"variance_ratio": None}}) == {}


def test_the_table_shows_units_baseline_failures_and_ratio(rows):
    summary = summarize(rows)
    summary["set1"]["variance_ratio"] = 0.1234
    lines = table(summary).splitlines()
    assert lines[0] == "set1: 3 cases, variance ratio 0.123"
    assert lines[1].split() == ["skull", "mean", "skull", "implant", "implant", "masked"]
    assert lines[2].split()[:7] == ["DSC", "0.611", "±", "0.437", "0.667", "±", "0.000"]
    assert lines[2].split()[7:] == ["0.611", "±", "0.437", "0.636", "±", "0.452"]
    shown = [metric for metric in METRICS if metric.in_scores and metric.in_cases]
    end = 2 + len(shown)
    for metric, line in zip(shown, lines[2:end], strict=True):
        assert line.strip().startswith(metric.header)
    assert lines[3].split()[:3] == ["border", "DSC", "-"]  # the whole skull has no border
    assert lines[end].split() == ["failed", "1", "0", "1", "1"]
    assert lines[end + 2] == "set1: implants of other methods"
    assert lines[end + 3].split() == ["DSC", "border", "DSC", "HD95", "mm", "failed"]
    assert lines[end + 4].split()[:5] == ["mean", "skull", "0.667", "±", "0.000"]
    assert lines[end + 5].split()[:6] == ["mean", "skull,", "masked", "0.800", "±", "0.000"]
    assert lines[end + 7].startswith("implant: everything that the prediction adds to the")
    assert "variance ratio: predictions over references" in lines[end + 9]
    assert lines[end + 10].startswith("failed: exactly one of prediction and reference")
    assert all(line == line.rstrip() and len(line) <= 88 for line in lines)


def test_the_table_has_a_block_for_each_set(rows):
    rows = [*rows, *(replace(row, set="set2") for row in rows if row.subject == "a")]
    titles = [line for line in table(summarize(rows)).splitlines() if line.startswith("set")]
    others = [f"set{number}: implants of other methods" for number in (1, 2)]
    assert titles == ["set1: 3 cases", "set2: 1 case", *others]


def test_baselines_within_an_outline_are_implants_with_few_flat_names(rows):
    implants = [row for row in rows if row.source == "mean_skull" and row.region == "implant"]
    beside = [replace(row, source="outlined_mirror") for row in implants]
    beside += [
        replace(row, source="oracle_mirror", values={**row.values, "dsc": 0.5}) for row in implants
    ]
    summary = summarize([*rows, *beside])
    flat = {name for name in flat_metrics(summary) if "mirror" in name}
    ends = ["dsc", "dsc_std", "bdsc", "bdsc_std", "hd95_mm", "hd95_mm_std", "n", "failed"]
    kinds = ("outlined_mirror", "oracle_mirror")
    assert flat == {f"test/set1/{kind}/implant/{end}" for kind in kinds for end in ends}
    lines = table(summary).splitlines()
    assert any(line.split()[:4] == ["oracle", "mirror", "0.500", "±"] for line in lines)
    assert "outlined: within the outline that the model predicts" in table(summary)


def test_the_table_explains_nothing_that_did_not_happen(rows):
    text = table(summarize(row for row in rows if row.subject == "a"))
    assert "no bone" not in text
    assert "variance" not in text


def test_the_table_says_where_the_ratio_is_undefined(rows):
    summary = summarize(rows)
    summary["set1"]["variance_ratio"] = None
    assert "set1: 3 cases, variance ratio undefined" in table(summary)
