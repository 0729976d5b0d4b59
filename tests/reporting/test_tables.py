from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from made_runs import BASELINE, FAM, make_run

from famseg.reporting import as_dict, compare_runs, find_runs, markdown, plain, rows, tables

ACCURACY = "test/accuracy"


@pytest.fixture
def comparison(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, f"b{seed}", seed=seed, metrics={ACCURACY: 0.5 + seed / 4})
        # A difference that is the same for both seeds: no deviation.
        make_run(tmp_path, f"f{seed}", seed=seed, settings=FAM, metrics={ACCURACY: 0.75 + seed / 4})
    make_run(tmp_path, "f2", seed=2, settings=[*FAM], epochs=1)
    make_run(tmp_path, "batch", settings=[*BASELINE, "training.batch_size=4"], epochs=0)
    return compare_runs(find_runs([tmp_path]).runs)[0]


def test_the_text_has_every_figure_in_its_column(comparison, tmp_path):
    groups, figures, differences = plain(tables(comparison)).split("\n\n")
    assert groups.splitlines() == [
        "skull, data phantom (01234567)",
        "  group                            finished  not finished  seeds  epochs  training s",
        "  baseline                                2             0    0 1       2         8.0",
        "  baseline, training.batch_size=4         0             1      -       -           -",
        "  FAM lambda=0.1                          2             1    0 1       2         8.0",
        "  unless a name says otherwise: training.batch_size=2",
        f"  not finished, left out of all results: {tmp_path}/batch (baseline, "
        "training.batch_size=4, seed "
        "0): no epoch finished",
        f"  not finished, left out of all results: {tmp_path}/f2 (FAM lambda=0.1, seed 2): 1 of 2 "
        "epochs",
        "  with 2 pairs no p value can be below 0.5 (2 / 2^2); one below 0.05 takes 6 seeds or "
        "more",
    ]
    title, header, base, fam = figures.splitlines()
    assert title == "test/accuracy (higher is better)"
    assert " ".join(header.split()) == "group n mean std s.e. 95 % interval best worst"
    wanted = "baseline 2 0.6250 0.1768 0.1250 -0.9633 to 2.2133 0.7500 0.5000"
    assert " ".join(base.split()) == wanted
    assert fam.split()[:4] == ["FAM", "lambda=0.1", "2", "0.8750"]
    title, _, fam, *definitions = differences.splitlines()
    assert title == "test/accuracy: difference to baseline, by seed"
    wanted = "FAM lambda=0.1 2 +0.2500 +0.2500 to +0.2500 0.5000 0.5000 0.5000 +inf"
    assert " ".join(fam.split()) == wanted
    assert [line.strip().partition(":")[0] for line in definitions] == [
        "scores",
        "std",
        "pairs",
        "p",
    ]


def test_markdown_has_as_many_cells_in_each_row(comparison):
    text = markdown(tables(comparison))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 5 + 4 + 3
    assert {line.count(" | ") for line in lines[:5]} == {5}
    assert "| FAM lambda=0.1 | 2 | +0.2500 | +0.2500 to +0.2500 | 0.5000 |" in text
    assert "**test/accuracy (higher is better)**\n\n| group | n |" in text


def test_json_holds_all_runs_and_nothing_that_is_not_finite(comparison):
    content = json.loads(json.dumps(as_dict([comparison]), allow_nan=False))
    (study,) = content["studies"]
    base, batch, fam = study["groups"]
    assert study["baseline"] == base["name"] == "baseline"
    assert [run["metrics"][ACCURACY] for run in fam["runs"]] == [0.75, 1.0]
    assert [(run["seed"], run["state"]) for run in fam["unfinished"]] == [(2, "1 of 2 epochs")]
    assert batch["figures"] == {}
    assert fam["figures"][ACCURACY]["mean"] == 0.875
    against = fam["against_baseline"][ACCURACY]
    assert (against["difference"], against["p_smallest"]) == (0.25, 0.5)
    assert against["cohens_dz"] is None  # infinite
    assert base["against_baseline"] == {}


def test_rows_have_the_same_columns(comparison):
    base, batch, fam = rows([comparison])
    assert list(base) == list(batch) == list(fam)
    assert (batch["n"], batch["unfinished"], batch["mean"]) == (0, 1, None)
    assert (base["seeds"], base["pairs"], base["baseline"]) == ("0 1", None, None)
    assert (fam["pairs"], fam["difference"], fam["baseline"]) == (2, 0.25, "baseline")
    assert math.isinf(fam["cohens_dz"])


@pytest.mark.parametrize(
    ("value", "cell"), [(math.nan, "-"), (0.0, "<0.0001"), (0.0001, "0.0001"), (1.0, "1.0000")]
)
def test_what_is_not_known_is_not_printed_as_significant(comparison, value, cell):
    ((key, pairing),) = comparison.pairings.items()
    unknown = replace(pairing, p_value=value, p_holm=value, p_wilcoxon=value)
    text = plain(tables(replace(comparison, pairings={key: unknown})))
    assert f" {cell} {cell} {cell} +inf" in " ".join(text.split())


def test_a_pipe_in_a_name_does_not_split_its_cell(comparison):
    (first, *_) = tables(comparison)
    assert "a\\|b" in markdown([type(first)("t", ("x",), (("a|b",),))])


def test_a_name_is_no_markup(comparison):
    (first, *_) = tables(comparison)
    shown = markdown([type(first)("t\nu", ("x",), (("<img src=x>`*[a](b)&\x1b",),))])
    assert "&lt;img src=x>\\`\\*\\[a\\](b)&amp;\\\\x1b" in shown
    assert "**t\\\\nu**" in shown
