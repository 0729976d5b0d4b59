"""Ways of training beside the plain step: SAM and its like, averages, memory order, compilation."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fit import BACKENDS, run_toy
from torch import Tensor, nn
from torch.optim import SGD
from toy import (
    CONFIG,
    Descent,
    Log,
    StopAfter,
    changed,
    largest_difference,
    make_experiment,
    make_fit,
    weights,
)

from famseg.engine import (
    Experiment,
    GSAMConfig,
    Interrupted,
    LookSAMConfig,
    NonFiniteError,
    NSOConfig,
    SAMConfig,
    StopRequest,
    SWAConfig,
    WSAMConfig,
    load_checkpoint,
)
from famseg.flatness import FAM
from famseg.messages import InputError
from famseg.objectives import JacobianNorm, Objective, PlainLoss, generator_at

RHO = 0.1
SIGMA = 0.05
ASAM = SAMConfig(rho=RHO, adaptive=True)
GSAM = GSAMConfig(kind="gsam", rho=RHO, alpha=0.3)
WSAM = WSAMConfig(kind="wsam", rho=RHO, gamma=0.75)
COUPLED_WSAM = WSAMConfig(kind="wsam", rho=RHO, gamma=0.75, decoupled=False)
LOOKSAM = LookSAMConfig(kind="looksam", rho=RHO, every=2)
NSO = NSOConfig(sigma=SIGMA, pairs=2)
GRADIENTS: dict[str, dict[str, Any]] = {
    "sam": {"sam": SAMConfig(rho=RHO)},
    "asam": {"sam": ASAM},
    "gsam": {"sam": GSAM},
    "wsam": {"sam": WSAM},
    "coupled wsam": {"sam": COUPLED_WSAM},
    "looksam": {"sam": LOOKSAM},
    "nso": {"nso": NSO},
}
# Averaging begins with the first of three epochs.
WAYS = GRADIENTS | {"swa": {"swa": SWAConfig(start=0.3, learning_rate=0.02)}}


class Images(torch.utils.data.Dataset[Mapping[str, Any]]):
    """Noise of two brightnesses; whole batches come from ``__getitems__``."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        sample = index % 7
        image = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(sample))
        return {"image": image + sample % 2, "label": sample % 2, "index": index}

    def __getitems__(self, indices: list[int]) -> Mapping[str, Any]:
        items = [self[index] for index in indices]
        return {
            "image": torch.stack([item["image"] for item in items]),
            **{key: torch.tensor([item[key] for item in items]) for key in ("label", "index")},
        }


