from __future__ import annotations

import pytest

from famseg.evaluation import failure_signs, penalty_effect_share, penalty_time_share


def history(
    *,
    losses: list[float],
    validations: list[float],
    penalty: float | None = 1.0,
    plain: float = 0.1,
    seconds: float = 1.2,
) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for epoch, (loss, validation) in enumerate(zip(losses, validations, strict=True), start=1):
        row: dict[str, float | None] = {
            "epoch": epoch,
            "train/loss": loss,
            "val/dsc": validation,
            "train/seconds": seconds,
            "train/steps": 10.0,
            "train/seconds_plain_step": plain,
        }
        if penalty is not None:
            row |= {"train/penalty": penalty, "train/seconds_penalised_step": 0.2}
        rows.append(row)
    return rows


FALLING = [0.9, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
RISING = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
STALLED = [0.1, 0.2, 0.3, 0.5, 0.5, 0.5, 0.49, 0.48]
VARIED = {"set1": 0.9, "set2": 0.8}


def signs(rows: list[dict[str, float | None]], weight: float = 0.1, **options: object) -> str:
    settings: dict[str, object] = {"variance_ratios": VARIED} | options
    return "\n".join(failure_signs(rows, weight=weight, **settings))


def test_a_good_run_shows_nothing() -> None:
    assert signs(history(losses=FALLING, validations=RISING)) == ""


def test_a_collapse_is_said_with_its_ratios() -> None:
    text = signs(history(losses=FALLING, validations=RISING), variance_ratios={"set1": 0.01})
    assert text.startswith("collapse: ")
    assert "set1 0.010" in text
    assert "Lower lambda" in text


def test_a_stalled_validation_under_a_falling_loss_is_said() -> None:
    text = signs(history(losses=FALLING, validations=STALLED))
    assert "over-regularized, or overfitting" in text
    assert "from 0.4000 to 0.1000" in text
    assert "+0.0000" in text


def test_the_same_without_a_penalty_is_overfitting() -> None:
    text = signs(history(losses=FALLING, validations=STALLED, penalty=None), weight=0.0)
    assert text.startswith("overfitting: ")


def test_an_expensive_penalty_is_said_with_its_share() -> None:
    rows = history(losses=FALLING, validations=RISING, plain=0.1, seconds=4.0)
    assert penalty_time_share(rows) == 0.75
    assert "penalty too expensive: it takes 75% of the training time" in signs(rows)
    # The first epoch, which looks at the network, says nothing of the others.
    slow = [{**rows[0], "train/seconds": 1000.0}, *rows[1:]]
    assert penalty_time_share(slow) == 0.75
    assert penalty_time_share(slow[:1]) == pytest.approx(0.999)


def test_a_penalty_without_effect_is_said_with_its_share() -> None:
    rows = history(losses=FALLING, validations=RISING, penalty=1e-7)
    assert penalty_effect_share(rows, 0.1) == pytest.approx(1e-7)
    assert "penalty without effect: lambda * kappa is 1e-07 of the loss" in signs(rows)


def test_a_small_share_of_the_loss_is_no_lack_of_effect() -> None:
    """At 0.3% the penalty's gradient was larger than the loss's; the shipped lambda has less."""
    assert signs(history(losses=FALLING, validations=RISING, penalty=5e-5)) == ""


@pytest.mark.parametrize(
    ("kind", "term", "advice"),
    [
        ("relative_flatness", "lambda * kappa", "Raise lambda, or choose another layer."),
        ("weight_decay", "lambda * ||W||^2", "Raise lambda, or choose another layer."),
        ("jacobian_norm", "lambda / 2 * ||J||^2", "Raise lambda."),
    ],
)
def test_every_kind_of_penalty_is_called_by_its_own_term(kind: str, term: str, advice: str) -> None:
    text = signs(history(losses=FALLING, validations=RISING, penalty=1e-7), kind=kind)
    assert text.startswith(f"penalty without effect: {term} is 1e-07 of the loss at the end")
    assert text.endswith(f"less than 1e-06. {advice}")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("relative_flatness", "Leave penalty.estimator at auto, or leave penalty.samples at auto"),
        ("jacobian_norm", "Set penalty.projections to 1"),
    ],
)
def test_an_expensive_penalty_gets_advice_of_its_own_keys(kind: str, advice: str) -> None:
    rows = history(losses=FALLING, validations=RISING, plain=0.1, seconds=4.0)
    assert advice in signs(rows, kind=kind)


def test_advice_names_nothing_that_is_set_already() -> None:
    rows = history(losses=FALLING, validations=RISING, plain=0.1, seconds=4.0)
    settings = {"penalty.estimator": "auto", "penalty.samples": 2}
    text = signs(rows, settings=settings)
    assert text.endswith(
        "Leave penalty.samples at auto, or set penalty.every higher (the mean gradient stays)."
    )
    text = signs(rows, settings=settings | {"penalty.samples": "auto"})
    assert text.endswith("time. Set penalty.every higher (the mean gradient stays).")
    text = signs(rows, kind="jacobian_norm", settings={"penalty.projections": 1})
    assert text.endswith("time. Leave the penalty out.")


def test_a_network_that_the_mean_skull_beats_is_called_a_failure() -> None:
    """DSC 0.145 against 0.527 got "no failure signature"."""
    metrics = {
        "test/set1/skull/dsc": 0.145,
        "test/set1/mean_skull/skull/dsc": 0.527,
        "test/set2/skull/dsc": 0.6,
        "test/set2/mean_skull/skull/dsc": 0.527,
    }
    text = signs(history(losses=FALLING, validations=RISING), metrics=metrics)
    assert text.startswith("worse than the mean skull: skull DSC set1 0.145, mean skull 0.527. ")
    assert text.endswith("Train longer or raise the learning rate; compare with lambda=0.")
    better = metrics | {"test/set1/skull/dsc": 0.7}
    assert signs(history(losses=FALLING, validations=RISING), metrics=better) == ""


def test_predictions_that_vary_far_more_than_references_are_said() -> None:
    text = signs(history(losses=FALLING, validations=RISING), variance_ratios={"set1": 3.2})
    assert text.startswith("scatter: the predictions vary more than the references")
    assert "set1 3.200" in text


def test_surplus_bone_is_said_in_litres() -> None:
    metrics = {"test/set1/implant/volume_difference_ml": 7731.0}
    text = signs(history(losses=FALLING, validations=RISING), metrics=metrics)
    assert text.startswith("surplus bone: ")
    assert "set1 7.7 l on average" in text
    lacking = {"test/set1/implant/volume_difference_ml": -7731.0}
    assert signs(history(losses=FALLING, validations=RISING), metrics=lacking) == ""


def test_weight_decay_is_never_called_expensive() -> None:
    rows = history(losses=FALLING, validations=RISING, plain=0.1, seconds=4.0)
    assert signs(rows, kind="weight_decay") == ""


def test_a_negative_lambda_without_effect_is_said() -> None:
    text = signs(history(losses=FALLING, validations=RISING, penalty=1e-7), weight=-0.1)
    assert "lambda * kappa is -1e-07 of the loss" in text
    assert "Set lambda further below 0" in text
    assert signs(history(losses=FALLING, validations=RISING), weight=-0.1) == ""


def test_a_layer_that_cannot_matter_is_said() -> None:
    assert "kappa was 0 throughout" in signs(history(losses=FALLING, validations=RISING, penalty=0))
