from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from ignite.engine import Engine
from metric_ranks import case, figures
from monai.data import MetaTensor, list_data_collate
from monai.handlers import IgniteMetricHandler

from famseg.evaluation import SkullMetric
from famseg.metrics import SCORES, border_dice, score

SPACING = (1.0, 1.0, 2.0)


@pytest.fixture
def batch():
    pairs = [case(index) for index in range(4)]
    return tuple(torch.stack(each) for each in zip(*pairs, strict=True))


@pytest.mark.parametrize("name", SCORES)
def test_each_score_has_its_twin(batch, name):
    prediction, truth = batch
    skull = torch.ones_like(truth) - truth
    metric = SkullMetric(name, spacing_mm=SPACING)
    found = metric(prediction, truth, defective=skull)
    wanted = [
        getattr(score(p[0], t[0], SPACING, defective=d[0]), name)
        for p, t, d in zip(prediction, truth, skull, strict=True)
    ]
    assert found[:, 0].tolist() == wanted
    assert metric.aggregate().item() == pytest.approx(np.mean(wanted))
    assert metric.report()[name] == {
        "mean": pytest.approx(np.mean(wanted)),
        "std": pytest.approx(np.std(wanted)),
        "n": 4,
        "failed": 1,
    }


def test_batches_lists_and_single_cases_give_the_same(batch):
    prediction, truth = batch
    metrics = [SkullMetric(("hd_mm", "dsc"), spacing_mm=SPACING) for _ in range(3)]
    whole = metrics[0](prediction, truth)
    metrics[1](list(prediction), list(truth))
    for index in range(4):
        metrics[2](prediction[index : index + 1], truth[index : index + 1])
    assert whole.shape == (4, 1, 2)
    for metric in metrics:
        assert torch.equal(metric.aggregate("none"), whole)
        assert len(metric) == 4
        assert torch.equal(metric.aggregate(), whole.mean((0, 1)))


def test_channels_and_reductions(batch):
    prediction, truth = batch
    one_hot = [torch.cat([1 - mask, mask, mask], dim=1) for mask in (prediction, truth)]
    metric = SkullMetric("dsc", spacing_mm=SPACING, include_background=False)
    values = metric(*one_hot)
    assert values.shape == (4, 2)
    assert torch.allclose(metric.aggregate("mean_batch"), values.mean(0))
    assert torch.equal(metric.aggregate("none"), values)
    assert metric.report()["dsc"]["n"] == 8
    assert metric.report()["dsc"]["failed"] == 2


def test_the_spacing_is_that_of_the_affine(batch):
    prediction, truth = batch
    affines = [torch.diag(torch.tensor([-2.0, 1.0, edge, 1.0])) for edge in (1.0, 3.0)]
    items = [
        {"pred": MetaTensor(prediction[index], affine=affine), "label": truth_of(index, affine)}
        for index, affine in zip((1, 2), affines, strict=True)
    ]
    wanted = [[2.0], [4.0]]  # shifts by one and two voxels of 2 mm along the first axis
    collated = list_data_collate(items)
    assert SkullMetric("hd_mm")(collated["pred"], collated["label"]).tolist() == wanted
    listed = [[item[key] for item in items] for key in ("pred", "label")]
    assert SkullMetric("hd_mm")(*listed).tolist() == wanted
    single = MetaTensor(truth[1:2], affine=affines[0])
    assert SkullMetric("hd_mm")(prediction[1:2], single).tolist() == wanted[:1]
    given = SkullMetric("hd_mm")(*listed, spacing_mm=(1, 1, 1))
    assert given.tolist() == [[1.0], [2.0]]


def truth_of(index, affine):
    return MetaTensor(case(index)[1], affine=affine)


def test_an_unknown_spacing_is_never_taken_for_one_millimeter(batch):
    with pytest.raises(ValueError, match=r"spacing is unknown: the reference has no affine\. Give"):
        SkullMetric("hd_mm")(*batch)


def test_the_border_needs_the_defective_skull(batch):
    prediction, truth = batch
    metric = SkullMetric("bdsc", spacing_mm=SPACING)
    with pytest.raises(ValueError, match=r"bdsc needs the skull with the defect: call the metric"):
        metric(prediction, truth)
    skull = 1 - truth
    found = metric(prediction, truth, defective=list(skull))
    assert found[1, 0] == border_dice(prediction[1, 0], truth[1, 0], skull[1, 0], SPACING)
    assert SkullMetric("roughness_mm", spacing_mm=SPACING, kind="implant")(prediction, truth)[0] > 0


def test_it_works_in_monai_s_handler(batch):
    prediction, truth = batch
    engine = Engine(lambda engine, index: ([prediction[index]], [truth[index]]))
    handler = IgniteMetricHandler(SkullMetric("hd95_mm", spacing_mm=SPACING))
    handler.attach(engine, "hd95")
    engine.run([0, 1, 3], max_epochs=2)
    wanted = [score(*(m[0] for m in case(index)), SPACING).hd95_mm for index in (0, 1, 3)]
    assert engine.state.metrics["hd95"] == pytest.approx(np.mean(wanted))


def test_undefined_scores_stay_undefined(batch):
    metric = SkullMetric("hd_mm", spacing_mm=SPACING, empty="nan")
    metric(*batch)
    assert metric.aggregate().isnan()
    assert metric.report()["hd_mm"]["failed"] == 1
    metric.reset()
    metric(batch[0][:2], batch[1][:2])
    assert metric.aggregate() == 0.5


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: SkullMetric("hd96_mm"), r"metric is 'hd96_mm'\. Choose from dsc, bdsc, hd_mm"),
        (lambda: SkullMetric(()), "metric is none. Choose from"),
        (lambda: SkullMetric("dsc").aggregate(), "no case has been scored yet"),
        (
            lambda: SkullMetric("dsc", spacing_mm=SPACING)(*(torch.ones(1, 4, 4, 4),) * 2),
            r"must have shape \(B, C, X, Y, Z\) or be lists of",
        ),
    ],
)
def test_faulty_use_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()


@pytest.mark.slow
def test_the_number_of_processes_does_not_matter():
    """Three and two cases for two processes; in the second epoch one of them has none."""
    ranks = warm.run_ranks(2, str(Path(__file__).parents[1].joinpath("metric_ranks.py")))
    assert [done.returncode for done in ranks] == [0, 0]
    alone = figures(list(range(5)))
    assert alone[:3] == alone[3:]
    assert alone[2] == 5
    assert [json.loads(done.stdout) for done in ranks] == [alone, alone]
