from __future__ import annotations

import os
import pickle
from itertools import islice

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from famseg.datasets import (
    BoxDefect,
    EvaluationSet,
    PreparedSkull,
    RegionDefect,
    SkullBreakDefect,
    SphereDefect,
    SpheresDefect,
    TrainingSet,
    inject,
)
from famseg.datasets.tasks import _completion as _sets
from famseg.messages import InputError

DEFECT = SpheresDefect()


def same(one: dict, two: dict) -> bool:
    return all(
        torch.equal(one[key], two[key])
        if isinstance(one[key], torch.Tensor)
        else one[key] == two[key]
        for key in one
    )


def test_an_item(skulls: list[PreparedSkull]) -> None:
    items = TrainingSet(skulls, DEFECT, seed=0)
    assert len(items) == 4
    item = items[2]
    assert set(item) == {"image", "label", "region", "subject", "spacing_mm", "affine"}
    for key in ("image", "label"):
        assert item[key].dtype == torch.float32
        assert item[key].shape == (1, 32, 32, 32)
        assert set(item[key].unique().tolist()) == {0.0, 1.0}
    assert item["region"].dtype == torch.bool
    assert item["region"].shape == (1, 32, 32, 32)
    assert np.array_equal(item["label"][0].numpy(), skulls[2].mask)
    assert torch.equal(item["image"], item["label"] * ~item["region"])
    assert item["subject"] == "s2"
    assert item["spacing_mm"].dtype == torch.float32
    assert item["spacing_mm"].tolist() == [7.0, 7.0, 7.0]
    assert item["affine"].dtype == torch.float64


def test_each_epoch_has_holes_of_its_own(skulls: list[PreparedSkull]) -> None:
    items = TrainingSet(skulls, DEFECT, seed=0)
    regions = [items[epoch * 4 + 1]["region"] for epoch in range(5)]
    assert all(items[epoch * 4 + 1]["subject"] == "s1" for epoch in range(5))
    for i, one in enumerate(regions):
        assert not any(torch.equal(one, other) for other in regions[:i])


def test_an_item_is_a_pure_function_of_seed_epoch_and_subject(
    skulls: list[PreparedSkull],
) -> None:
    items = TrainingSet(skulls, DEFECT, seed=0)
    assert same(items[13], items[13])
    assert same(items[13], TrainingSet(skulls, DEFECT, seed=0)[13])
    turned = TrainingSet(skulls[::-1], DEFECT, seed=0)
    assert same(items[8 + 1], turned[8 + 2]), "the place in the list does not matter"
    assert not torch.equal(items[13]["region"], TrainingSet(skulls, DEFECT, seed=1)[13]["region"])


def test_the_global_generators_do_not_matter_and_stay_as_they_are(
    skulls: list[PreparedSkull],
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = TrainingSet(skulls, DEFECT, seed=0)[3]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, TrainingSet(skulls, DEFECT, seed=0)[3])


@pytest.mark.slow
def test_worker_processes_change_nothing(skulls: list[PreparedSkull]) -> None:
    items = TrainingSet(skulls, DEFECT, seed=0, mirror=True)
    order = [5, 0, 11, 2]
    alone = list(DataLoader(items, batch_size=2, sampler=order))
    workers = list(DataLoader(items, batch_size=2, sampler=order, num_workers=2))
    assert len(alone) == len(workers) == 2
    assert all(same(a, b) for a, b in zip(alone, workers, strict=True))


def test_a_set_can_be_sent_to_another_process(skulls: list[PreparedSkull]) -> None:
    for items in (TrainingSet(skulls, DEFECT, seed=0), EvaluationSet(skulls, DEFECT, seed=0)):
        assert same(pickle.loads(pickle.dumps(items))[1], items[1])  # noqa: S301 - our own bytes


def test_iteration_ends_after_one_epoch(skulls: list[PreparedSkull]) -> None:
    items = TrainingSet(skulls, DEFECT, seed=0)
    assert [item["subject"] for item in islice(items, 99)] == ["s0", "s1", "s2", "s3"]


def test_mirrored_cases_are_decided_by_seed_epoch_and_subject(
    skulls: list[PreparedSkull],
) -> None:
    plain = TrainingSet(skulls, DEFECT, seed=0)
    items = TrainingSet(skulls, DEFECT, seed=0, mirror=True)
    flips = []
    for index in range(40):
        label, whole = items[index]["label"], plain[index]["label"]
        flips.append(not torch.equal(label, whole))
        assert torch.equal(label, whole.flip(1) if flips[-1] else whole)
        assert same(items[index], items[index])
    assert 8 < sum(flips) < 32


