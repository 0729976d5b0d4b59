from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from famseg.config import Strict
from famseg.flatness import FAM, Terms
from famseg.messages import InputError
from famseg.objectives import (
    CrossEntropyConfig,
    DiceCEConfig,
    DiceConfig,
    DiceFocalConfig,
    JacobianNormConfig,
    LayerDecay,
    NoPenaltyConfig,
    Objective,
    PlainLoss,
    RelativeFlatnessConfig,
    TverskyConfig,
    WeightDecayConfig,
)

BATCH = {"image": torch.randn(5, 3), "label": torch.randn(5, 2)}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def mse(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(outputs, targets)


def test_the_plain_objective_is_the_loss() -> None:
    model = net()
    terms = Objective(PlainLoss(model, loss=mse))(BATCH)
    assert terms.total is terms.loss
    assert terms.loss.item() == pytest.approx(mse(model(BATCH["image"]), BATCH["label"]).item())


def test_lambda_zero_is_exactly_the_baseline() -> None:
    def trained(objective: Objective) -> torch.Tensor:
        objective(BATCH).total.backward()
        return torch.cat([p.grad.flatten() for p in objective.parameters()])

    plain = trained(Objective(PlainLoss(net(), loss=mse)))
    zero = trained(Objective(FAM(net(), layer="2", loss=mse, weight=0.0)))
    assert torch.equal(plain, zero)


def test_layer_decay_adds_the_squared_norm_and_its_gradient() -> None:
    model = net()
    objective = Objective(LayerDecay(model, layer="2", loss=mse, weight=0.5))
    terms = objective(BATCH)
    norm = model[2].weight.detach().square().sum()
    assert terms.penalty.item() == pytest.approx(float(norm))
    assert terms.total.item() == pytest.approx((terms.loss + 0.5 * norm).item())
    (decay,) = torch.autograd.grad(terms.total - terms.loss, model[2].weight)
    torch.testing.assert_close(decay, model[2].weight.detach())


def test_the_objective_knows_weight_and_period() -> None:
    objective = Objective(FAM(net(), layer="2", loss=mse, weight=0.1, every=4))
    assert (objective.weight, objective.period) == (0.1, 4)
    assert Objective(PlainLoss(net(), loss=mse)).weight == 0


def test_seek_decides_which_steps_are_penalized() -> None:
    objective = Objective(FAM(net(), layer="2", loss=mse, weight=0.1, every=3))
    seen = []
    for step in (0, 1, 3, 5, 6):
        objective.seek(step)
        seen.append(objective(BATCH).penalty is not None)
    assert seen == [True, False, True, False, True]


@pytest.mark.parametrize("kind", ["relative_flatness", "weight_decay"])
def test_an_unknown_layer_names_its_key_and_near_names(kind: str) -> None:
    section = {"relative_flatness": RelativeFlatnessConfig, "weight_decay": WeightDecayConfig}[kind]
    config = section.model_validate({"kind": kind, "layer": "expnd", "lambda": 0.1})
    model = nn.Sequential()
    model.add_module("expand", nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"penalty\.layer: .*expnd.*expand"):
        config.build(model, mse, seed=0)


def test_a_negative_lambda_takes_a_ceiling_which_limits_what_it_gains() -> None:
    section = {"layer": "2", "lambda": -0.1}
    wanted = r"must be at least 0, got -0\.1\. .*\(arXiv 2509\.17738\).* needs penalty\.ceiling"
    with pytest.raises(ValueError, match=wanted):
        RelativeFlatnessConfig.model_validate(section)
    model = net()
    features = model[:2](BATCH["image"])
    kappa = features.square().sum(1) * model[2].weight.square().sum()  # mse of two outputs
    ceiling = kappa.median().item()
    config = RelativeFlatnessConfig.model_validate(section | {"ceiling": ceiling})
    terms = config.build(model, mse, seed=0)(BATCH["image"], BATCH["label"])
    assert terms.penalty.item() == pytest.approx(kappa.clamp(max=ceiling).mean().item())
    assert terms.total.item() == pytest.approx((terms.loss - 0.1 * terms.penalty).item())


@pytest.mark.parametrize("section", [WeightDecayConfig, JacobianNormConfig])
def test_no_other_penalty_takes_a_negative_lambda(section: type[Strict]) -> None:
    kind = {WeightDecayConfig: "weight_decay", JacobianNormConfig: "jacobian_norm"}[section]
    layer = {"layer": "2"} if section is WeightDecayConfig else {}
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        section.model_validate({"kind": kind, "lambda": -0.1} | layer)


@pytest.mark.parametrize(("estimator", "period"), [("auto", 4), ("hutchinson", 1)])
def test_only_auto_thins_out(estimator: str, period: int) -> None:
    section = {"layer": "0", "lambda": 1e-6, "estimator": estimator}
    fam = RelativeFlatnessConfig.model_validate(section).build(net(), mse, seed=0)
    fam(BATCH["image"], BATCH["label"])
    assert fam.period == period


def test_no_penalty_builds_the_plain_loss() -> None:
    terms = NoPenaltyConfig(kind="none").build(net(), mse, seed=0)
    assert isinstance(terms, PlainLoss)


@pytest.mark.parametrize(
    "config",
    [
        DiceConfig(),
        DiceConfig(squared=True),
        DiceCEConfig(kind="dice_ce", ce_weight=0.5),
        DiceFocalConfig(kind="dice_focal"),
        TverskyConfig(kind="tversky", alpha=0.3, beta=0.7),
    ],
    ids=lambda config: config.kind,
)
def test_losses_fall_towards_the_truth_and_scale(config: DiceConfig) -> None:
    truth = (torch.rand(2, 1, 4, 4, 4) > 0.5).float()
    loss = config.build()
    good, bad = loss(6 * (2 * truth - 1), truth), loss(6 * (1 - 2 * truth), truth)
    assert float(good) < 0.1 < float(bad)
    scaled = config.model_copy(update={"scale": 80.0}).build()
    assert float(scaled(-truth, truth)) == pytest.approx(80 * float(loss(-truth, truth)))


def test_the_voxels_inside_weigh_more_in_the_cross_entropy_alone() -> None:
    truth = torch.zeros(1, 1, 2, 2, 2)
    truth[0, 0, 0] = 1  # half of the voxels
    options = {"kind": "dice_ce", "dice_weight": 2.0, "ce_weight": 3.0}
    plain, heavy = (
        DiceCEConfig(**options, positive_weight=weight).build()(torch.zeros_like(truth), truth)
        for weight in (1.0, 8.0)
    )
    dice = 1 - 2 * 2 / (4 + 4)
    assert float(plain) == pytest.approx(2 * dice + 3 * math.log(2), rel=1e-4)
    assert float(heavy) == pytest.approx(2 * dice + 3 * math.log(2) * (8 + 1) / 2, rel=1e-4)


def test_tversky_with_equal_halves_is_dice() -> None:
    truth = (torch.rand(2, 1, 4, 4, 4) > 0.5).float()
    logits = torch.randn(2, 1, 4, 4, 4)
    tversky = TverskyConfig(kind="tversky").build()(logits, truth)
    assert float(tversky) == pytest.approx(float(DiceConfig().build()(logits, truth)), rel=1e-4)


class Summing(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(left + right)
        return outputs


@pytest.mark.parametrize("kind", ["plain", "decay", "fam"])
def test_every_objective_calls_its_network_alike(kind: str) -> None:
    model, loss = Summing(), nn.CrossEntropyLoss()
    terms = {
        "plain": lambda: PlainLoss(model, loss=loss),
        "decay": lambda: LayerDecay(model, layer="head", loss=loss, weight=0.1),
        "fam": lambda: FAM(model, layer="head", loss=loss, weight=0.1),
    }[kind]()
    objective = Objective(terms, inputs="tokens")
    left, right, label = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])

    def run(inputs: object) -> Terms:
        found: Terms = objective({"tokens": inputs, "label": label})
        return found

    by_name = run({"left": left, "right": right})
    assert by_name.loss.item() == pytest.approx(loss(model(left, right), label).item())
    for inputs in ((left, right), [left, right], {"right": right, "left": left}):
        torch.testing.assert_close(run(inputs).total, by_name.total)


def test_cross_entropy_is_that_of_torch_with_its_options() -> None:
    logits, label = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    config = CrossEntropyConfig(label_smoothing=0.2, class_weights=[1.0, 2.0, 0.5])
    expected = nn.functional.cross_entropy(
        logits, label, weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.2
    )
    assert config.build(classes=3)(logits, label).item() == pytest.approx(expected.item())
    assert type(CrossEntropyConfig().build(classes=3)) is nn.CrossEntropyLoss  # has a closed form


def test_another_number_of_class_weights_is_refused() -> None:
    with pytest.raises(InputError, match=r"loss\.class_weights: 2 weights for 3 classes"):
        CrossEntropyConfig(class_weights=[1.0, 2.0]).build(classes=3)
