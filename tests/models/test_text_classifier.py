from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from famseg.flatness import FAM, cross_entropy_flatness, relative_flatness
from famseg.models import TextClassifier, tiny_bert

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[3, 4, 5, 2], [6, 7, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
TOKENS = {"input_ids": IDS, "attention_mask": MASK}
LABELS = torch.tensor([0, 2])
SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
# One for each way to name and place the classifier.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("classifier", SIZES),
    "xlm-roberta": ("classifier.out_proj", SIZES | {"pad_token_id": 0}),
    "distilbert": (
        "classifier",
        {"vocab_size": 50, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    ),
    "gpt2": (
        "score",
        {
            "vocab_size": 50,
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}


def network(kind: str) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind, num_labels=3, **NETWORKS[kind][1])
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def tiny(dropout: float = 0.1, **options: Any) -> TextClassifier:
    sizes = {"layers": 2, "hidden": 16, "heads": 2} | options
    return tiny_bert(classes=("a", "b", "c"), dropout=dropout, seed=0, **sizes)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_head_is_the_networks_own_and_the_function_stays(kind: str) -> None:
    own = network(kind)
    expected: Tensor = own(**TOKENS).logits.detach()
    weight = own.get_submodule(NETWORKS[kind][0]).weight
    classifier = TextClassifier(own).eval()
    assert classifier.head.weight is weight
    assert torch.equal(classifier(**TOKENS), expected)
    assert {name.split(".")[0] for name in classifier.state_dict()} == {"body", "head"}
    assert sum(name.startswith("head.") for name in classifier.state_dict()) >= 1


def test_kinds_of_tokens_that_a_network_does_not_take_are_left_out() -> None:
    classifier = TextClassifier(network("distilbert")).eval()
    assert torch.equal(classifier(**TOKENS, token_type_ids=MASK), classifier(**TOKENS))
    bert = TextClassifier(network("bert")).eval()
    assert not torch.equal(bert(**TOKENS, token_type_ids=MASK), bert(**TOKENS))


def test_padding_changes_nothing() -> None:
    classifier = tiny().eval()
    alone = classifier(input_ids=IDS[1:, :3], attention_mask=MASK[1:, :3])
    torch.testing.assert_close(classifier(**TOKENS)[1:], alone)


def test_kappa_of_the_head_is_exact_and_free() -> None:
    classifier = tiny().double().eval()
    pooled = classifier.body.bert(**TOKENS).pooler_output  # what transformers calls the features
    objective = FAM(classifier, layer="head", loss=nn.CrossEntropyLoss(), weight=0.1)
    found = objective.measure(TOKENS, LABELS)
    assert objective.explain().startswith("layer 'head' (3 x 16): closed_form, exact and free")
    weight, bias = classifier.head.weight, classifier.head.bias
    closed = cross_entropy_flatness(pooled, classifier(**TOKENS), LABELS, weight)
    torch.testing.assert_close(found.per_sample, closed.detach())
    defined = relative_flatness(
        lambda w: nn.functional.cross_entropy(pooled @ w.T + bias, LABELS), weight
    )
    torch.testing.assert_close(found.kappa, defined.detach())


def test_the_penalty_reaches_the_whole_encoder_under_dropout() -> None:
    classifier = tiny(dropout=0.3).train()
    objective = FAM(classifier, layer="head", loss=nn.CrossEntropyLoss(), weight=1.0)
    terms = objective(TOKENS, LABELS)
    weights = [
        classifier.body.get_input_embeddings().weight,
        classifier.body.bert.encoder.layer[0].attention.self.query.weight,
        classifier.head.weight,
    ]
    gradients = torch.autograd.grad(terms.total - terms.loss, weights)
    assert all(float(gradient.norm()) > 0 for gradient in gradients)


def test_dropout_is_that_of_the_configuration() -> None:
    rates = {module.p for module in tiny(dropout=0.3).modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.3}
    classifier = tiny(dropout=0.3).train()
    assert not torch.equal(classifier(**TOKENS), classifier(**TOKENS))


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn() -> None:
    state = torch.get_rng_state()
    first, again = tiny(), tiny()
    other = tiny_bert(classes="ab", layers=2, hidden=16, heads=2, dropout=0.1, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, again.head.weight)
    embedding = [each.body.get_input_embeddings().weight for each in (first, again, other)]
    assert torch.equal(embedding[0], embedding[1])
    assert not torch.equal(embedding[0], embedding[2])


def test_transformers_reads_what_is_saved(tmp_path: Path) -> None:
    classifier = tiny().eval()
    expected = classifier(**TOKENS)
    classifier.save_pretrained(tmp_path)
    assert torch.equal(classifier(**TOKENS), expected)
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(back(**TOKENS).logits, expected)
    assert back.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_a_network_without_a_classifier_is_refused() -> None:
    config = transformers.BertConfig(**SIZES, num_labels=3)
    with pytest.raises(ValueError, match="BertModel does not end in a linear layer with an output"):
        TextClassifier(transformers.BertModel(config))
