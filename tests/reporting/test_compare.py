from __future__ import annotations

import math

import numpy as np
import pytest
from made_runs import BASELINE, FAM, SAM, make_run, write_class_cases
from scipy import stats

from famseg.messages import InputError
from famseg.reporting import compare_runs, find_runs, plain, tables
from famseg.reporting._pairs import _normal_sign_test
from famseg.statistics import bootstrap_interval, holm

ACCURACY = "test/accuracy"
DSC = "test/set1/implant/dsc"
BASE = [0.90, 0.93, 0.91]
BETTER = [0.92, 0.94, 0.94]


def compare(folder, **options):
    (comparison,) = compare_runs(find_runs([folder]).runs, **options)
    return comparison


def make(folder, name, settings, values, metric=ACCURACY, **options):
    for seed, value in enumerate(values):
        metrics = None if value is None else {metric: value}
        epochs = 1 if value is None else 2
        make_run(
            folder,
            f"{name}{seed}",
            seed=seed,
            settings=settings,
            metrics=metrics,
            epochs=epochs,
            **options,
        )


@pytest.fixture
def two(tmp_path):
    make(tmp_path, "base", BASELINE, BASE)
    make(tmp_path, "fam", FAM, BETTER)
    return tmp_path


def test_the_figures_are_those_of_the_textbook(two):
    found = compare(two, metrics=[ACCURACY, "seconds"]).figures["baseline", ACCURACY]
    mean, std = np.mean(BASE), np.std(BASE, ddof=1)
    low, high = stats.t.interval(0.95, 2, mean, std / math.sqrt(3))
    assert (found.n, found.mean, found.std) == (3, pytest.approx(mean), pytest.approx(std))
    assert found.standard_error == pytest.approx(std / math.sqrt(3))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.best, found.worst) == (0.93, 0.90)


def test_of_distances_and_losses_the_lowest_is_the_best(tmp_path):
    make(tmp_path, "a", BASELINE, [2.0, 1.0], metric="test/set1/skull/hd95_mm")
    (found,) = compare(tmp_path).figures.values()
    assert (found.best, found.worst) == (1.0, 2.0)


def test_one_run_has_a_mean_and_no_spread(tmp_path):
    make(tmp_path, "base", BASELINE, [0.5])
    make(tmp_path, "fam", FAM, [0.75])
    comparison = compare(tmp_path)
    found = comparison.figures["baseline", ACCURACY]
    assert (found.mean, found.std, found.standard_error, found.low) == (0.5, None, None, None)
    pairing = comparison.pairings["FAM lambda=0.1", ACCURACY]
    assert (pairing.difference, pairing.low, pairing.high) == (0.25, None, None)
    assert (pairing.p_value, pairing.p_smallest) == (1.0, 1.0)


def test_pairs_are_the_runs_of_one_seed(two):
    make_run(two, "fam7", seed=7, settings=FAM, metrics={ACCURACY: 0.1})  # has no partner
    comparison = compare(two)
    found = comparison.pairings["FAM lambda=0.1", ACCURACY]
    differences = np.subtract(BETTER, BASE)
    mean, error = differences.mean(), differences.std(ddof=1) / math.sqrt(3)
    assert (found.seeds, found.n) == ((0, 1, 2), 3)
    assert found.difference == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, mean, error))
    assert found.p_value == found.p_smallest == found.p_wilcoxon == 0.25  # 2 of 8 sign patterns
    assert found.cohens_dz == pytest.approx(mean / differences.std(ddof=1))
    assert comparison.baseline == "baseline"
    assert comparison.notes == (
        "with 3 pairs no p value can be below 0.25 (2 / 2^3); one below 0.05 takes 6 seeds or more",
    )


def test_p_values_are_adjusted_for_the_groups_of_a_metric(tmp_path):
    rng = np.random.default_rng(0)
    for name, settings, up in (("b", BASELINE, 0.0), ("f", FAM, 0.02), ("s", SAM, 0.01)):
        make(tmp_path, name, settings, (0.5 + up + rng.normal(0, 0.01, 8)).tolist())
    found = compare(tmp_path).pairings
    raw = [pairing.p_value for pairing in found.values()]
    assert len(raw) == 2
    assert [pairing.p_holm for pairing in found.values()] == pytest.approx(holm(raw))
    assert compare(tmp_path).notes == ()  # 8 pairs are enough for p below 0.05


def test_runs_that_did_not_finish_are_named_and_in_no_figure(two):
    make(two, "sam", SAM, [0.9, None])
    comparison = compare(two)
    assert comparison.figures["SAM rho=0.05", ACCURACY].n == 1
    assert (
        f"not finished, left out of all results: {two}/sam1 (SAM rho=0.05, seed 1): 1 of 2 epochs"
        in comparison.notes
    )


