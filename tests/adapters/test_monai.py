"""MONAI's trainer with the objective matches the explicit loop."""

from __future__ import annotations

import logging

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver, StatsHandler
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from famseg.adapters.monai import FAMStep, train_terms
from famseg.flatness import FAM, FlatnessError

pytestmark = [
    # Raised by SupervisedTrainer(amp=True), which makes a scaler for CUDA whatever the device.
    pytest.mark.filterwarnings("ignore:`torch.cuda.amp.GradScaler:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler is enabled:UserWarning"),
]
LOSS = nn.CrossEntropyLoss()


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=0.02)


def trainer(net, samples, step=None, *, optimizer=None, epochs=2, **options):
    data = [{"image": x, "label": y} for x, y in zip(*samples, strict=True)]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(data, batch_size=4),
        network=net,
        optimizer=optimizer or adam(net),
        loss_function=LOSS,
        iteration_update=step,
        **{"decollate": False, **options},
    )


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("5", {}),
        ("2", {"estimator": "hutchinson", "every": 2}),
        ("2", {"estimator": "noise"}),
    ],
)
@pytest.mark.parametrize(("accumulate", "clip_norm"), [(1, None), (3, None), (2, 0.1)])
def test_it_is_the_loop_written_out(
    make_net, samples, hand_written, layer, options, accumulate, clip_norm
):
    def objective():
        return FAM(make_net(), layer=layer, loss=LOSS, weight=0.3, **options)

    fam, own = objective(), objective()
    step = FAMStep(fam, clip_norm=clip_norm)
    trainer(fam.model, samples, step, accumulation_steps=accumulate).run()
    wanted = hand_written(own, samples, adam(own), accumulate=accumulate, clip_norm=clip_norm)
    assert all(map(torch.equal, fam.parameters(), wanted))
    assert not torch.equal(fam.model[0].weight, make_net()[0].weight)


def test_without_weight_it_is_monais_own_iteration(make_net, samples):
    plain, net = make_net(0.3), make_net(0.3)
    losses = {}
    for key, network, step in (
        ("plain", plain, None),
        ("fam", net, FAMStep(FAM(net, layer="5", loss=LOSS, weight=0))),
    ):
        torch.manual_seed(2)
        engine = trainer(network, samples, step, accumulation_steps=4)
        engine.run()
        losses[key] = engine.state.output["loss"].item()
    assert all(map(torch.equal, net.parameters(), plain.parameters()))
    assert losses["fam"] == losses["plain"]


def test_a_resumed_run_goes_on_as_one_never_stopped(make_net, samples, tmp_path):
    def run(epochs, load=None):
        net = make_net()
        generator = torch.Generator().manual_seed(5)
        options = {"estimator": "hutchinson", "every": 4, "generator": generator}
        fam = FAM(net, layer="2", loss=LOSS, weight=0.3, **options)
        optimizer = adam(net)
        engine = trainer(net, samples, FAMStep(fam), optimizer=optimizer, epochs=epochs)
        state = {"objective": fam, "optimizer": optimizer, "trainer": engine}
        saver = CheckpointSaver(
            str(tmp_path), state, save_final=True, final_filename=f"{epochs}.pt"
        )
        saver.attach(engine)
        if load is not None:
            CheckpointLoader(str(load), state, strict=True).attach(engine)
            engine.state.max_epochs = epochs
        engine.run()
        return net

    run(1)
    net = make_net()
    whole = run(2)
    resumed = run(2, load=tmp_path / "1.pt")
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
    assert not torch.equal(net[0].weight, whole[0].weight)


@pytest.mark.parametrize("samples_of", ["all", 2])
def test_the_prediction_is_that_of_the_pass_the_loss_comes_from(make_net, samples, samples_of):
    net = make_net()
    net[4].p = 0.5 if samples_of == "all" else 0.0  # dropout: each pass has its own prediction
    fam = FAM(
        net, layer="2", loss=LOSS, weight=0.3, estimator="hutchinson", every=2, samples=samples_of
    )
    seen = []

    class Note:
        def attach(self, engine):
            engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

        def __call__(self, engine):
            output = engine.state.output
            assert len(output["pred"]) == len(output["label"])
            seen.append((output["loss"].item(), LOSS(output["pred"], output["label"]).item()))

    trainer(net, samples, FAMStep(fam), train_handlers=[Note()]).run()
    assert len(seen) == 12
    assert all(loss == pytest.approx(own, rel=1e-12) for loss, own in seen)


def test_output_and_events_are_those_that_handlers_expect(make_net, samples):
    net = make_net()
    fam = FAM(net, layer="2", loss=LOSS, weight=0.5, estimator="columns", every=2, samples="all")
    order, outputs = [], []

    def note(name):
        return lambda engine: order.append((name, set(engine.state.output)))

    engine = trainer(net, samples, FAMStep(fam), epochs=1)
    names = [
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    ]
    for name in names:
        engine.add_event_handler(name, note(name))
    engine.add_event_handler(names[-1], lambda e: outputs.append(dict(e.state.output)))
    engine.run()
    assert [name for name, _ in order[:4]] == names
    assert order[0][1] == {"image", "label", "pred"}
    first, second = outputs[:2]
    assert train_terms(first)["train/total"] == pytest.approx(
        (first["loss"] + 0.5 * 2 * first["penalty"]).item(), rel=1e-12
    )
    assert set(train_terms(first)) == {"train/loss", "train/penalty", "train/total"}
    assert set(train_terms(second)) == {"train/loss", "train/total"}
    assert not any(value.requires_grad for value in first.values())


