from __future__ import annotations

from dataclasses import replace

import pytest
from made_runs import BASELINE, FAM, make_run

from famseg.files import write_json
from famseg.reporting import compare_runs, find_runs, plain, summary_tables, verdict_lines
from famseg.reporting._overview import overview
from famseg.reporting._power import powers
from famseg.statistics import detectable_difference, pairs_needed

DSC = "test/set1/skull/dsc"
SKULL = "test/set1/mean_skull/skull/dsc"
RATIO = "test/set1/variance_ratio"
DECAY = ("penalty={kind: weight_decay, layer: expand, lambda: 0.01}",)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One run of each method, which `compared` repeats."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in {"base": BASELINE, "fam": FAM, "decay": DECAY}.items():
        make_run(folder, name, settings=settings, metrics={DSC: 0.5})
    return find_runs([folder]).runs


@pytest.fixture
def compared(written):
    """Return what compares a baseline, FAM that scores more, and weight decay that scores less."""

    def compare(*, ratio=0.2, skull=0.5, seeds=8, gain=0.1):
        runs = []
        for seed in range(seeds):
            wave = 0.004 * (seed % 3)
            base = {DSC: 0.6 + 2 * wave, SKULL: skull, RATIO: 0.8 + wave, "test/gap_loss": 0.1}
            changes = {
                "base": {},
                "fam": {DSC: 0.6 + gain + wave, RATIO: ratio + wave},
                "decay": {DSC: 0.6 + wave},
            }
            for run in written:
                metrics = base | changes[run.path.name]
                path = run.path.parent / f"{run.path.name}{seed}"
                runs.append(replace(run, seed=seed, path=path, metrics=metrics))
        (comparison,) = compare_runs(runs, metrics=[DSC])
        return comparison

    return compare


def test_controls_and_the_mean_skull_are_in_one_table(compared):
    found = overview(compared(), DSC)
    names = [line.name for line in found.lines]
    assert names[0] == "baseline"
    assert names[-1] == "mean skull"
    assert any(name.startswith("weight decay of expand") for name in names)
    base, skull = found.lines[0], found.lines[-1]
    assert (base.score.n, base.gap.mean) == (8, pytest.approx(0.1))
    assert base.ratio.mean == pytest.approx(0.8035)
    assert skull.score.mean == 0.5


def test_a_gain_with_a_smaller_variance_ratio_is_a_collapse(compared):
    comparison = compared()
    assert [x.name for x in overview(comparison, DSC).lines if x.collapsed] == ["FAM lambda=0.1"]
    lines = list(verdict_lines(comparison))
    (line,) = [each for each in lines if each.startswith("collapse")]
    assert "FAM lambda=0.1: the gain comes with a variance ratio of 0.204" in line
    table = plain(summary_tables(comparison)[:1], width=80).splitlines()
    assert "  !: a gain with a smaller variance ratio" in table


@pytest.mark.parametrize("change", [{"ratio": 0.79}, {"gain": -0.1}])
def test_no_gain_and_no_loss_of_variance_are_no_collapse(compared, change):
    assert not any("collapse:" in each for each in verdict_lines(compared(**change)))


@pytest.mark.parametrize(("skull", "said"), [(0.9, True), (0.69, False)])
def test_what_does_not_beat_the_mean_skull_is_said(compared, skull, said):
    lines = verdict_lines(compared(skull=skull, seeds=2))
    assert any("no group beats the mean skull (0.900)" in each for each in lines) == said


def test_controls_that_are_missing_are_named(compared):
    (line,) = [each for each in verdict_lines(compared()) if each.startswith("controls")]
    assert line.startswith("controls that are not among the runs: noise of the same size (")


def test_the_verdict_says_what_the_seeds_could_have_shown(compared):
    comparison = compared()
    found = {each.group: each for each in powers(comparison, DSC, [0.05])}["FAM lambda=0.1"]
    assert (found.n, found.level) == (8, 0.025)  # two groups against the baseline
    assert found.std == pytest.approx(0.004 * 0.8345, rel=1e-3)
    assert found.detectable == detectable_difference(found.std, 8, level=0.025)
    assert found.needed == {0.05: pairs_needed(0.05, found.std, level=0.025)}
    line = next(each for each in verdict_lines(comparison) if each.startswith("FAM"))
    assert f"8 seeds could show {found.detectable:.4f}" in line


def test_few_seeds_can_show_nothing(compared):
    lines = verdict_lines(compared(seeds=5))
    assert "; it takes 7 seeds or more." in next(x for x in lines if "FAM" in x)


def test_trials_that_did_not_begin_are_named(tmp_path):
    make_run(tmp_path / "sweep" / "trials", "a", metrics={DSC: 0.5})
    write_json(tmp_path / "sweep" / "sweep.json", {"sweep_id": "s"})
    (tmp_path / "sweep" / "configs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "sweep" / "configs" / f"{name}.yaml").touch()
    notes = find_runs([tmp_path / "sweep"]).notes
    assert notes == (f"{tmp_path}/sweep: 1 trial of the sweep did not start: b",)