def test_a_repeated_run_and_a_missing_metric_are_named(two):
    make_run(two, "again", seed=0, metrics={ACCURACY: 0.5}, created="2027-01-01T00:00:00+00:00")
    make_run(two, "lacks", seed=5, settings=FAM, metrics={"other": 0.5})
    comparison = compare(two, metrics=[ACCURACY])
    reason = "because a later run has the same seed"
    left_out = f"left out of all results, {reason}: {two}/base0 (baseline, seed 0)"
    assert left_out in comparison.notes
    assert f"{ACCURACY}: not in 1 run of FAM lambda=0.1: {two}/lacks" in comparison.notes
    assert comparison.figures["baseline", ACCURACY].mean == pytest.approx((0.5 + 0.93 + 0.91) / 3)


def test_metrics_are_those_of_the_pipeline_or_the_first_scores(tmp_path):
    numbers = {DSC: 0.7, f"{DSC}_std": 0.1, "test/set1/skull/dsc": 0.8, "test/set1/skull/n": 9.0}
    make_run(tmp_path, "a", metrics=numbers)
    other = {"test/n": 3.0, ACCURACY: 0.9, f"{ACCURACY}_low": 0.8, "test/loss": 0.3}
    other |= {"test/failed": 0.0, f"{ACCURACY}_n": 3.0, f"{ACCURACY}_failed": 0.0}  # an older run
    make_run(tmp_path, "b", metrics=other, config="pipeline: mine\nseed: 0\n")
    mine, skull = compare_runs(find_runs([tmp_path]).runs)
    assert skull.metrics == ("test/set1/skull/dsc", DSC)
    assert mine.metrics == (ACCURACY, "test/loss")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("test/acc", r"^--metric: no run has test/acc\. Did you mean test/accuracy\?$"),
        ("dice", r"^--metric: no run has dice\. There are: test/accuracy$"),
    ],
)
def test_an_unknown_metric_is_refused_with_advice(two, metric, message):
    with pytest.raises(InputError, match=message):
        compare(two, metrics=[metric])


def test_of_many_metrics_those_that_end_alike_are_named(tmp_path):
    numbers = {f"test/set{i}/skull/{name}": 0.5 for i in range(9) for name in ("dsc", "hd_mm")}
    make_run(tmp_path, "a", metrics=numbers)
    runs = find_runs([tmp_path]).runs
    with pytest.raises(InputError) as caught:
        compare_runs(runs, metrics=["dsc"])
    named = ", ".join(f"test/set{i}/skull/dsc" for i in range(8))
    assert str(caught.value) == f"--metric: no run has dsc. There are: {named} and 1 more"
    with pytest.raises(InputError, match=r"There are: test/set0/skull/hd_mm, .* and 1 more$"):
        compare_runs(runs, metrics=["hd_m"])


def test_the_baseline_can_be_named_by_a_part(two):
    make(two, "sam", SAM, BETTER)
    comparison = compare(two, baseline="sam")
    assert comparison.baseline == "SAM rho=0.05"
    assert {group for group, _ in comparison.pairings} == {"baseline", "FAM lambda=0.1"}


def test_a_baseline_that_is_none_or_many_is_refused(two):
    with pytest.raises(InputError) as caught:
        compare(two, baseline="x")
    assert str(caught.value) == (
        "--baseline: 'x' matches the name of no group or of several. Choose "
        "one of: baseline; FAM lambda=0.1"
    )


def test_without_a_baseline_nothing_is_paired_and_it_is_said(two):
    make(two, "other", [*BASELINE, "training.batch_size=4"], BASE)
    comparison = compare(two)
    assert comparison.baseline is None
    assert comparison.pairings == {}
    assert comparison.notes[-1] == (
        "not paired: several groups have no penalty, no SAM or variant of it, no NSO and no SWA. "
        "Choose one with --baseline NAME."
    )


def test_other_data_are_another_study(two):
    make(two, "far", SAM, BETTER, data_hash="ffff")
    near, far = compare_runs(find_runs([two]).runs)
    assert {group for group, _ in near.pairings} == {"FAM lambda=0.1"}
    assert far.pairings == {}
    assert far.baseline is None


def test_groups_without_a_seed_in_common_are_not_paired(tmp_path):
    make(tmp_path, "base", BASELINE, [0.5])
    make_run(tmp_path, "fam", seed=9, settings=FAM, metrics={ACCURACY: 0.5})
    comparison = compare(tmp_path)
    assert comparison.pairings == {}
    assert comparison.notes == ("FAM lambda=0.1: not paired: no seed in common",)


@pytest.mark.parametrize("by", ["seed", "case"])
def test_other_test_cases_are_not_paired(tmp_path, by):
    make_run(tmp_path, "base", dsc=[0.5, 0.6])
    make_run(tmp_path, "fam", settings=FAM, dsc=[0.5, 0.6, 0.7])
    comparison = compare(tmp_path, by=by)
    assert comparison.pairings == {}
    assert comparison.notes == ("FAM lambda=0.1: not paired: the test cases are not the same",)


