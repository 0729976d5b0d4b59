from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import warm
from toy_cases import Boxes, mean_box, predict, run

from famseg.evaluation import (
    evaluate,
    predicted_outline,
    read_cases,
    read_shown,
    summarize,
    variance_ratio,
)
from famseg.messages import InputError
from famseg.metrics import dice
from famseg.volumes import read_volume


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    run(folder)
    return folder


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_model_and_baseline_are_scored_on_the_same_cases(folder):
    rows = read_cases(folder / "cases.csv")
    order = [(row.set, row.subject, row.source, row.region) for row in rows]
    subjects = [("set1", f"box{index}") for index in range(3)] + [("set2", "box0")]
    answers = product(("model", "mean_skull"), ("skull", "implant", "implant_masked"))
    wanted = [(*subject, *answer) for subject, answer in product(subjects, list(answers))]
    assert order == wanted
    item = Boxes(3)[2]
    label, region = (item[key][0].numpy() > 0.5 for key in ("label", "region"))
    answer = predict(item["image"][None])[0, 0].numpy() > 0.5
    by_key = dict(zip(order, rows, strict=True))
    assert by_key["set1", "box2", "model", "skull"].dsc == dice(answer, label)
    masked = by_key["set1", "box2", "model", "implant_masked"]
    assert masked.dsc == dice(answer & region, label & region)
    added = by_key["set1", "box2", "model", "implant"]
    assert added.dsc == dice(answer & ~(label & ~region), label & region)
    assert by_key["set1", "box2", "mean_skull", "skull"].dsc == dice(mean_box(), label)


def test_the_summary_is_that_of_the_rows(folder):
    summary = json.loads((folder / "summary.json").read_text())
    ratios = {name: of_set.pop("variance_ratio") for name, of_set in summary.items()}
    assert summary == summarize(read_cases(folder / "cases.csv"))
    assert ratios["set2"] is None  # one case does not vary
    items = [Boxes(3)[index] for index in range(3)]
    outputs = [predict(item["image"][None])[0] > 0.5 for item in items]
    assert ratios["set1"] == variance_ratio(outputs, [item["label"] for item in items])


def test_a_missed_case_is_counted(folder):
    skull = json.loads((folder / "summary.json").read_text())["set1"]["skull"]
    assert (skull["dsc"]["failed"], skull["dsc"]["n"], skull["dsc"]["min"]) == (1, 3, 0.0)
    assert skull["hd95_mm"]["max"] == pytest.approx(24 * np.sqrt(3))


@pytest.mark.slow
def test_files_are_the_same_every_time(folder, tmp_path):
    shown = {f"shown/{name}" for name in ("1.nii.gz", "2.nii.gz", "3.nii.gz", "4.nii.gz")}
    tables = {"cases.csv", "summary.json", "slices.png", "slices.svg", "shown/cases.json"}
    assert set(files(folder)) == tables | shown
    run(tmp_path)
    assert files(tmp_path) == files(folder)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])  # four processes, three cases: one has none
def test_the_number_of_processes_does_not_matter(folder, tmp_path, world):
    script = str(Path(__file__).parents[1].joinpath("toy_cases.py"))
    ranks = warm.run_ranks(world, script, str(tmp_path))
    assert [done.returncode for done in ranks] == [0] * world
    assert len({done.stdout for done in ranks}) == 1  # every process has the whole result
    assert files(tmp_path) == files(folder)


def test_progress_is_told_case_by_case(tmp_path):
    told = []
    run(tmp_path, progress=lambda *news: told.append(news))
    assert told == [("set1", done, 3) for done in range(1, 4)] + [("set2", 1, 1)]


def test_a_threshold_decides_what_is_bone(tmp_path):
    strict = run(tmp_path, threshold=0.9).summary["set1"]["implant"]["dsc"]["mean"]
    assert strict == 0.0