def test_terms_are_logged_by_monais_handlers_and_images_keep_their_metadata(
    make_net, samples, capsys
):
    net = make_net()
    fam = FAM(net, layer="5", loss=LOSS, weight=0.5)
    inputs = [MetaTensor(x, meta={"filename_or_obj": f"{i}.nii"}) for i, x in enumerate(samples[0])]
    stats = StatsHandler(name="stats", output_transform=train_terms)
    engine = trainer(
        net, (inputs, samples[1]), FAMStep(fam), epochs=1, decollate=True, train_handlers=[stats]
    )
    engine.run()
    assert "train/penalty: 0." in capsys.readouterr().out
    last = engine.state.output[0]
    assert isinstance(last["pred"], MetaTensor)
    assert last["pred"].meta["filename_or_obj"] == "20.nii"


def test_arguments_by_name_reach_the_network(samples, make_net, hand_written, assert_same):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = make_net()

        def forward(self, inputs, shift, *, scale):
            return self.body(inputs * scale + shift)

    def prepare(batch, device, non_blocking, **kwargs):
        return batch["image"], batch["label"], (1.0,), {"scale": torch.tensor(2.0).double()}

    net = Scaled()
    fam = FAM(net, layer="body.5", loss=LOSS, weight=0.3)
    trainer(net, samples, FAMStep(fam), prepare_batch=prepare).run()
    own = FAM(make_net(), layer="5", loss=LOSS, weight=0.3)
    wanted = hand_written(own, (samples[0] * 2 + 1, samples[1]), adam(own))
    assert_same(fam.parameters(), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_on_a_cpu(make_net, samples, hand_written, dtype):
    inputs = samples[0].float()

    def objective():
        return FAM(make_net(dtype=torch.float32), layer="5", loss=LOSS, weight=0.3)

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=256.0) if dtype == torch.float16 else None

    fam, own = objective(), objective()
    step = FAMStep(fam, clip_norm=0.5, scaler=scaler())
    data = (inputs, samples[1])
    trainer(fam.model, data, step, amp=True, amp_kwargs={"dtype": dtype}).run()
    wanted = hand_written(own, data, adam(own), clip_norm=0.5, autocast=dtype, scaler=scaler())
    assert all(map(torch.equal, fam.parameters(), wanted))
    full = objective()
    exact = hand_written(full, data, adam(full), clip_norm=0.5)
    assert not all(map(torch.equal, wanted, exact))


def test_what_does_not_fit_is_refused(make_net, samples, process_group):
    net = make_net()
    fam = FAM(net, layer="5", loss=LOSS, weight=0.3)

    def refused(match, network=net, **options):
        with pytest.raises(FlatnessError, match=match):
            trainer(network, samples, FAMStep(fam), **options).run()

    logging.disable(logging.CRITICAL)  # the engine logs what it raises
    try:
        refused("around only the model", network=DistributedDataParallel(net))
        refused("got another model, a Sequential, than", network=make_net())
        refused("has a SlidingWindowInferer", inferer=SlidingWindowInferer((4,)))
        engine = trainer(net, samples, FAMStep(fam))
        engine.loss_function = nn.CrossEntropyLoss()
        with pytest.raises(FlatnessError, match=r"loss_function=objective\.loss"):
            engine.run()
        engine = trainer(net, samples, FAMStep(fam))
        engine.compile = True
        with pytest.raises(FlatnessError, match=r"network\.body = torch\.compile"):
            engine.run()
    finally:
        logging.disable(logging.NOTSET)
    with pytest.raises(FlatnessError, match=r"FAMStep takes the objective.*got a Sequential"):
        FAMStep(DistributedDataParallel(net))
    with pytest.raises(FlatnessError, match="clip_norm must be above 0, got 0"):
        FAMStep(fam, clip_norm=0)


SCRIPT = """
import sys, warnings
warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
import torch
import torch.distributed as dist
from monai.engines import SupervisedTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from famseg.adapters.monai import FAMStep
from famseg.flatness import FAM

folder = sys.argv[1]
dist.init_process_group("gloo")
rank = dist.get_rank()
given = torch.load(folder + "/given.pt", weights_only=True)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0),
                    nn.Linear(5, 3)).double()
net.load_state_dict(given["net"])
fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=0.3, estimator="columns", every=2,
          samples="all")
ddp = DistributedDataParallel(fam)
rows = torch.arange(16).reshape(-1, 2, 2)[:, rank].flatten()
data = [{"image": given["inputs"][i], "label": given["targets"][i]} for i in rows]
SupervisedTrainer(device=torch.device("cpu"), max_epochs=2, network=net, loss_function=fam.loss,
    train_data_loader=DataLoader(data, batch_size=2), iteration_update=FAMStep(ddp),
    optimizer=torch.optim.Adam(net.parameters(), lr=0.02), accumulation_steps=2).run()
if rank == 0:
    torch.save({"parameters": list(net.parameters())}, folder + "/found.pt")
del ddp
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_are_one(make_net, samples, two_processes, hand_written, tmp_path):
    data = samples[0][:16], samples[1][:16]
    net = make_net()
    given = {"net": net.state_dict(), "inputs": data[0], "targets": data[1]}
    torch.save(given, tmp_path / "given.pt")
    found = two_processes(SCRIPT)["parameters"]
    fam = FAM(net, layer="2", loss=LOSS, weight=0.3, estimator="columns", every=2, samples="all")
    for one, other in zip(found, hand_written(fam, data, adam(fam), accumulate=2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
