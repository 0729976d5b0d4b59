"""The Trainer of transformers with the objective matches the explicit loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from famseg.adapters.transformers import FAMTrainer
from famseg.flatness import FAM, FlatnessError

LOSS = nn.CrossEntropyLoss()


def bert(dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,
    )
    return BertForSequenceClassification(config).to(dtype)


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        use_cache=False,
    )
    return LlamaForCausalLM(config).double()


def next_token_loss(logits, labels):
    shifted = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    # In single precision, in which the model computes its own loss.
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), shifted.flatten())


def classes(n=22):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 32, (n, 6), generator=generator)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return [{"input_ids": x, "labels": y} for x, y in zip(ids, labels, strict=True)]


def sentences():
    """Sentences with unequal numbers of valid tokens."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for index in range(22):
        ids = torch.randint(0, 11, (7,), generator=generator)
        labels = ids.clone()
        labels[2 + index % 5 :] = -100
        found.append({"input_ids": ids, "labels": labels})
    return found


def arguments(folder, **options):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "adam_epsilon": 1e-8,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "train_sampling_strategy": "sequential",
    }
    return TrainingArguments(**{**defaults, **options})


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)


class AsGiven(FAM):
    """An objective of token ids, for the explicit loop."""

    def forward(self, inputs, targets):
        return super().forward({"input_ids": inputs}, targets)


def stacked(data):
    return tuple(torch.stack([row[key] for row in data]) for key in ("input_ids", "labels"))


HEAD = "classifier", {}
PROBES = "bert.pooler.dense", {"estimator": "hutchinson", "every": 2}
NOISE = "bert.pooler.dense", {"estimator": "noise"}


@pytest.mark.parametrize(
    ("layer", "options", "accumulate", "clip_norm"),
    [(*HEAD, 3, None), (*PROBES, 1, None), (*PROBES, 3, None), (*PROBES, 2, 0.1), (*NOISE, 2, 0.1)],
)
def test_it_is_the_loop_written_out(
    hand_written, assert_same, tmp_path, layer, options, accumulate, clip_norm
):
    given = {"layer": layer, "output": "logits", "loss": LOSS, "weight": 0.3, **options}
    data, fam, own = classes(), FAM(bert(), **given), AsGiven(bert(), **given)
    args = arguments(
        tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=clip_norm or 0.0
    )
    FAMTrainer(objective=fam, args=args, train_dataset=data).train()
    wanted = hand_written(
        own,
        stacked(data),
        adam(own),
        accumulate=accumulate,
        clip_norm=clip_norm,
        share=lambda part, window: part / sum(window),
    )
    assert_same(fam.parameters(), wanted, rtol=1e-9, atol=1e-12)
    assert not torch.equal(fam.model.classifier.weight, bert().classifier.weight)


def test_without_weight_it_is_trainer(assert_same, tmp_path):
    models = bert(0.2), bert(0.2)
    fam = FAM(models[1], layer="classifier", output="logits", loss=LOSS, weight=0)
    losses = []
    for model, make, options in (
        (models[0], Trainer, {"model": models[0]}),
        (models[1], FAMTrainer, {"objective": fam}),
    ):
        options |= {"train_dataset": classes(), "eval_dataset": classes()}
        trainer = make(args=arguments(tmp_path), **options)
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        predictions = trainer.predict(classes())
        assert trainer.model is model
        losses.append((before, predictions.metrics["test_loss"], predictions.predictions.sum()))
    assert_same(models[1].parameters(), models[0].parameters(), rtol=1e-9, atol=1e-12)
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[0][0] != losses[0][1]


def test_tokens_count_as_in_trainer(assert_same, tmp_path):
    """Accumulated parts of unequal numbers of labels, in a language model."""
    models = llama(), llama()
    given = {"layer": "model.layers.0.mlp.down_proj", "output": "logits", "loss": next_token_loss}
    fam = FAM(models[1], **given, weight=0)
    args = arguments(tmp_path, gradient_accumulation_steps=3)
    data = sentences()
    plain = Trainer(model=models[0], args=args, train_dataset=data, eval_dataset=data)
    plain.train()
    trainer = FAMTrainer(objective=fam, args=args, train_dataset=data, eval_dataset=data)
    trainer.train()
    assert_same(models[1].parameters(), models[0].parameters(), rtol=1e-9, atol=1e-12)
    wanted = plain.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-9)


