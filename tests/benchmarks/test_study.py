"""Parts of the study agree with famseg's own code, and its statistics are correct."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from famseg.evaluation import calibration
from famseg.flatness import FAM

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"
SIZES = (4, 5, 6, 3)


@pytest.fixture
def module(monkeypatch):
    """Import a part of the study by name."""
    monkeypatch.syspath_prepend(str(STUDY))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "reporting"))
    return __import__


def network(seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(m, d) for m, d in pairwise(SIZES)]
    parts = [layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2]]
    x, y = torch.randn(7, SIZES[0]), torch.arange(7) % SIZES[-1]
    return torch.nn.Sequential(*parts).double(), x.double(), y


def copies(model, number):
    return [p.detach()[None].repeat(number, *[1] * p.dim()) for p in model.parameters()]


def fam(model, x, y, layer, estimator, gradient="full"):
    """Return the penalty and its gradient by famseg."""
    options = {"estimator": estimator, "gradient": gradient}
    terms = FAM(model, layer=layer, loss=F.cross_entropy, weight=1.0, **options)(x, y)
    grads = torch.autograd.grad(terms.total - terms.loss, list(model.parameters()))
    return (terms.total - terms.loss).item(), grads


@pytest.mark.parametrize(("form", "gradient"), [("full", "full"), ("term I", "weights_only")])
def test_the_penalty_of_the_head_is_that_of_famseg(module, form, gradient):
    networks = module("_networks")
    model, x, y = network()
    layers = [p.requires_grad_() for p in copies(model, 2)]
    kappa = networks.forward(layers, x.expand(2, -1, -1), (-1, form, 1.0))[2]
    value, wanted = fam(model, x, y, "4", "closed_form", gradient)
    assert kappa.tolist() == pytest.approx([value / SIZES[2]] * 2)
    found = torch.autograd.grad(kappa[0], layers, allow_unused=True)
    for own, other in zip(found, wanted, strict=True):
        assert torch.allclose(torch.zeros_like(other) if own is None else own[0], other / SIZES[2])


def test_the_penalty_of_the_first_layer_is_that_of_famseg_on_average(module):
    networks = module("_networks")
    model, x, y = network()
    number = 4000
    layers = [p.requires_grad_() for p in copies(model, number)]
    generator = torch.Generator().manual_seed(1)
    kappa = networks.forward(layers, x.expand(number, -1, -1), (0, "full", 1.0), generator)[2]
    value, wanted = fam(model, x, y, "0", "columns")
    (found,) = torch.autograd.grad(kappa.sum(), layers[:1])
    kappa = kappa.detach()
    error = float(kappa.std()) / number**0.5
    assert abs(float(kappa.mean()) - value / SIZES[0]) < 4 * error < 0.1 * value
    spread = found.std(0) / number**0.5
    assert ((found.mean(0) - wanted[0] / SIZES[0]).abs() < 5 * spread + 1e-9).all()


def test_both_terms_of_the_gradient_add_up(module):
    networks = module("_networks")
    model, x, _ = network()
    grads = {}
    for form in ("full", "term I", "term II"):
        layers = [p.requires_grad_() for p in copies(model, 1)]
        generator = torch.Generator().manual_seed(1)
        kappa = networks.forward(layers, x[None], (0, form, 1.0), generator)[2]
        found = torch.autograd.grad(kappa.sum(), layers, allow_unused=True)
        grads[form] = [torch.zeros(()) if each is None else each for each in found]
    for whole, one, two in zip(*grads.values(), strict=True):
        assert torch.allclose(whole, one + two)
    assert not any(each.abs().sum() for each in grads["term I"][1:])  # only of the layer itself


def test_noise_adds_the_penalty_on_average(module):
    networks = module("_networks")
    model, x, y = network()
    number, weight = 4000, 1e-3
    layers = copies(model, number)
    many = x.expand(number, -1, -1)
    generator = torch.Generator().manual_seed(2)
    noisy = networks.forward(layers, many, (1, "noise", weight), generator)[0]
    plain = networks.forward(layers, many)[0]
    labels = y.expand(number, -1)
    risen = networks.cross_entropy(noisy, labels) - networks.cross_entropy(plain, labels)
    value = fam(model, x, y, "2", "columns")[0]
    error = float(risen.std()) / number**0.5
    assert abs(float(risen.mean()) - weight * value / SIZES[1]) < 4 * error


def test_scores_are_those_of_the_evaluation(module):
    networks = module("_networks")
    model, x, y = network()
    found = networks.scores(copies(model, 2), x, y)
    with torch.no_grad():
        logits = model(x)
    confidence, answer = logits.softmax(1).max(1)
    wanted = calibration(confidence.numpy(), (answer == y).numpy())
    assert float(found["ece"][1]) == pytest.approx(wanted.ece)
    assert float(found["loss"][0]) == pytest.approx(float(F.cross_entropy(logits, y)))
    assert float(found["accuracy"][0]) == pytest.approx(float((answer == y).double().mean()))


def test_each_network_is_trained_as_if_alone(module):
    networks = module("_networks")
    x, y = torch.randn(2, 20, 4), torch.randint(0, 3, (2, 20))
    settings = networks.Settings(epochs=2, batch=5)
    recipe = networks.Recipe(decay={-1: 0.1}, sam=0.05)
    both = networks.train(x, y, 3, recipe, [3, 4], settings)
    alone = networks.train(x[1:], y[1:], 3, recipe, [4], settings)
    assert all(torch.allclose(a[1:], b, atol=1e-6) for a, b in zip(both, alone, strict=True))


def test_each_problem_is_minimized(module):
    minimize = module("_lbfgs").minimize
    torch.manual_seed(0)
    scales = torch.logspace(-1, 1, 6)
    centers = torch.randn(3, 6)
    found = minimize(lambda x: (scales * (x - centers).square()).sum(1), torch.zeros(3, 6))
    assert torch.allclose(found, centers, atol=1e-4)


def test_the_strength_is_refined_and_its_end_is_noted(module):
    cells = module("_cells")
    grid = cells.decades(10)
    asked = []

    def score(value):
        asked.append(value)
        return -abs(value - 0.3)

    assert cells.tuned(grid, score) == (pytest.approx(0.316, abs=1e-3), False)
    assert len(asked) == 7
    assert cells.tuned(grid, lambda value: value) == (10, True)
    assert cells.tuned(grid, lambda value: float("nan") if value < 1 else -value)[0] == 1.0


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (0.05, 0.01, "higher"),
        (-0.05, 0.01, "lower"),
        (0.0, 0.005, "equivalent within 0.01"),
        (0.005, 0.004, "higher, within the margin"),
        (0.0, 0.1, "no difference shown, none excluded"),
    ],
)
def test_a_difference_in_words(module, mean, spread, verdict):
    cells = module("_cells")
    values = [mean + spread * each for each in (-1.5, -1, -0.5, -0.25, 0, 0, 0.25, 0.5, 1, 1.5)]
    found = cells.family({"a": cells.difference(values, [0.0] * 10)})["a"]
    assert found.verdict == verdict
    assert found.low < mean < found.high


def test_conditions_of_an_earlier_page_stay(module, tmp_path):
    cells = module("_cells")
    rows = [{"data": "a", "noise": 0.2, "n": 300, "method": m, "seed": 0} for m in ("x", "y")]
    (tmp_path / "rows.csv").write_text(cells.to_csv(rows))
    found = cells.published(tmp_path / "rows.csv")
    assert {key: list(by) for key, by in found.items()} == {("a", 0.2, 300): ["x", "y"]}
    assert cells.published(tmp_path / "none.csv") == {}


def test_diverged_networks_are_counted_not_averaged(module):
    found = module("_cells").loss_difference
    assert found([1.0, float("nan"), float("inf")], [1.0, 1.0, 1.0]) == "2 of 3 diverged"
    assert found([1.5, 1.5, 1.5], [1.0, 1.0, 1.0]) == "+0.500 [+0.500, +0.500]"


def test_networks_of_an_earlier_page_stay(module, tmp_path):
    cnns, cells = module("cnns"), module("_cells")
    network = cnns.Network(augmented=True, extra=False)
    row = {**network.key, "method": "none", "strength": 0.0, "end": 0, "seed": 1}
    scores = {"test_accuracy": 0.4, "test_loss": 2.0, "test_ece": 0.3, "train_accuracy": 1.0}
    rows = [{**row, **scores, "seed": seed} for seed in range(3)]
    (tmp_path / "study-cnns.csv").write_text(cells.to_csv(rows))
    found = cnns.published(tmp_path / "study-cnns.csv")
    assert list(found) == [network]
    cnns.write(found, tmp_path)
    text = (tmp_path / "study-cnns.md").read_text()
    assert "## With augmentation, without the extra layer" in text
    assert "| none | 0 | 1.000 | 0.4000 ± 0.0000 |" in text
    assert cnns.published(tmp_path / "none.csv") == {}


def test_a_cell_is_computed_once(module, tmp_path):
    rows = module("_cells").Rows(tmp_path)
    calls = []

    def compute():
        calls.append(1)
        return [{"seed": 0, "value": 0.5}]

    first = rows.of({"data": "a/b", "n": 3}, compute)
    assert rows.of({"data": "a/b", "n": 3}, compute) == first
    assert (len(calls), first[0]["value"], first[0]["data"]) == (1, 0.5, "a/b")


def skull_rows(method: str, strength: float, **scores: float) -> list[dict[str, object]]:
    """Return rows of three seeds whose scores differ by .01 from seed to seed."""
    return [
        {"method": method, "strength": strength, "seed": seed, "part": "test", "finished": 1}
        | {"validation": 0.6, "validation_last": 0.5, "implant_dsc": 0.1, "hd95_mm": 5.0}
        | {"implant_masked_dsc": 0.4}
        | {name: value + 0.01 * (name.startswith("dsc")) * seed for name, value in scores.items()}
        for seed in range(3)
    ]


@pytest.mark.parametrize(("skull", "passed"), [(0.4, True), (0.9, False)])
def test_a_baseline_that_does_not_beat_the_mean_skull_is_uninformative(module, skull, passed):
    skulls = module("skulls")
    base = {"dsc": 0.6, "dsc_set2": 0.59, "mean_skull_dsc": skull, "variance_ratio": 0.8}
    fam = base | {"dsc": 0.7, "dsc_set2": 0.70001}
    rows = [*skull_rows("baseline", 0.0, **base), *skull_rows("FAM", 1.0, **fam)]
    by = skulls.methods(rows)
    assert skulls.gate(by["baseline"])[0] is passed
    assert ("**the cell is uninformative**" in skulls.page(rows)) is not passed
    assert "| FAM, 1 (end) | 3 of 3 | 0.00001 |" in skulls.signature(by)
    assert "| baseline | 0 of 3 | 0.01000 |" in skulls.signature(by)
    assert "| FAM, 1 (end) | 3 | +0.1000 " in skulls.at_equal_variance(by)


def test_eight_seeds_can_show_a_difference_in_each_family(module):
    skulls = module("skulls")
    base = {"dsc": 0.6, "dsc_set2": 0.59, "mean_skull_dsc": 0.5, "variance_ratio": 0.8}
    arms = [(name, value) for name, arm in skulls.ARMS.items() for value in arm.strengths[-5:]]
    tuned = {name: arm.strengths[0] for name, arm in skulls.ARMS.items() if arm.tuned}
    rows = [
        row | {"seed": seed, "dsc": 0.6 + 0.1 * (name != "baseline") + 0.001 * seed}
        for name, value in arms
        if tuned.get(name, value) == value
        for seed in skulls.SEEDS
        for row in skull_rows(name, value, **base)[:1]
    ]
    found = skulls.against_baseline(skulls.methods(rows))
    assert len(found) == 13
    assert {each.verdict for each in found.values()} == {"higher"}


def test_a_training_that_failed_is_counted_and_never_the_best(module):
    skulls = module("skulls")
    base = {"dsc": 0.6, "dsc_set2": 0.59, "mean_skull_dsc": 0.5, "variance_ratio": 0.8}
    rows = [*skull_rows("baseline", 0.0, **base), *skull_rows("as released", 0.02, **base)]
    lost = {"method": "as released", "strength": 0.02, "seed": 3, "part": "test", "finished": 0}
    text = skulls.scores_table(skulls.methods([*rows, lost]))
    assert "| as released, 0.02 | 3 (1 failed) | 0.6100 " in text
    tuned = {"method": "FAM", "part": "tuning", "validation_last": 0.1, "variance_ratio": 0.5}
    tuning = [
        {**tuned, "strength": 0.1, "finished": 1, "validation": 0.2},
        {**tuned, "strength": 1.0, "finished": 0},
    ]
    assert skulls.best(tuning) == 0.1
    text = skulls.tuning_table([*rows, *tuning])
    assert "| FAM | 0.1 | 1 of 1 | 0.2000 | 0.1000 | 0.5000 |" in text
    assert "| FAM | 1 | 0 of 1 | - | - | - |" in text


def test_traits_are_compared_within_a_seed(module):
    mechanism = module("mechanism")
    rows = [
        {"seed": seed, "a": 10 * seed + k, "b": k**3, "c": -k, "d": (k * 7) % 5}
        for seed in range(2)
        for k in range(5)
    ]
    assert mechanism.within_seeds(rows, "a", "b").tolist() == pytest.approx([1.0, 1.0])
    assert mechanism.within_seeds(rows, "a", "c").tolist() == pytest.approx([-1.0, -1.0])
    lost = {"seed": 0, "a": 99, "b": 0, "robustness": float("nan")}  # it diverged
    assert mechanism.within_seeds([*rows, lost], "a", "b").tolist() == pytest.approx([1.0, 1.0])
    left = mechanism.within_seeds(rows, "a", "b", beside=["d"])
    assert left.tolist() == pytest.approx([1.0, 1.0])


def test_a_page_of_what_is_there_trains_nothing_and_loses_nothing(module, tmp_path):
    skulls, name = module("skulls"), "noise on the code"
    strengths = skulls.ARMS[name].strengths

    def cell(part, strength, seed):
        return {"method": name, "strength": strength, "seed": seed, "part": part}

    known = [
        *(cell("tuning", strengths[0], seed) | {"finished": 1} for seed in skulls.TUNING),
        cell("test", strengths[0], 2) | {"finished": 0},
        cell("test", strengths[1], 1) | {"finished": 0},
        {"method": "FAM"},
    ]
    rows = skulls.Rows(tmp_path / "skulls" / "rows")
    for part, seed in (("tuning", 101), ("test", 1)):
        rows.of(cell(part, strengths[1], seed), lambda: [{"finished": 1, "dsc": 0.5}])
    found = skulls.rows_there(name, tmp_path, known)
    assert [(row["part"], row["strength"], row["seed"], row["finished"]) for row in found] == [
        *(("tuning", strengths[0], seed, 1) for seed in skulls.TUNING),
        ("tuning", strengths[1], 101, 1),
        ("test", strengths[0], 2, 0),  # what failed stays
        ("test", strengths[1], 1, 1),  # and succeeded since
    ]