def filled(image, outline, affine):
    """Fill the whole outline; the affine must be the item's."""
    assert affine[0, 0] == 2.0
    return outline


def test_baselines_get_the_predicted_outline_and_the_true_region(tmp_path):
    found = run(tmp_path, baselines={"mirror": filled})
    item = Boxes(3)[2]
    image, label, region = (item[key][0].numpy() > 0.5 for key in ("image", "label", "region"))
    added = predict(item["image"][None])[0, 0].numpy() > 0.5
    outline = predicted_outline(added, image)
    rows = {(row.subject, row.source): row for row in found.rows if row.region == "implant"}
    implant = label & region
    assert rows["box2", "oracle_mirror"].dsc == dice(region & ~image, implant)
    assert rows["box2", "outlined_mirror"].dsc == dice(outline & ~image, implant)
    # The model missed this box, and so did what depends on its outline.
    assert rows["box0", "outlined_mirror"].failed
    assert not rows["box0", "oracle_mirror"].failed
    regions = {row.region for row in found.rows if row.source == "oracle_mirror"}
    assert regions == {"implant"}


def test_an_unknown_baseline_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no baseline is called 'magic'"):
        run(tmp_path, baselines={"magic": filled})


def test_the_outline_is_the_large_pieces_grown_by_a_voxel():
    image = np.zeros((12, 12, 12), dtype=bool)
    output = image.copy()
    output[4:8, 4:8, 4:8] = True
    output[5, 5, 5] = False  # closed
    output[0, 0, 0] = True  # a speck
    outline = predicted_outline(output, image)
    assert np.array_equal(np.argwhere(outline).min(0), [3, 3, 3])
    assert np.array_equal(np.argwhere(outline).max(0), [8, 8, 8])
    assert outline[5, 5, 5]
    assert not predicted_outline(image, image).any()


@pytest.mark.parametrize(
    ("save", "wanted"),
    [("none", []), ("failed", ["box0"]), ("all", ["box0", "box1", "box2"])],
)
def test_completed_skulls_are_saved_where_they_are_asked_for(tmp_path, save, wanted):
    def all_or_nothing(images):
        return torch.zeros_like(images) if images.sum() < 90 else torch.ones_like(images)

    for each in ("all", save):  # what an earlier evaluation left is gone
        evaluate(all_or_nothing, {"set1": Boxes(3)}, None, tmp_path, save=each)
    files = sorted((tmp_path / "predictions").rglob("*.nii.gz"))
    assert files == [tmp_path / "predictions" / "set1" / f"{name}.nii.gz" for name in wanted]
    if save == "all":
        saved = [read_volume(path) for path in files]
        assert [each.array.mean() for each in saved] == [0, 1, 1]
        assert np.allclose(saved[2].affine, Boxes(3)[2]["affine"])


def test_the_cases_of_the_figure_can_be_turned(folder):
    cases = read_shown(folder)
    assert [case.title.split(":")[0] for case in cases] == [
        "set1, best of 3",
        "set1, median of 3",
        "set1, worst of 3",
        "set2, worst of 1",
    ]
    worst, item = cases[2], Boxes(3)[0]
    assert "box0" in worst.title
    assert "(failed)" in worst.title
    assert np.array_equal(worst.image, item["image"][0].numpy() > 0.5)
    assert np.array_equal(worst.reference, item["label"][0].numpy() > 0.5)
    assert not worst.prediction.any()
    assert cases[0].prediction.any()
    assert np.allclose(worst.affine, item["affine"])


def test_an_index_of_cases_cannot_name_files_elsewhere(tmp_path):
    assert read_shown(tmp_path) == []
    (tmp_path / "shown").mkdir()
    for text in ('{"cases": [{"file": "../a.nii.gz", "title": "a"}]}', '{"cases": 3}', "{}"):
        (tmp_path / "shown" / "cases.json").write_text(text)
        with pytest.raises(InputError, match="is not an index of cases"):
            read_shown(tmp_path)


