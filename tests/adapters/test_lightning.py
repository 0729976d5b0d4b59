"""Lightning's trainer with the objective matches the explicit loop."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from famseg.adapters.lightning import FAMMixin, FAMModule
from famseg.flatness import FAM, FlatnessError

pytestmark = [
    # Raised inside torch's pytree, which Lightning uses.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),
    # Lightning's advice about data loaders.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]
LOSS = nn.CrossEntropyLoss()


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=0.02)


class Classifier(FAMModule):
    def configure_optimizers(self):
        return adam(self)


class Plain(LightningModule):
    """The same without an objective."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        return LOSS(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        loss = LOSS(self.net(batch[0]), batch[1])
        self.log("val/loss", loss, batch_size=len(batch[0]))

    def configure_optimizers(self):
        return adam(self)


def loader(samples):
    return DataLoader(list(zip(*samples, strict=True)), batch_size=4)


def fit(engine, module, samples, **options):
    """Train with a validation after each epoch, which must have no side effects."""
    engine.fit(module, loader(samples), loader(samples), **options)


def trainer(folder, *, epochs=2, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **{**quiet, **options},
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
    make_net, samples, hand_written, tmp_path, layer, options, accumulate, clip_norm
):
    def objective():
        return FAM(make_net(), layer=layer, loss=LOSS, weight=0.3, **options)

    fam, own = objective(), objective()
    engine = trainer(tmp_path, accumulate_grad_batches=accumulate, gradient_clip_val=clip_norm)
    fit(engine, Classifier(fam), samples)
    wanted = hand_written(own, samples, adam(own), accumulate=accumulate, clip_norm=clip_norm)
    assert all(map(torch.equal, fam.parameters(), wanted))
    assert not torch.equal(fam.model[0].weight, make_net()[0].weight)


def test_without_weight_it_is_a_plain_module(make_net, samples, tmp_path):
    plain = Plain(make_net(0.3))
    module = Classifier(FAM(make_net(0.3), layer="5", loss=LOSS, weight=0))
    found = []
    for each in (plain, module):
        torch.manual_seed(2)
        engine = trainer(tmp_path, accumulate_grad_batches=4)
        fit(engine, each, samples)
        found += engine.validate(each, loader(samples), verbose=False)
    assert all(map(torch.equal, module.parameters(), plain.parameters()))
    assert found[0]["val/loss"] == found[1]["val/loss"] > 0


def test_evaluation_has_no_penalty(make_net, samples, tmp_path):
    fam = FAM(make_net(), layer="5", loss=LOSS, weight=1e6)
    engine = trainer(tmp_path)
    (found,) = engine.test(Classifier(fam), loader(samples), verbose=False)
    plain = LOSS(fam.model(samples[0]), samples[1])
    assert found["test/loss"] == pytest.approx(plain.item(), rel=1e-6)


def test_a_resumed_run_goes_on_as_one_never_stopped(make_net, samples, tmp_path):
    def run(epochs, checkpoint=None):
        generator = torch.Generator().manual_seed(5)
        options = {"estimator": "hutchinson", "every": 4, "generator": generator}
        fam = FAM(make_net(), layer="2", loss=LOSS, weight=0.3, **options)
        engine = trainer(tmp_path, epochs=epochs)
        fit(engine, Classifier(fam), samples, ckpt_path=checkpoint, weights_only=True)
        engine.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return fam

    run(1)
    whole = run(2)
    resumed = run(2, tmp_path / "1.ckpt")
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
    assert resumed.get_extra_state()["position"] == whole.get_extra_state()["position"] == 12


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.bfloat16, {"precision": "bf16-mixed"}),
        (torch.float16, {"plugins": "fp16 with a scaler for the CPU"}),
    ],
)
def test_mixed_precision_on_a_cpu(make_net, samples, hand_written, tmp_path, dtype, options):
    inputs = samples[0].float()

    def objective():
        return FAM(make_net(dtype=torch.float32), layer="5", loss=LOSS, weight=0.3)

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=256.0) if dtype == torch.float16 else None

    if scaler():
        options = {"plugins": MixedPrecision("16-mixed", "cpu", scaler())}
    fam, own = objective(), objective()
    data = (inputs, samples[1])
    fit(trainer(tmp_path, gradient_clip_val=0.5, **options), Classifier(fam), data)
    wanted = hand_written(own, data, adam(own), clip_norm=0.5, autocast=dtype, scaler=scaler())
    assert all(map(torch.equal, fam.parameters(), wanted))


