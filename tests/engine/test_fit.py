from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from monai.losses import DiceCELoss, DiceLoss
from test_checkpoint import flip_a_bit
from torch.optim import SGD
from torch.utils.data import default_collate
from toy import (
    Descent,
    Log,
    StopAfter,
    largest_difference,
    make_experiment,
    make_fit,
    weights,
)

from famseg.engine import (
    Experiment,
    Interrupted,
    NonFiniteError,
    NSOConfig,
    Paused,
    SAMConfig,
    StopRequest,
    load_checkpoint,
)
from famseg.messages import InputError

HERE = Path(__file__).parent


# NCCL has no backend for the CPU. Neither has this group, where there are no GPUs either.
BACKENDS = ["gloo", pytest.param("cuda:gloo", marks=pytest.mark.nightly)]


def run_toy(
    folder: Path, *options: str, ranks: int = 1, backend: str = "gloo"
) -> dict[str, dict[str, torch.Tensor]]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(HERE / "train_toy.py"), str(folder), *options, f'backend="{backend}"']
    for done in [warm.run(*command)] if ranks == 1 else warm.run_ranks(ranks, *command):
        assert done.returncode == 0, done.stderr
    stopped = any(option.startswith("stop_after") for option in options)
    return {} if stopped else torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.parametrize("weight", [0.0, 0.05])
@pytest.mark.parametrize("step", [4, 6, 8])  # the end of an epoch, and inside one
def test_a_resumed_run_reaches_the_same_weights_to_the_last_bit(
    tmp_path: Path, weight: float, step: int
) -> None:
    whole, seen = make_experiment(weight=weight, dropout=0.2), Log()
    make_fit(whole, tmp_path / "whole").run(observers=[seen], stop=StopRequest())

    part, stop = make_experiment(weight=weight, dropout=0.2), StopRequest()
    fit = make_fit(part, tmp_path / "parts")
    with pytest.raises(Interrupted, match="SIGTERM"):
        fit.run(observers=[StopAfter(stop, step, signal.SIGTERM)], stop=stop)

    rest, seen_again = make_experiment(weight=weight, dropout=0.2, seed=0), Log()
    torch.manual_seed(123)  # nothing may depend on the global generator
    fit = make_fit(rest, tmp_path / "parts")
    assert fit.restore() == step // 4
    result = fit.run(observers=[seen_again], stop=StopRequest())

    assert largest_difference(weights(whole), weights(rest)) == 0
    assert result.epochs == 3
    for epoch, again in zip(reversed(seen.epochs), reversed(seen_again.epochs), strict=False):
        same = [key for key in epoch if "seconds" not in key]
        assert {key: epoch[key] for key in same} == {key: again[key] for key in same}


def test_a_paused_training_has_the_learning_rates_of_the_whole(tmp_path: Path) -> None:
    whole, seen = make_experiment(weight=0.05), Log()
    make_fit(whole, tmp_path / "whole").run(observers=[seen], stop=StopRequest())

    rest, seen_again = make_experiment(weight=0.05), Log()
    for until in (1, 1, 2):  # the second of them is there already
        fit = make_fit(rest, tmp_path / "parts")
        fit.restore()
        with pytest.raises(Paused, match=f"paused after epoch {until} of 3"):
            fit.run(observers=[seen_again], stop=StopRequest(), until=until)
    fit = make_fit(rest, tmp_path / "parts")
    assert fit.restore() == 2
    assert fit.run(observers=[seen_again], stop=StopRequest(), until=7).epochs == 3

    assert largest_difference(weights(whole), weights(rest)) == 0
    rates = [[epoch["train/learning_rate"] for epoch in log.epochs] for log in (seen, seen_again)]
    assert rates[0] == rates[1]


def test_a_resumed_run_keeps_the_pace_of_a_strong_penalty(tmp_path: Path) -> None:
    """Which is taken more often than every 10 steps from the first step on."""

    def experiment() -> Experiment:
        return make_experiment(weight=1.0, estimator="auto", every="auto")

    whole, part, rest = experiment(), experiment(), experiment()
    make_fit(whole, tmp_path / "whole").run(stop=StopRequest())
    assert whole.objective.period < 10
    stop = StopRequest()
    with pytest.raises(Interrupted):
        make_fit(part, tmp_path / "parts").run(
            observers=[StopAfter(stop, 6, signal.SIGTERM)], stop=stop
        )
    fit = make_fit(rest, tmp_path / "parts")
    fit.restore()
    fit.run(stop=StopRequest())
    assert largest_difference(weights(whole), weights(rest)) == 0