class Classes(Experiment):
    """Images of two classes, and the norm of the head."""

    key_metric = "accuracy"

    def score(self, outputs: Tensor, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        right = (outputs.argmax(1) == batch["label"]).tolist()
        return [{"accuracy": float(each), "label": 1} for each in right]

    def monitor(self, model: nn.Module) -> dict[str, float]:
        return {"train/weight": float(model[2].weight.detach().square().sum())}


def images(
    augment: Any = None, loss: Any = nn.functional.cross_entropy, jacobian: float = 0.0
) -> Experiment:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(body, nn.Dropout(0.2), nn.Linear(16, 2))
    terms = (
        JacobianNorm(model, loss=loss, weight=jacobian) if jacobian else PlainLoss(model, loss=loss)
    )
    experiment = Classes(
        CONFIG,
        Objective(terms),
        train=Images(),
        validation=Images(),
        data_hash="pictures",
    )
    return changed(
        experiment,
        optimizer=Descent,
        schedule=lambda epoch: 1.0,
        collate=lambda batch: batch,
        augment=augment or experiment.augment,
        compilable=body,
    )


Point = list[Tensor]


def sharp_and_plain(gradient: Callable[[Point], Point], weights: Point) -> tuple[Tensor, Tensor]:
    """Return the gradient at the worst weights nearby and the one at the weights, as vectors."""
    plain = gradient(weights)
    norm = flat(plain).norm()
    sharp = gradient([w + RHO * g / norm for w, g in zip(weights, plain, strict=True)])
    return flat(sharp), flat(plain)


def flat(tensors: Point) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def noise_at(step: int, pair: int, weights: Point) -> Point:
    generator = generator_at(0, "weight noise", step, pair)
    return [SIGMA * torch.randn(w.shape, generator=generator).to(w.dtype) for w in weights]


def noisy(gradient: Callable[[Point], Point], weights: Point, step: int) -> Tensor:
    found = []
    for pair in range(2):
        noise = noise_at(step, pair, weights)
        for sign in (1, -1):
            there = [w + sign * u for w, u in zip(weights, noise, strict=True)]
            found.append(flat(gradient(there)))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("way", sorted(set(GRADIENTS) - {"asam"}))
def test_two_steps_are_those_of_the_formula_over_the_whole_window(tmp_path: Path, way: str) -> None:
    options = {"weight": 0.05, "estimator": "columns", "dtype": torch.float64, "samples": 4}
    options |= {"optimizer": partial(SGD, lr=0.1, momentum=0.9), "schedule": lambda epoch: 1.0}
    trained = make_experiment(**options)
    make_fit(trained, tmp_path, epochs=2, batch_size=2, accumulate=2, **GRADIENTS[way]).run(
        stop=StopRequest()
    )

    byhand = make_experiment(**options)
    objective, parameters = byhand.objective, list(byhand.objective.parameters())
    weights_now = [p.detach().clone() for p in parameters]
    momentum, kept = torch.zeros(()), torch.zeros(())
    for step in range(2):
        indices = range(4 * step, 4 * step + 4)
        batch = torch.utils.data.default_collate([byhand.train[index] for index in indices])

        def gradient(there: Point, step: int = step, batch: Any = batch) -> Point:
            with torch.no_grad():
                for p, w in zip(parameters, there, strict=True):
                    p.copy_(w)
            objective.seek(step)
            return list(torch.autograd.grad(objective(batch).total, parameters))

        beside = torch.zeros(())  # what is taken off past the optimizer
        if way == "nso":
            taken = noisy(gradient, weights_now, step)
        else:
            sharp, plain = sharp_and_plain(gradient, weights_now)
            unit = plain / plain.norm()
            if way == "gsam":
                along = (plain @ sharp) / sharp.square().sum()
                taken = sharp - 0.3 * (plain - along * sharp)
            elif way == "wsam":
                taken, beside = plain, 3 * (sharp - plain)
            elif way == "coupled wsam":
                taken = plain + 3 * (sharp - plain)
            elif way == "looksam" and step == 1:
                taken = plain + 0.7 * plain.norm() * kept / kept.norm()
            else:
                taken = sharp
                kept = sharp - (sharp @ unit) * unit
        momentum = 0.9 * momentum + taken
        sizes = [w.numel() for w in weights_now]
        moves = (0.1 * (momentum + beside)).split(sizes)
        weights_now = [w - m.view_as(w) for w, m in zip(weights_now, moves, strict=True)]
    found = flat([p.detach() for p in trained.objective.parameters()])
    # 1e-12 is added to the norm in pytorch_optimizer, which is taken in float32.
    assert float((found - flat(weights_now)).abs().max()) < 1e-8


@pytest.mark.parametrize("way", GRADIENTS)
def test_a_batch_counts_once_and_the_step_is_not_the_plain_one(tmp_path: Path, way: str) -> None:
    plain, other = images(), images()
    make_fit(plain, tmp_path / "plain", epochs=1, batch_size=7).run(stop=StopRequest())
    make_fit(other, tmp_path / "other", epochs=1, batch_size=7, **GRADIENTS[way]).run(
        stop=StopRequest()
    )
    one, two = weights(plain), weights(other)
    assert torch.equal(one["0.1.num_batches_tracked"], two["0.1.num_batches_tracked"])
    if way != "nso":  # its first pass is at other weights
        for name in ("0.1.running_mean", "0.1.running_var"):
            assert torch.equal(one[name], two[name])
    assert not torch.equal(one["2.weight"], two["2.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("way", [*GRADIENTS, "jacobian"])
def test_it_works_in_mixed_precision(tmp_path: Path, way: str, precision: str) -> None:
    results = []
    for each in ("fp32", precision):
        experiment = images(jacobian=0.1 if way == "jacobian" else 0.0)
        before, log = weights(experiment), Log()
        fit = make_fit(experiment, tmp_path / each, precision=each, **GRADIENTS.get(way, {}))
        if each == "fp16":  # a scale at which nothing overflows
            fit.step.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        fit.run(observers=[log], stop=StopRequest())
        results.append(weights(experiment))
        assert largest_difference(before, weights(experiment)) > 1e-3
        assert all((penalty is not None) == (way == "jacobian") for _, _, penalty in log.steps)
    assert all(torch.isfinite(tensor).all() for tensor in results[1].values())
    assert largest_difference(*results) < 0.05


@pytest.mark.parametrize("way", ["sam", "gsam", "wsam", "looksam"])
def test_a_step_that_overflows_in_fp16_is_skipped_as_a_whole(tmp_path: Path, way: str) -> None:
    experiment = images()
    fit = make_fit(experiment, tmp_path, precision="fp16", **GRADIENTS[way])
    fit.step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    course: list[tuple[float, Tensor]] = []

    class Keep(Log):
        def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
            now = flat([p.detach() for p in experiment.objective.parameters()])
            course.append((fit.step.scaler.get_scale(), now))

    fit.run(observers=[Keep()], stop=StopRequest())
    moved = {True: 0, False: 0}
    for (scale, before), (next_scale, after) in pairwise(course):
        assert torch.equal(before, after) == (next_scale < scale)
        assert torch.isfinite(after).all()
        moved[next_scale < scale] += 1
    assert min(moved.values()) > 0


@pytest.mark.parametrize("way", ["sam", "gsam", "wsam", "looksam"])
def test_an_overflow_at_the_worst_weights_alone_skips_the_step_too(
    tmp_path: Path, way: str
) -> None:
    experiment = images()
    fit = make_fit(experiment, tmp_path, precision="fp16", epochs=1, **GRADIENTS[way])
    fit.step.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    sharpness = fit.step.sharpness
    assert sharpness is not None
    away, visits, course = sharpness.away, [], []

    @contextmanager
    def overflowing(rate: float = 1.0) -> Iterator[None]:
        with away(rate):
            yield
            visits.append(rate)
            if len(visits) == 2:
                sharpness.parameters[0].grad[0] = torch.inf

    class Keep(Log):
        def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
            now = flat([p.detach() for p in experiment.objective.parameters()])
            course.append((fit.step.scaler.get_scale(), now))

    sharpness.away = overflowing  # type: ignore[method-assign]
    fit.run(observers=[Keep()], stop=StopRequest())
    skipped = 2 if way == "looksam" else 1  # SAM on every second step
    for step, ((scale, before), (next_scale, after)) in enumerate(pairwise(course), 1):
        assert (next_scale < scale) == torch.equal(before, after) == (step == skipped)
        assert torch.isfinite(after).all()


def test_sam_stops_before_it_perturbs_by_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * 0).square().sum().sqrt() + outputs.sum() * 0  # 0, with a gradient of NaN

    experiment = images(loss=loss)
    before = weights(experiment)
    fit = make_fit(experiment, tmp_path, sam=SAMConfig(rho=RHO))
    with pytest.raises(NonFiniteError, match=r"step 1: the gradient \(norm nan\) is not finite"):
        fit.run(stop=StopRequest())
    assert torch.equal(before["2.weight"], weights(experiment)["2.weight"])


@pytest.mark.parametrize("step", [4, 6])  # the end of an epoch, and inside one
@pytest.mark.parametrize("way", [*WAYS, "ema", "jacobian"])
def test_a_resumed_run_is_the_same_to_the_last_bit(tmp_path: Path, way: str, step: int) -> None:
    options = WAYS.get(way, {}) | {"channels_last": True, "accumulate": 2}
    options |= {"ema": 0.9} if way in ("ema", "asam") else {}

    def experiment() -> Experiment:
        return images(jacobian=0.1 if way == "jacobian" else 0.0)

    whole = experiment()
    make_fit(whole, tmp_path / "whole", **options).run(stop=StopRequest())
    stop = StopRequest()
    with pytest.raises(Interrupted):
        make_fit(experiment(), tmp_path / "parts", **options).run(
            observers=[StopAfter(stop, step, signal.SIGTERM)], stop=stop
        )
    rest = experiment()
    torch.manual_seed(123)  # nothing may depend on the global generator
    fit = make_fit(rest, tmp_path / "parts", **options)
    fit.restore()
    fit.run(stop=StopRequest())
    assert largest_difference(weights(whole), weights(rest)) == 0
    states = [
        load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "parts")
    ]
    assert largest_difference(states[0]["model"], states[1]["model"]) == 0
    averaged = way in ("ema", "asam", "swa")
    assert averaged == ("trained" in states[0])
    if averaged:
        assert largest_difference(states[0]["model"], states[0]["trained"]) > 0


def test_the_average_is_that_of_the_weights_after_each_step(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    experiment = images()

    class Keep(Log):
        def stepped(self, step: int, *, loss: float, penalty: float | None) -> None:
            kept.append(weights(experiment))

    fit = make_fit(experiment, tmp_path, ema=0.75)
    fit.run(observers=[Keep()], stop=StopRequest())
    # An observer sees a step before its weights are averaged: the first average is a copy.
    average = kept[0]["2.weight"]
    for state in kept[1:]:
        average = 0.75 * average + 0.25 * state["2.weight"]
    torch.testing.assert_close(fit.model.state_dict()["2.weight"], average)
    best = load_checkpoint(tmp_path / "checkpoints/best.pt")
    assert best["model"].keys() == best["trained"].keys()


def test_channels_last_changes_the_memory_and_not_the_result(tmp_path: Path) -> None:
    seen = []

    def spy(batch: dict[str, Any]) -> dict[str, Any]:
        seen.append(batch["index"].tolist())
        return batch

    plain, ordered = images(), images(spy)
    make_fit(plain, tmp_path / "plain").run(stop=StopRequest())
    fit = make_fit(ordered, tmp_path / "last", channels_last=True)
    seen.clear()  # a single sample was looked at, for batch normalization
    fit.run(stop=StopRequest())
    assert largest_difference(weights(plain), weights(ordered)) < 1e-5
    assert fit.model[0][0].weight.is_contiguous(memory_format=torch.channels_last)
    # Each epoch's samples once, under the index that an augmentation draws from.
    assert sorted(index for batch in seen for index in batch) == list(range(21))


def test_every_score_and_the_monitor_are_logged(tmp_path: Path) -> None:
    log = Log()
    experiment = images()
    make_fit(experiment, tmp_path).run(observers=[log], stop=StopRequest())
    last = log.epochs[-1]
    assert last["val/n"] == 7
    assert (
        last["val/accuracy"] == load_checkpoint(tmp_path / "checkpoints/last.pt")["best"]["value"]
    )
    assert "val/label" not in last
    head = experiment.objective.model[2].weight
    assert last["train/weight"] == pytest.approx(float(head.detach().square().sum()))


def test_what_cannot_be_compiled_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"training\.compile: this pipeline has nothing"):
        make_fit(make_experiment(), tmp_path, compile=True)


def test_a_penalized_layer_is_not_compiled(tmp_path: Path) -> None:
    experiment = images()
    model, loss = experiment.objective.model, nn.functional.cross_entropy
    inside = FAM(model, layer="0.0", loss=loss, weight=0.1)
    experiment = changed(experiment, objective=Objective(inside))
    with pytest.raises(InputError, match=r"penalty\.layer 0\.0 lies in the part that is compiled"):
        make_fit(experiment, tmp_path, compile=True)
    inside.weight = 0.0
    assert make_fit(experiment, tmp_path, compile=True) is not None


@pytest.mark.slow
def test_a_compiled_body_trains_to_the_same_weights(tmp_path: Path) -> None:
    plain, fast = images(), images()
    make_fit(plain, tmp_path / "plain", epochs=1).run(stop=StopRequest())
    make_fit(fast, tmp_path / "fast", epochs=1, compile=True).run(stop=StopRequest())
    assert largest_difference(weights(plain), weights(fast)) < 1e-5


PROCESSES = {
    "asam and ema": ["sam={'rho': 0.1, 'adaptive': true}", "ema=0.9"],
    "gsam": ["sam={'kind': 'gsam'}"],
    "wsam": ["sam={'kind': 'wsam'}"],
    "looksam": ["sam={'kind': 'looksam', 'every': 2}"],
    "nso": ["nso={'sigma': 0.05, 'pairs': 2}"],
    "swa": ["swa={'start': 0.3}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", [*PROCESSES, "jacobian"])
def test_two_processes_take_the_steps_of_one(tmp_path: Path, way: str, backend: str) -> None:
    options = [option.replace("'", '"') for option in PROCESSES.get(way, ["jacobian=0.1"])]
    options += [] if way == "jacobian" else ["weight=0.05", 'estimator="columns"']
    one = run_toy(tmp_path / "one", *options)
    two = run_toy(tmp_path / "two", *options, ranks=2, backend=backend)
    assert largest_difference(one["weights"], two["weights"]) < 1e-6
    models = [load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two")]
    assert largest_difference(models[0]["model"], models[1]["model"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_take_the_statistics_of_one(tmp_path: Path, backend: str) -> None:
    # Without a step the weights are alike, and each process's own statistics are not. Three
    # batches: the processes have two and one.
    options = ["normalized=true", "rate=0", "samples=12", 'swa={"start": 0.3}']
    options += ["sync_batchnorm=false"]
    run_toy(tmp_path / "one", *options)
    run_toy(tmp_path / "two", *options, ranks=2, backend=backend)
    states = [load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("one", "two")]
    assert largest_difference(states[0]["model"], states[1]["model"]) < 1e-12
    assert largest_difference(states[0]["trained"], states[1]["trained"]) > 1e-6


def test_the_time_of_real_plain_steps_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    experiment = make_experiment(weight=0.05, estimator="auto", every="auto", samples=16)
    fit = make_fit(experiment, tmp_path)
    monkeypatch.setattr(fit.step, "plain_seconds", lambda batch: 1e6)
    fit.run(observers=[log], stop=StopRequest())
    assert log.epochs[0]["train/seconds_plain_step"] < 1e5


def test_a_plain_step_is_timed_as_the_training_runs_it(tmp_path: Path) -> None:
    seen = []

    def watch(model: nn.Module, inputs: object) -> None:
        if torch.is_grad_enabled() and not model.training:  # neither trained nor validated
            seen.append(torch.is_autocast_enabled("cpu"))

    experiment = make_experiment(weight=0.05)
    experiment.objective.model.register_forward_pre_hook(watch)
    make_fit(experiment, tmp_path, precision="bf16").run(stop=StopRequest())
    assert seen
    assert all(seen)


@pytest.mark.parametrize("way", ["none", "sam", "nso"])
def test_a_plain_step_is_timed_where_it_can_be_compared(tmp_path: Path, way: str) -> None:
    log = Log()
    make_fit(make_experiment(weight=0.05), tmp_path, **GRADIENTS.get(way, {})).run(
        observers=[log], stop=StopRequest()
    )
    assert ("train/seconds_plain_step" in log.epochs[0]) == (way == "none")