def test_a_resumed_run_goes_on_as_one_never_stopped(assert_same, tmp_path):
    def run(folder, stop=None, **options):
        generator = torch.Generator().manual_seed(5)
        given = {"estimator": "hutchinson", "every": 4, "generator": generator}
        fam = FAM(
            bert(0.2), layer="bert.pooler.dense", output="logits", loss=LOSS, weight=0.3, **given
        )
        args = arguments(folder, save_strategy="steps", save_steps=4, gradient_accumulation_steps=1)
        trainer = FAMTrainer(objective=fam, args=args, train_dataset=classes())
        if stop is not None:
            args.max_steps = stop
        trainer.train(**options)
        return fam

    folder = tmp_path / "run"
    whole = run(tmp_path / "whole")
    run(folder, stop=4)
    resumed = run(folder, resume_from_checkpoint=str(folder / "checkpoint-4"))
    assert_same(resumed.parameters(), whole.parameters(), rtol=0, atol=0)
    assert torch.equal(resumed.get_extra_state()["generator"], whole.get_extra_state()["generator"])
    assert (folder / "checkpoint-4" / "model.safetensors").is_file()


def test_a_checkpoint_is_the_model_alone(tmp_path):
    model = bert()
    fam = FAM(model, layer="classifier", output="logits", loss=LOSS, weight=0.3)
    trainer = FAMTrainer(objective=fam, args=arguments(tmp_path), train_dataset=classes())
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "saved").double()
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))


def test_bf16(hand_written, assert_same, tmp_path):
    given = {"layer": "classifier", "output": "logits", "loss": LOSS, "weight": 0.3}
    fam, own = FAM(bert(dtype=torch.float32), **given), AsGiven(bert(dtype=torch.float32), **given)
    data = classes()
    trainer = FAMTrainer(
        objective=fam,
        args=arguments(tmp_path, bf16=True),
        train_dataset=data,
        eval_dataset=data,
    )
    before = trainer.evaluate()["eval_loss"]  # it leaves the model wrapped in a cast
    trainer.train()
    wanted = hand_written(own, stacked(data), adam(own), autocast=torch.bfloat16)
    assert_same(fam.parameters(), wanted, rtol=1e-4, atol=1e-6)
    assert "closed_form" in fam.explain()
    assert "_original_forward" not in vars(fam.model)  # accelerate's wrapped function
    plain = Trainer(
        model=own.model, args=arguments(tmp_path, bf16=True), eval_dataset=data
    ).evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain, rel=1e-4) != before


def test_terms_are_logged(tmp_path):
    fam = FAM(
        bert(),
        layer="bert.pooler.dense",
        output="logits",
        loss=LOSS,
        weight=0.5,
        estimator="columns",
        every=2,
    )
    args = arguments(tmp_path, gradient_accumulation_steps=2)
    trainer = FAMTrainer(objective=fam, args=args, train_dataset=classes())
    trainer.train()
    logs = [row for row in trainer.state.log_history if "total" in row]
    assert len(logs) == 6
    assert [("penalty" in row) for row in logs] == [True, False] * 3
    for row in logs:
        wanted = row["loss"] + 0.5 * 2 * row.get("penalty", 0)
        assert row["total"] == pytest.approx(wanted, rel=1e-5)


