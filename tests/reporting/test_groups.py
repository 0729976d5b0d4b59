from __future__ import annotations

import pytest
from made_runs import BASELINE, FAM, SAM, make_run

from famseg.reporting import find_runs, studies

DECAY = ("penalty={kind: weight_decay, layer: expand, lambda: 0.01}",)


def names(folder):
    (study,) = studies(find_runs([folder]).runs)
    return [group.name for group in study.groups], study.usual


def make(folder, *configurations):
    for number, settings in enumerate(configurations):
        make_run(folder, f"run{number}", settings=settings, metrics={"x": 1.0})


def test_methods_are_named_in_words_and_in_the_order_of_their_numbers(tmp_path):
    asam = (*BASELINE, "sam={rho: 0.5, adaptive: true}")
    make(tmp_path, ["lambda=2"], DECAY, SAM, ["lambda=10"], asam, BASELINE, ["lambda=1e-5"])
    assert names(tmp_path) == (
        [
            "baseline",
            "ASAM rho=0.5",
            "FAM lambda=1e-05",
            "FAM lambda=2",
            "FAM lambda=10",
            "SAM rho=0.05",
            "weight decay of expand lambda=0.01",
        ],
        (),
    )


def test_baselines_of_the_field_are_told_apart_and_are_no_baseline_of_a_comparison(tmp_path):
    ways = [
        "sam={kind: gsam}",
        "sam={kind: gsam, alpha: 0.2}",
        "sam={kind: gsam, rho_min: 0.02}",
        "sam={kind: wsam}",
        "sam={kind: looksam}",
        "nso={}",
        "nso={pairs: 2}",
        "training={epochs: 4, swa: {}}",
        "penalty={kind: jacobian_norm}",
    ]
    make(tmp_path, BASELINE, SAM, *[(*BASELINE, way) for way in ways])
    (study,) = studies(find_runs([tmp_path]).runs)
    assert [group.name for group in study.groups if group.plain] == ["baseline"]
    assert [group.name for group in study.groups if not group.plain] == [
        "GSAM rho=0.05 alpha=0.2",
        "GSAM rho=0.05 alpha=0.4",
        "GSAM rho=0.05 alpha=0.4, sam.rho_min=0.02",
        "Jacobian norm lambda=0.01",
        "LookSAM rho=0.1 every=10 alpha=0.7",
        "NSO sigma=0.01 pairs=1",
        "NSO sigma=0.01 pairs=2",
        "SAM rho=0.05",
        "SWA start=0.75 every=1, training.epochs=4",
        "WSAM rho=0.05 gamma=0.9",
    ]


@pytest.mark.parametrize(
    ("configurations", "expected", "usual"),
    [
        # A value that most share is left out of the names.
        (
            [BASELINE, FAM, [*FAM, "training.batch_size=4"]],
            ["baseline", "FAM lambda=0.1", "FAM lambda=0.1, training.batch_size=4"],
            ("training.batch_size=2",),
        ),
        # Without a majority each says its own.
        (
            [FAM, [*FAM, "optimizer.learning_rate=0.1"]],
            [
                "FAM lambda=0.1, optimizer.learning_rate=0.001",
                "FAM lambda=0.1, optimizer.learning_rate=0.1",
            ],
            (),
        ),
        # What only the penalties have does not set the baseline apart.
        (
            [BASELINE, [*FAM, "penalty.every=1"], [*FAM, "penalty.every=4"]],
            ["baseline", "FAM lambda=0.1, penalty.every=1", "FAM lambda=0.1, penalty.every=4"],
            (),
        ),
        # Another kind of a section is named by its kind alone.
        (
            [BASELINE, [*BASELINE, "optimizer={kind: sgd}"]],
            ["baseline, optimizer.kind=adam", "baseline, optimizer.kind=sgd"],
            (),
        ),
        # A setting that one lacks.
        (
            [*[[f"lambda={w}", "training.ema=0.9"] for w in (1, 2)], BASELINE],
            ["baseline, no training.ema", "FAM lambda=1", "FAM lambda=2"],
            ("training.ema=0.9",),
        ),
        # Labels round.
        (
            [["lambda=0.1"], ["lambda=0.10000001"]],
            ["FAM lambda=0.1", "FAM lambda=0.1 (2)"],
            (),
        ),
    ],
    ids=["majority", "no majority", "of the penalty", "kind", "absent", "rounded"],
)
def test_names_say_what_differs(tmp_path, configurations, expected, usual):
    make(tmp_path, *configurations)
    assert names(tmp_path) == (expected, usual)


def test_seeds_form_a_group_and_a_repeated_one_counts_once(tmp_path):
    for seed in (1, 0):
        make_run(tmp_path, f"a{seed}", seed=seed, metrics={"x": float(seed)})
    make_run(tmp_path, "a1-2", seed=1, metrics={"x": 9.0}, created="2026-02-02T00:00:00+00:00")
    make_run(tmp_path, "a2", seed=2, epochs=1)
    make_run(tmp_path, "a0-2", seed=0, epochs=1, created="2026-03-03T00:00:00+00:00")
    ((group,),) = (study.groups for study in studies(find_runs([tmp_path]).runs))
    assert [run.metrics["x"] for run in group.runs] == [0.0, 9.0]
    assert [run.path.name for run in group.repeated] == ["a1"]
    assert [run.path.name for run in group.unfinished] == ["a0-2", "a2"]


def test_pipelines_and_data_are_apart(tmp_path):
    make_run(tmp_path, "a", metrics={"x": 1.0})
    make_run(tmp_path, "b", metrics={"x": 1.0}, data_hash="ffff")
    make_run(tmp_path, "c", metrics={"x": 1.0}, config="pipeline: mine\nseed: 0\n")
    found = studies(find_runs([tmp_path]).runs)
    assert [study.name for study in found] == [
        "mine, data (01234567)",
        "skull, data phantom (01234567)",
        "skull, data phantom (ffff)",
    ]
    assert [len(study.groups) for study in found] == [1, 1, 1]
