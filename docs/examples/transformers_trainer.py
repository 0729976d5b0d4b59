"""Relative flatness in the Trainer of transformers: a small BERT with made-up sentences.

python docs/examples/transformers_trainer.py
"""

from __future__ import annotations

import random
import tempfile
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments, set_seed

from famseg.adapters.transformers import FAMTrainer
from famseg.flatness import FAM

GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")
WORDS = ("the", "a", "plot", "cast", "end", "was", "is", "and", "not")


def encode(text: str, length: int = 32) -> dict[str, list[int]]:
    """Return a text's bytes, padded with 0, and which of them are text."""
    data = list(text.encode())[:length]
    padding = [0] * (length - len(data))
    return {"input_ids": data + padding, "attention_mask": [1] * len(data) + padding}


def reviews(n: int, seed: int, *, mistakes: float = 0.0) -> list[dict[str, Any]]:
    """Return sentences of five words with one judgement among them, a part labeled wrongly."""
    source = random.Random(seed)  # noqa: S311 - not for secrets
    found = []
    for _ in range(n):
        label = source.randrange(2)
        words = source.choices(WORDS, k=4)
        words.insert(source.randrange(5), source.choice(BAD if label else GOOD))
        wrong = source.random() < mistakes
        found.append({**encode(" ".join(words)), "labels": 1 - label if wrong else label})
    return found


def train(weight: float) -> tuple[FAM, FAMTrainer]:
    """Train with a weight of the penalty; 0 is plain training."""
    set_seed(0)
    config = BertConfig(
        vocab_size=128,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    model = BertForSequenceClassification(config)
    objective = FAM(
        model, layer="classifier", output="logits", loss=nn.CrossEntropyLoss(), weight=weight
    )
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            num_train_epochs=8,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        data = reviews(256, seed=1, mistakes=0.2)
        trainer = FAMTrainer(objective=objective, args=args, train_dataset=data)
        trainer.train()
    return objective, trainer


def main() -> None:
    """Train with and without the penalty and compare on new sentences."""
    data = reviews(200, seed=2)
    batch = {key: torch.tensor([row[key] for row in data]) for key in data[0]}
    labels = batch.pop("labels")
    for weight in (0.0, 0.03):
        objective, trainer = train(weight)
        predicted = trainer.predict(data).predictions.argmax(1)
        accuracy = (torch.tensor(predicted) == labels).float().mean()
        measured = objective.measure(batch, labels)
        print(
            f"weight {weight}: accuracy {accuracy:.3f}, loss {measured.loss:.3f}, "
            f"kappa {measured.kappa:.3f} +- {measured.standard_error:.3f}"
        )


if __name__ == "__main__":
    main()