def test_a_subject_cannot_name_a_place_elsewhere(tmp_path):
    class Elsewhere(Boxes):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "subject": "../../up/box"}

    folder = tmp_path / "evaluation"
    evaluate(predict, {"set1": Elsewhere(2)}, None, folder, save="all")
    assert (folder / "predictions/set1/up/box.nii.gz").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def test_without_a_mean_skull_there_is_no_baseline(tmp_path):
    found = evaluate(predict, {"set1": Boxes(2)}, None, tmp_path)
    assert {row.source for row in found.rows} == {"model"}
    assert "mean_skull" not in found.summary["set1"]


def test_an_old_summary_does_not_pass_for_the_new_one(folder, tmp_path):
    (tmp_path / "summary.json").write_text("{}")

    def broken(images):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(broken, {"set1": Boxes(2)}, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: x * 7 - 3, r"set1, subject box0: .*found -3 to 4\. Put a sigmoid on logits"),
        (lambda x: x[:, :, 1:], r"set1, subject box0: the output has shape \(1, 1, 11, 12, 12\)"),
        (lambda x: x / 0, "set1, subject box0: .*found nan to nan"),
    ],
)
def test_outputs_that_are_no_masks_name_the_case(tmp_path, output, message):
    with pytest.raises(ValueError, match=message):
        evaluate(output, {"set1": Boxes(2)}, None, tmp_path)


def test_a_mean_skull_of_another_size_names_the_case(tmp_path):
    with pytest.raises(ValueError, match=r"set1, subject box0: prediction has shape \(3, 3, 3\)"):
        evaluate(predict, {"set1": Boxes(2)}, np.ones((3, 3, 3)), tmp_path)


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"every evaluation set needs a case, got sizes \{'a': 0\}"
    ):
        evaluate(predict, {"a": Boxes(0)}, None, tmp_path)
    with pytest.raises(ValueError, match=r"got sizes \{\}"):
        evaluate(predict, {}, None, tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")

    def never(images):
        raise AssertionError

    with pytest.raises(InputError, match=r"file/evaluation: cannot be written to .*Choose another"):
        evaluate(never, {"a": Boxes(1)}, None, tmp_path / "file" / "evaluation")


@pytest.mark.slow
def test_real_heads(real_data, tmp_path):
    """The mean of forty heads, and a model that knows the truth up to a voxel's shift."""
    paths = sorted((real_data / "skulls" / "truncated64").glob("*.nii.gz"))
    if len(paths) < 45:
        pytest.skip(f"no 45 heads in {real_data}/skulls/truncated64")
    heads = [np.asarray(nib.load(path).dataobj) > 0.5 for path in paths]
    mean = np.mean(heads[5:], axis=0) > 0.3

    class Heads(Boxes):
        def __getitem__(self, index):
            head, region = heads[index], np.zeros_like(heads[0])
            region[20:40, 40:, 30:50] = True
            channels = {"image": head & ~region, "label": head, "region": region}
            item = {key: torch.from_numpy(mask)[None].float() for key, mask in channels.items()}
            return item | {"subject": paths[index].name, "spacing_mm": torch.full((3,), 3.5)}

    def shifted(images):
        index = next(i for i in range(5) if torch.equal(Heads(5)[i]["image"], images[0]))
        return Heads(5)[index]["label"][None].roll(1, dims=2) > 0.5

    summary = evaluate(shifted, {"set1": Heads(5)}, mean, tmp_path).summary["set1"]
    assert summary["skull"]["hd95_mm"]["max"] <= 3.5
    assert summary["skull"]["nsd"]["min"] == 1.0
    assert summary["variance_ratio"] == pytest.approx(1.0, abs=0.02)
    baseline = summary["mean_skull"]["skull"]
    assert 0.5 < baseline["dsc"]["mean"] < 0.7
    assert 5 < baseline["hd95_mm"]["mean"] < 25