def test_cases_are_paired_by_their_mean_over_the_seeds(tmp_path):
    rng = np.random.default_rng(1)
    base, fam = rng.uniform(0.4, 0.6, (2, 30)), rng.uniform(0.45, 0.7, (2, 30))
    fam[0, 3] = 0.0  # its answer is empty: failed
    for name, settings, scores in (("base", BASELINE, base), ("fam", FAM, fam)):
        for seed in (0, 1):
            make_run(
                tmp_path, f"{name}{seed}", seed=seed, settings=settings, dsc=scores[seed].tolist()
            )
    comparison = compare(tmp_path, by="case")
    found = comparison.pairings["FAM lambda=0.1", DSC]
    order = sorted(range(30), key=lambda number: f"head{number}")
    differences = (fam.mean(0) - base.mean(0))[order]
    interval = bootstrap_interval(differences)
    assert (found.n, found.failed, found.seeds) == (30, 1, (0, 1))
    assert found.difference == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value < 0.01
    assert comparison.notes == ()


def test_many_cases_are_compared_without_resampling(tmp_path):
    rng = np.random.default_rng(2)
    answers = {name: rng.random(1500) < share for name, share in (("a", 0.80), ("b", 0.84))}
    for name, settings in (("a", BASELINE), ("b", FAM)):
        path = make_run(
            tmp_path, name, settings=settings, metrics={ACCURACY: float(answers[name].mean())}
        )
        write_class_cases(path, answers[name].astype(int).tolist())
    found = compare(tmp_path, by="case").pairings["FAM lambda=0.1", ACCURACY]
    differences = answers["b"].astype(float) - answers["a"]
    changed = int(np.abs(differences).sum())
    # McNemar's test without correction: the limit that the permutation test has for 0 and 1.
    chi2 = differences.sum() ** 2 / changed
    assert found.n == 1500
    assert found.p_value == pytest.approx(stats.chi2.sf(chi2, 1))
    assert found.low < differences.mean() < found.high
    assert found.p_smallest is None


@pytest.mark.parametrize("by", ["seed", "case"])
def test_two_methods_that_are_0_everywhere_do_not_differ(tmp_path, by):
    """Networks that answer with nothing: every case has failed, in both."""
    for name, settings in (("base", BASELINE), ("fam", FAM)):
        for seed in range(6):
            make_run(tmp_path, f"{name}{seed}", seed=seed, settings=settings, dsc=[0.0] * 6)
    comparison = compare(tmp_path, by=by)
    found = comparison.pairings["FAM lambda=0.1", DSC]
    assert (found.p_value, found.p_holm, found.p_wilcoxon) == (1.0, 1.0, 1.0)
    assert (found.difference, found.low, found.high, found.cohens_dz) == (0, 0, 0, 0)
    (row,) = [line for line in plain(tables(comparison)).splitlines() if "0.0000 to" in line][2:]
    assert row.split()[-4:] == ["1.0000", "1.0000", "1.0000", "+0.00"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_many_cases_that_are_all_equal_do_not_differ(tmp_path, share):
    for name, settings in (("a", BASELINE), ("b", FAM)):
        path = make_run(tmp_path, name, settings=settings, metrics={ACCURACY: share})
        write_class_cases(path, [int(share)] * 1500)
    found = compare(tmp_path, by="case").pairings["FAM lambda=0.1", ACCURACY]
    assert (found.p_value, found.p_wilcoxon, found.low, found.high) == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_limit_for_many_pairs_does_not_depend_on_the_unit(scale):
    """60 up and 40 down of 100: the sum is 20, its deviation 10."""
    differences = np.array([scale] * 60 + [-scale] * 40)
    assert _normal_sign_test(differences) == pytest.approx(2 * stats.norm.sf(2.0), rel=1e-12)
    assert _normal_sign_test(np.zeros(3)) == 1.0


def test_a_metric_of_no_case_and_a_run_without_a_table_are_said(tmp_path):
    for name, settings in (("a", BASELINE), ("b", FAM)):
        make_run(tmp_path, name, settings=settings, dsc=[0.5, 0.6], metrics={"test/gap": 0.1})
    make(tmp_path, "s", SAM, [0.5], metric=DSC)
    comparison = compare(tmp_path, metrics=["test/gap", DSC], by="case")
    assert [name for name, _ in comparison.pairings] == ["FAM lambda=0.1"]
    assert comparison.notes[:2] == (
        "test/gap: not in 1 run of SAM rho=0.05: " + f"{tmp_path}/s0",
        "SAM rho=0.05: not paired: a run has no evaluation/cases.csv",
    )
    assert "test/gap: not paired: it is not a metric of single cases" in comparison.notes


def test_without_a_finished_run_there_is_nothing_to_compare(tmp_path):
    make(tmp_path, "a", BASELINE, [None])
    with pytest.raises(InputError) as caught:
        compare(tmp_path)
    assert caught.value.faults == (
        f"{tmp_path}/a0: not finished: 1 of 2 epochs",
        "no run is finished: there is nothing to compare. Resume with famseg train --resume.",
    )