def test_evaluation_holes_are_fixed(skulls: list[PreparedSkull]) -> None:
    one = EvaluationSet(skulls, DEFECT, seed=0, name="set1")
    assert len(one) == 4
    assert one.name == "set1"
    assert same(one[2], one[2])
    assert same(one[2], EvaluationSet(skulls[2:], DEFECT, seed=0, name="set1")[0])
    region = one[2]["region"]
    assert not torch.equal(region, EvaluationSet(skulls, DEFECT, seed=0, name="set2")[2]["region"])
    assert not torch.equal(region, EvaluationSet(skulls, DEFECT, seed=1, name="set1")[2]["region"])
    assert not torch.equal(region, TrainingSet(skulls, DEFECT, seed=0)[2]["region"])


def test_evaluation_takes_the_defect_given(skulls: list[PreparedSkull]) -> None:
    small = EvaluationSet(skulls, SphereDefect(size_mm=(30.0, 30.0)), seed=0, name="set1")
    large = EvaluationSet(skulls, BoxDefect(size_mm=(80.0, 80.0)), seed=0, name="set2")
    assert all(a["region"].sum() < b["region"].sum() for a, b in zip(small, large, strict=True))


def test_an_epoch_without_a_place_for_a_hole_gets_the_one_of_the_first(
    skulls: list[PreparedSkull], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = TrainingSet(skulls, DEFECT, seed=0, mirror=True)
    plain = TrainingSet(skulls, DEFECT, seed=0)
    calls = []

    def refuse_once(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise InputError("no defect through the vault")
        return inject(*arguments)

    monkeypatch.setattr(_sets, "inject", refuse_once)
    item = items[4 * 7 + 2]
    monkeypatch.undo()
    assert same(item, plain[2])


def test_openings_by_region_train_and_evaluate(skulls: list[PreparedSkull]) -> None:
    items = TrainingSet(skulls, SkullBreakDefect(), seed=0)
    assert not torch.equal(items[1]["region"], items[5]["region"])
    fixed = EvaluationSet(skulls, RegionDefect("frontoorbital"), seed=0)
    assert same(fixed[1], EvaluationSet(skulls, RegionDefect("frontoorbital"), seed=0)[1])


def test_indices_out_of_range(skulls: list[PreparedSkull]) -> None:
    with pytest.raises(
        IndexError,
        match=r"index -1 is negative: epoch \* 4 \+ subject is "
        "expected",
    ):
        TrainingSet(skulls, DEFECT, seed=0)[-1]
    with pytest.raises(IndexError, match="index 4 is outside 0 to 3"):
        EvaluationSet(skulls, DEFECT, seed=0)[4]


@pytest.mark.parametrize("kind", [TrainingSet, EvaluationSet])
def test_faulty_arguments(kind: type, skulls: list[PreparedSkull]) -> None:
    with pytest.raises(
        ValueError, match="a data set needs at least one skull: this split is empty"
    ):
        kind([], DEFECT, seed=0)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        kind(skulls, DEFECT, seed=-1)
    odd = PreparedSkull("odd", np.zeros((8, 8, 8), np.uint8), np.eye(4))
    with pytest.raises(ValueError, match=r"skull odd has the grid \(8, 8, 8\), others have"):
        kind([*skulls, odd], DEFECT, seed=0)


@pytest.mark.parametrize("kind", [TrainingSet, EvaluationSet])
def test_skulls_without_a_vault_are_named_at_once(kind: type, skulls: list[PreparedSkull]) -> None:
    speck = np.zeros((32, 32, 32), np.uint8)
    speck[4, 5, 6] = 1
    odd = [PreparedSkull(name, speck, skulls[0].affine) for name in ("a", "b")]
    with pytest.raises(InputError) as caught:
        kind([skulls[0], *odd], DEFECT, seed=0)
    assert caught.value.faults == tuple(
        f"subject {name}: no defect through the vault in 32 draws (1 voxels of bone): look at the "
        "mask, or change elevation_deg or size_mm of the defect"
        for name in ("a", "b")
    )


def test_skulls_are_held_as_bytes(skulls: list[PreparedSkull]) -> None:
    size = len(pickle.dumps(TrainingSet(skulls, DEFECT, seed=0)))
    assert size < 4 * 32**3 * 1.1 + 10_000


@pytest.mark.slow
def test_memory_does_not_creep(skulls: list[PreparedSkull]) -> None:
    many = [PreparedSkull(f"m{i}", skulls[i % 4].mask, skulls[0].affine) for i in range(200)]
    items = TrainingSet(many, DEFECT, seed=0)
    loader = DataLoader(items, batch_size=4, num_workers=2, persistent_workers=True)
    used = []
    for _ in range(6):
        for batch in loader:
            assert batch["image"].shape[0] == 4
        me = psutil.Process(os.getpid())
        used.append(sum(p.memory_full_info().uss for p in (me, *me.children(recursive=True))))
    # Pages that the processes share at first become their own as they are touched: not counted.
    assert used[-1] < used[2] + 20e6