@pytest.mark.slow
def test_each_of_two_processes_keeps_its_own_pace(tmp_path: Path) -> None:
    options = ["weight=1.0", 'estimator="auto"', 'every="auto"']
    whole = run_toy(tmp_path / "whole", *options, "epochs=3", ranks=2)
    for epochs in (1, 3):
        parts = run_toy(tmp_path / "parts", *options, f"epochs={epochs}", ranks=2)
    paces = load_checkpoint(tmp_path / "parts" / "checkpoints" / "last.pt")["objective"]
    assert all(one["pace"][0] > 0 for one in paces)  # taken more often than at first
    assert len(paces) == 2
    assert largest_difference(whole["weights"], parts["weights"]) == 0


def test_the_best_metric_survives_a_resume(tmp_path: Path) -> None:
    experiment, stop = make_experiment(), StopRequest()
    fit = make_fit(experiment, tmp_path, epochs=6)
    with pytest.raises(Interrupted):
        fit.run(observers=[StopAfter(stop, 10, signal.SIGINT)], stop=stop)
    best = fit.state.best
    again = make_fit(make_experiment(), tmp_path, epochs=6)
    again.restore()
    assert again.state.best == best
    assert best.epoch > 0


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_the_running_epoch(tmp_path: Path) -> None:
    whole = run_toy(tmp_path / "whole", "weight=0.05", "epochs=8")
    (tmp_path / "killed").mkdir()
    command = [sys.executable, str(HERE / "train_toy.py"), str(tmp_path / "killed")]
    command += ["weight=0.05", "epochs=8", "slow=true"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 9:  # two batches an epoch: the fifth epoch runs
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    state = load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.pt")
    assert state["epoch"] >= 4
    resumed = run_toy(tmp_path / "killed", "weight=0.05", "epochs=8")
    assert largest_difference(whole["weights"], resumed["weights"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["gloo", "cuda:gloo"])
@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_two_processes_take_the_steps_of_one(tmp_path: Path, weight: float, backend: str) -> None:
    # Seven samples in batches of four: the last batch is uneven on two processes.
    options = [f"weight={weight}", 'estimator="columns"']
    one = run_toy(tmp_path / "one", *options)
    two = run_toy(tmp_path / "two", *options, ranks=2, backend=backend)
    assert largest_difference(one["gradients"], two["gradients"]) < 1e-6
    assert largest_difference(one["weights"], two["weights"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpoint_goes_from_two_processes_to_one_and_back(tmp_path: Path, backend: str) -> None:
    options = ["weight=0.05", 'estimator="columns"']
    whole = run_toy(tmp_path / "whole", *options, "epochs=3")
    run_toy(tmp_path / "mixed", *options, "epochs=1", ranks=2, backend=backend)
    run_toy(tmp_path / "mixed", *options, "epochs=2")
    mixed = run_toy(tmp_path / "mixed", *options, "epochs=3", ranks=2, backend=backend)
    assert largest_difference(whole["weights"], mixed["weights"]) < 1e-9


@pytest.mark.parametrize("weight", [0.0, 0.05])
def test_accumulated_gradients_equal_those_of_one_batch(tmp_path: Path, weight: float) -> None:
    options = {
        "weight": weight,
        "estimator": "columns",
        "dtype": torch.float64,
        "optimizer": Descent,
        "schedule": lambda epoch: 1.0,
    }
    whole = make_experiment(**options)
    make_fit(whole, tmp_path / "whole", batch_size=4).run(stop=StopRequest())
    parts = make_experiment(**options)
    make_fit(parts, tmp_path / "parts", batch_size=2, accumulate=2).run(stop=StopRequest())
    assert largest_difference(weights(whole), weights(parts)) < 1e-12


# Boxes 1 and 4 of 7 are of the second kind: parts of a batch differ in weight.
CLASSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty": {"weight": 0.05, "estimator": "columns"},
    "ignored": {"ignore": 1, "samples": 6},
}


@pytest.mark.parametrize("way", CLASSES)
@pytest.mark.parametrize(
    "method", [{}, {"sam": SAMConfig(rho=0.1)}, {"nso": NSOConfig(sigma=0.01)}]
)
def test_accumulated_gradients_of_weighted_classes_equal_those_of_one_batch(
    tmp_path: Path, way: str, method: dict[str, Any]
) -> None:
    options = {
        "class_weights": [1.0, 10.0],
        "dtype": torch.float64,
        "optimizer": Descent,
        "schedule": lambda epoch: 1.0,
        **CLASSES[way],
    }
    whole, parts = make_experiment(**options), make_experiment(**options)
    make_fit(whole, tmp_path / "whole", batch_size=6, **method).run(stop=StopRequest())
    fit = make_fit(parts, tmp_path / "parts", batch_size=3, accumulate=2, **method)
    fit.run(stop=StopRequest())
    before = weights(make_experiment(**options))
    assert largest_difference(before, weights(whole)) > 1e-2
    assert largest_difference(weights(whole), weights(parts)) < 1e-12


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_of_weighted_classes_is_that_of_the_whole_batch(tmp_path: Path, parts: int) -> None:
    options = {"class_weights": [1.0, 10.0], "dtype": torch.float64, "optimizer": Descent}
    experiment = make_experiment(**options, schedule=lambda epoch: 1.0)
    make_fit(experiment, tmp_path, batch_size=-(-7 // parts), accumulate=parts, epochs=1).run(
        stop=StopRequest()
    )
    by_hand = make_experiment(**options)
    whole = default_collate([by_hand.train[index] for index in range(7)])
    by_hand.objective(whole).loss.backward()
    with torch.no_grad():
        for parameter in by_hand.objective.parameters():
            parameter -= 0.1 * parameter.grad
    assert largest_difference(weights(experiment), weights(by_hand)) < 1e-12


def test_the_loss_of_weighted_classes_is_reported_with_their_weights(tmp_path: Path) -> None:
    losses = []
    for size in (7, 3):
        log = Log()
        experiment = make_experiment(class_weights=[1.0, 10.0], optimizer=partial(SGD, lr=1e-12))
        make_fit(experiment, tmp_path / str(size), batch_size=size, epochs=1).run(
            observers=[log], stop=StopRequest()
        )
        losses.append(log.epochs[0]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_take_the_steps_of_one_with_weighted_classes(
    tmp_path: Path, backend: str
) -> None:
    options = ["weight=0.05", 'estimator="columns"', "class_weights=[1,10]", "rate=1"]
    one = run_toy(tmp_path / "one", *options)
    two = run_toy(tmp_path / "two", *options, ranks=2, backend=backend)
    assert largest_difference(one["weights"], two["weights"]) < 1e-12
    logs = [json.loads((tmp_path / name / "log.json").read_text()) for name in ("one", "two")]
    losses = [[epoch["train/loss"] for epoch in log] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (DiceLoss(batch=True, sigmoid=True), r"loss: DiceLoss is defined over the whole batch"),
        (
            DiceCELoss(softmax=True, weight=torch.ones(2)),
            r"loss: DiceCELoss .* \(CrossEntropyLoss\).*Set training\.accumulate=1",
        ),
    ],
)
def test_a_loss_over_the_whole_batch_is_not_put_together_of_parts(
    tmp_path: Path, loss: torch.nn.Module, message: str
) -> None:
    experiment = make_experiment()
    experiment.objective.terms.loss = loss
    make_fit(experiment, tmp_path)  # one part
    with pytest.raises(InputError, match=message):
        make_fit(experiment, tmp_path, accumulate=2)


def test_a_mean_over_samples_beside_a_weighted_loss_is_not_put_together_of_parts(
    tmp_path: Path,
) -> None:
    experiment = make_experiment(jacobian=0.1, class_weights=[1.0, 2.0])
    with pytest.raises(InputError, match=r"penalty\.kind: jacobian_norm is a mean over samples"):
        make_fit(experiment, tmp_path, accumulate=2)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_sums_of_all_processes_are_taken_up_again(tmp_path: Path, ranks: int) -> None:
    # Stopped inside the first epoch of two processes; gone on with by one or two.
    run_toy(tmp_path / "whole", "epochs=1", "samples=12", ranks=2)
    run_toy(tmp_path / "parts", "epochs=1", "samples=12", "stop_after=1", ranks=2)
    assert not (tmp_path / "parts" / "log.json").exists()
    run_toy(tmp_path / "parts", "epochs=1", "samples=12", ranks=ranks)
    whole, parts = (
        json.loads((tmp_path / name / "log.json").read_text())[0] for name in ("whole", "parts")
    )
    same = ["train/loss", "train/steps", *(["train/loss_std"] if ranks == 2 else [])]
    assert [parts[key] for key in same] == pytest.approx([whole[key] for key in same], rel=1e-9)


def test_every_second_step_alone_carries_the_penalty(tmp_path: Path) -> None:
    log = Log()
    fit = make_fit(make_experiment(weight=0.05, every=2), tmp_path)
    fit.run(observers=[log], stop=StopRequest())
    assert [penalty is not None for _, _, penalty in log.steps] == [True, False] * 6


def test_a_total_that_is_not_finite_stops_before_the_optimizer_moves(tmp_path: Path) -> None:
    experiment = make_experiment(samples=2)
    fit = make_fit(experiment, tmp_path, epochs=1)
    with torch.no_grad():
        experiment.objective.model.expand.bias.fill_(float("nan"))
    before = weights(experiment)
    message = r"step 1: the objective is not finite \(loss nan, penalty none\)\. .* learning rate"
    with pytest.raises(NonFiniteError, match=message):
        fit.run(stop=StopRequest())
    after = weights(experiment)
    assert all(torch.equal(before[k], after[k]) for k in before if "expand.bias" not in k)


def test_training_ends_early_when_the_validation_stalls(tmp_path: Path) -> None:
    fit = make_fit(
        make_experiment(), tmp_path, epochs=50, early_stopping={"patience": 2, "min_delta": 1.0}
    )
    result = fit.run(stop=StopRequest())
    assert result.stopped_early
    assert result.epochs == 3  # the first counts as best, two more were waited for
    assert result.best.epoch == 1


def test_clipping_limits_the_step(tmp_path: Path) -> None:
    def moved(clip_norm: float | None) -> float:
        experiment = make_experiment(samples=2, optimizer=Descent, schedule=lambda epoch: 1.0)
        before = weights(experiment)
        make_fit(experiment, tmp_path / str(clip_norm), epochs=1, clip_norm=clip_norm).run(
            stop=StopRequest()
        )
        after = weights(experiment)
        return float(torch.cat([(after[k] - before[k]).flatten() for k in before]).norm())

    assert moved(1e-3) == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert moved(None) > 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_with_a_penalty(tmp_path: Path, precision: str) -> None:
    experiment = make_experiment(weight=0.01)
    before = weights(experiment)
    log = Log()
    make_fit(experiment, tmp_path, precision=precision).run(observers=[log], stop=StopRequest())
    assert all(torch.isfinite(tensor).all() for tensor in weights(experiment).values())
    assert largest_difference(before, weights(experiment)) > 0
    assert all(penalty is not None for _, _, penalty in log.steps)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    make_fit(make_experiment(), tmp_path, epochs=1).run(stop=StopRequest())
    other = make_experiment()
    other.objective.terms.model = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"last\.pt: belongs to another network"):
        make_fit(other, tmp_path, epochs=1).restore()


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_experiment()
    make_fit(whole, tmp_path / "whole", epochs=4).run(stop=StopRequest())
    folder = tmp_path / "damaged"
    make_fit(make_experiment(), folder, epochs=3).run(stop=StopRequest())
    last = folder / "checkpoints" / "last.pt"
    flip_a_bit(last)
    rest = make_experiment()
    fit = make_fit(rest, folder, epochs=4)
    assert fit.restore() == 2
    assert "is wrong: bytes have changed" in caplog.text
    assert "The training resumes from there, step 8." in caplog.text
    fit._save("last.pt", 8)  # the damaged one must not take the place of the one that is whole
    assert load_checkpoint(last.with_name("previous.pt"))["epoch"] == 2
    fit.run(stop=StopRequest())
    assert largest_difference(weights(whole), weights(rest)) == 0
    assert load_checkpoint(last)["epoch"] == 4
    assert load_checkpoint(last.with_name("previous.pt"))["epoch"] == 3


def test_of_two_damaged_checkpoints_none_is_offered(tmp_path: Path) -> None:
    make_fit(make_experiment(), tmp_path, epochs=2).run(stop=StopRequest())
    for name in ("last.pt", "previous.pt"):
        flip_a_bit(tmp_path / "checkpoints" / name)
    with pytest.raises(InputError, match=r"last\.pt: is damaged, and so is previous\.pt beside it"):
        make_fit(make_experiment(), tmp_path, epochs=3).restore()


def test_a_folder_in_place_of_a_checkpoint_is_refused_before_an_epoch(tmp_path: Path) -> None:
    make_fit(make_experiment(), tmp_path, epochs=2).run(stop=StopRequest())
    last = tmp_path / "checkpoints" / "last.pt"
    last.unlink()
    last.mkdir()
    with pytest.raises(InputError, match=r"last\.pt: is not a file\. Remove it"):
        make_fit(make_experiment(), tmp_path, epochs=3).restore()


def test_fewer_samples_than_processes_are_refused(tmp_path: Path) -> None:
    from famseg.engine import Processes

    with pytest.raises(InputError, match=r"batch_size: 2 samples cannot be dealt out to 3"):
        make_fit(make_experiment(), tmp_path, processes=Processes(world=3))


def test_workers_see_the_epoch_of_each_sample(tmp_path: Path) -> None:
    alone = make_experiment()
    make_fit(alone, tmp_path / "alone").run(stop=StopRequest())
    helped = make_experiment()
    make_fit(helped, tmp_path / "helped", workers=1).run(stop=StopRequest())
    assert largest_difference(weights(alone), weights(helped)) == 0