def test_terms_are_logged(make_net, samples, tmp_path):
    fam = FAM(
        make_net(), layer="2", loss=LOSS, weight=0.5, estimator="columns", every=2, samples="all"
    )
    logger = CSVLogger(tmp_path)
    fit(trainer(tmp_path, logger=logger, epochs=1), Classifier(fam), samples)
    first, second = read(logger)[:2]
    assert first["train/total"] == pytest.approx(
        first["train/loss"] + 0.5 * 2 * first["train/penalty"], rel=1e-6
    )
    assert second["train/total"] == second["train/loss"] > 0
    assert second["train/penalty"] == first["train/penalty"]  # Lightning repeats the last one


def read(logger):
    with Path(logger.experiment.metrics_file_path).open() as file:
        rows = list(csv.DictReader(file))
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def test_a_module_of_ones_own(make_net, samples, hand_written, tmp_path):
    class Own(FAMMixin, LightningModule):
        def __init__(self):
            super().__init__()
            self.objective = FAM(make_net(), layer="5", loss=LOSS, weight=0.3)

        def training_step(self, batch, batch_idx):
            return self.training_terms(batch["image"], batch["label"]).total

        def configure_optimizers(self):
            return adam(self)

    data = [{"image": x, "label": y} for x, y in zip(*samples, strict=True)]
    module = Own()
    trainer(tmp_path).fit(module, DataLoader(data, batch_size=4))
    own = FAM(make_net(), layer="5", loss=LOSS, weight=0.3)
    assert all(map(torch.equal, module.parameters(), hand_written(own, samples, adam(own))))


def test_calling_the_module_calls_the_network(make_net, samples):
    fam = FAM(make_net(), layer="5", loss=LOSS, weight=0.3)
    assert torch.equal(Classifier(fam)(samples[0]), fam.model(samples[0]))


def test_what_does_not_fit_is_refused(make_net, samples, tmp_path, process_group):
    net = make_net()
    fam = FAM(net, layer="5", loss=LOSS, weight=0.3)
    with pytest.raises(FlatnessError, match=r"FAMModule takes the objective.*got a Sequential"):
        Classifier(net)
    with pytest.raises(FlatnessError, match="Lightning wraps the module"):
        Classifier(DistributedDataParallel(fam))
    with pytest.raises(FlatnessError, match=r"a batch is a dict, not a pair.*Override unpack"):
        Classifier(fam).unpack({"image": 1, "label": 2})

    class Forgot(FAMMixin, Plain):
        def training_step(self, batch, batch_idx):
            return self.training_terms(*batch).total

    with pytest.raises(FlatnessError, match=r"self.objective takes the objective.*NoneType"):
        fit(trainer(tmp_path), Forgot(net), samples)


def test_sharded_parameters_are_refused(make_net):
    class DeepSpeedStrategy:
        pass

    class Engine:
        strategy = DeepSpeedStrategy()

    class Module(FAMMixin):
        trainer = Engine()

    with pytest.raises(FlatnessError, match=r'DeepSpeedStrategy: a process.*strategy="ddp"'):
        Module().on_fit_start()


SCRIPT = """
import sys, warnings
import torch
from torch import nn
from torch.utils.data import DataLoader
from pytorch_lightning import Trainer
from famseg.adapters.lightning import FAMModule
from famseg.flatness import FAM

folder = sys.argv[1]
given = torch.load(folder + "/given.pt", weights_only=True)
net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0),
                    nn.Linear(5, 3)).double()
net.load_state_dict(given["net"])

class Classifier(FAMModule):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)

fam = FAM(net, layer="2", loss=nn.CrossEntropyLoss(), weight=0.3, estimator="columns", every=2,
          samples="all")
data = list(zip(given["inputs"], given["targets"]))
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    accumulate_grad_batches=2, default_root_dir=folder,
    use_distributed_sampler=False)  # Lightning's own shuffles
rows = torch.arange(16).reshape(-1, 2, 2)[:, trainer.global_rank].flatten()
trainer.fit(Classifier(fam), DataLoader([data[i] for i in rows], batch_size=2))
assert trainer.world_size == 2
if trainer.global_rank == 0:
    torch.save({"parameters": list(net.parameters())}, folder + "/found.pt")
"""


@pytest.mark.nightly
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