def test_an_optimizer_of_ones_own_is_made_for_the_model(tmp_path):
    class Mine(FAMTrainer):
        def create_optimizer(self, model=None):
            if self.optimizer is None:
                names = [name for name, _ in self.model.named_parameters()]
                assert names[0].startswith("bert.embeddings")
                groups = [{"params": self.model.classifier.parameters(), "lr": 0.1}]
                self.optimizer = torch.optim.SGD(groups)
            return self.optimizer

    fam = FAM(bert(), layer="classifier", output="logits", loss=LOSS, weight=0.3)
    before = {name: value.clone() for name, value in fam.model.named_parameters()}
    Mine(objective=fam, args=arguments(tmp_path), train_dataset=classes()).train()
    moved = {n for n, v in fam.model.named_parameters() if not torch.equal(v, before[n])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_several_labels_come_as_a_mapping(tmp_path):
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(4, 6)

        def forward(self, x):
            return {"both": self.head(x)}

    def loss(logits, labels):
        start, end = logits.chunk(2, 1)
        return LOSS(start, labels["first"]) + LOSS(end, labels["last"])

    data = [{"x": torch.randn(4), "first": i % 3, "last": (i + 1) % 3} for i in range(8)]
    fam = FAM(Ends(), layer="head", output="both", loss=loss, weight=0.1)
    args = arguments(tmp_path, label_names=["first", "last"])
    trainer = FAMTrainer(objective=fam, args=args, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


def test_what_does_not_fit_is_refused(tmp_path, process_group):
    fam = FAM(bert(), layer="classifier", output="logits", loss=LOSS, weight=0.3)

    def refused(match, objective=fam, args=None, **options):
        with pytest.raises(FlatnessError, match=match):
            FAMTrainer(objective=objective, args=args or arguments(tmp_path), **options)

    refused(r"FAMTrainer takes the objective.*got a BertFor", objective=bert())
    refused("Trainer wraps it", objective=DistributedDataParallel(fam))
    refused("got another model", model=bert())
    refused("takes no model_init: the objective contains", model_init=bert)
    refused("takes no compute_loss_func", compute_loss_func=LOSS)
    refused(
        r"FAM\(loss=nn.CrossEntropyLoss\(label_smoothing",
        args=arguments(tmp_path, label_smoothing_factor=0.1),
    )
    refused("model.bert = torch.compile", args=arguments(tmp_path, torch_compile=True))
    trainer = FAMTrainer(objective=fam, model=fam.model, args=arguments(tmp_path))
    with pytest.raises(FlatnessError, match=r"no labels: it has 'input_ids'.*called 'labels'"):
        trainer.compute_loss(fam, {"input_ids": 1})


SCRIPT = """
import sys
import torch
from torch import nn
import torch.distributed as dist
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from famseg.adapters.transformers import FAMTrainer
from famseg.flatness import FAM

folder = sys.argv[1]
given = torch.load(folder + "/given.pt", weights_only=True)
model = BertForSequenceClassification(BertConfig(**given["config"])).double()
model.load_state_dict(given["model"])
fam = FAM(model, layer="bert.pooler.dense", output="logits", loss=nn.CrossEntropyLoss(),
          weight=0.3, estimator="columns", every=2, samples="all")
data = [{"input_ids": x, "labels": y} for x, y in zip(given["inputs"], given["targets"])]
args = TrainingArguments(output_dir=folder, per_device_train_batch_size=2, num_train_epochs=2,
    learning_rate=0.02, lr_scheduler_type="constant", max_grad_norm=0.0, optim="adamw_torch",
    report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
    train_sampling_strategy="sequential", gradient_accumulation_steps=2, logging_steps=1)
trainer = FAMTrainer(objective=fam, args=args, train_dataset=data)
trainer.train()
assert args.world_size == 2
assert isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
if args.process_index == 0:
    found = {"parameters": list(model.parameters()), "log": trainer.state.log_history}
    torch.save(found, folder + "/found.pt")
del trainer
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.nightly
@pytest.mark.slow
def test_two_processes_are_one(two_processes, hand_written, assert_same, tmp_path):
    model, data = bert(), stacked(classes(16))
    config = {k: v for k, v in model.config.to_dict().items() if k in SIZES}
    given = {"model": model.state_dict(), "config": config}
    torch.save({**given, "inputs": data[0], "targets": data[1]}, tmp_path / "given.pt")
    found = two_processes(SCRIPT)
    own = AsGiven(
        model,
        layer="bert.pooler.dense",
        output="logits",
        loss=LOSS,
        weight=0.3,
        estimator="columns",
        every=2,
        samples="all",
    )
    wanted = hand_written(own, data, adam(own), accumulate=2)
    assert_same(found["parameters"], wanted, rtol=1e-8, atol=1e-10)
    for row in found["log"][:4]:
        total = row["loss"] + 0.3 * 2 * row.get("penalty", 0)
        assert row["total"] == pytest.approx(total, rel=1e-5)


SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "id2label",
)
