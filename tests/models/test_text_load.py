from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bounded import cost

from famseg.messages import InputError
from famseg.models import ByteTokenizer, TinyBertConfig, TransformerConfig, check_tokens, tiny_bert

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
CLASSES = ("yes", "no")
TOKENS = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3)}


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A folder with a small BERT encoder, without a classifier, and its tokenizer."""
    folder = tmp_path / "encoder"
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=16)
    tokenizer.save_pretrained(folder)
    return folder


def settings(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def section(path: object) -> TransformerConfig:
    return TransformerConfig(path=str(path))


def test_an_encoder_gets_a_classifier_of_its_seed(encoder: Path, caplog) -> None:
    state = torch.get_rng_state()
    with caplog.at_level(logging.INFO, "famseg"):
        first = section(encoder).build(CLASSES, seed=3)
    assert caplog.messages == [
        f"{encoder}: not in the checkpoint, drawn with seed 3: classifier.bias, classifier.weight"
    ]
    again, other = (section(encoder).build(CLASSES, seed=seed) for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    own = transformers.BertModel.from_pretrained(encoder).eval()
    torch.testing.assert_close(
        first.eval().features(**TOKENS), own(**TOKENS).pooler_output, rtol=1e-5, atol=1e-6
    )


def test_a_classifier_of_as_many_classes_is_kept(encoder: Path, tmp_path: Path, caplog) -> None:
    trained = section(encoder).build(CLASSES, seed=0).eval()
    trained.half().save_pretrained(tmp_path / "trained")
    caplog.clear()
    with caplog.at_level(logging.INFO, "famseg"):
        back = section(tmp_path / "trained").build(CLASSES, seed=1).eval()
        more = section(tmp_path / "trained").build(("a", "b", "c"), seed=1)
    assert {weight.dtype for weight in back.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(back(**TOKENS), trained.float()(**TOKENS))
    assert more.head.weight.shape == (3, 8)
    assert len(caplog.messages) == 1  # of the three classes


def test_pairs_become_tokens(encoder: Path) -> None:
    tokenizer = section(encoder).tokenizer()
    pair, long = tokenizer.encode([("a b", "c"), ("a a a a a a", "b b")], max_length=8)
    assert pair == {"input_ids": [2, 5, 6, 3, 7, 3], "token_type_ids": [0, 0, 0, 0, 1, 1]}
    assert long["input_ids"] == [2, 5, 5, 5, 3, 6, 6, 3]  # the longer sentence was cut
    assert tokenizer.encode([("a",)], max_length=8)[0]["input_ids"] == [2, 5, 3]
    assert tokenizer.padding == {"input_ids": 0, "token_type_ids": 0}


def test_what_the_network_cannot_take_is_refused(encoder: Path) -> None:
    network, tokenizer = section(encoder).build(CLASSES, seed=0), section(encoder).tokenizer()
    check_tokens(network, tokenizer, max_length=16)
    with pytest.raises(InputError, match=r"^tokens\.max_length: 17 tokens are more than the 16"):
        check_tokens(network, tokenizer, max_length=17)
    with pytest.raises(InputError, match=r"tokenizer has 259 tokens, the network knows 9: they"):
        check_tokens(network, ByteTokenizer(), max_length=16)
    tiny = tiny_bert(classes=CLASSES, layers=1, hidden=8, heads=2, dropout=0, seed=0)
    with pytest.raises(
        InputError, match="600 tokens are more than the 512 that the network accepts"
    ):
        check_tokens(tiny, ByteTokenizer(), max_length=600)
    tiny.body.config.pad_token_id = None  # as in GPT-2's
    with pytest.raises(InputError, match=r"config\.json has no pad_token_id, .* tokenizer's: 0\.$"):
        check_tokens(tiny, ByteTokenizer(), max_length=16)


def words(folder: Path, *, pad: str, special: bool = True) -> None:
    """Write a tokenizer of words whose padding is the token of ``pad``; 1 is the usual one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(20))]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token=known[3]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=pad,
        **dict(zip(("bos_token", "eos_token", "unk_token"), ("<s>", "</s>", "<unk>"), strict=True)),
    ).save_pretrained(folder)


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    folder = tmp_path / "roberta"
    config = transformers.RobertaConfig(
        vocab_size=24,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=34,
        type_vocab_size=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    words(folder, pad="<pad>")
    return folder


def test_roberta_s_positions_begin_behind_its_padding(roberta: Path) -> None:
    network, tokenizer = section(roberta).build(CLASSES, seed=0), section(roberta).tokenizer()
    check_tokens(network, tokenizer, max_length=32)
    with pytest.raises(
        InputError, match=r"33 tokens are more than the 32 that the network accepts"
    ):
        check_tokens(network, tokenizer, max_length=33)
    longest = tokenizer.encode([("w1 " * 60,)], max_length=32)[0]["input_ids"]
    assert len(longest) == 32
    network(input_ids=torch.tensor([longest]), attention_mask=torch.ones(1, 32))
    network.body.config.max_position_embeddings = 31
    with pytest.raises(
        InputError, match=r"^tokens\.pad_to_multiple_of: 8 makes 29 tokens 32, more"
    ):
        check_tokens(network, tokenizer, max_length=29, multiple=8)


def test_gpt2_finds_the_last_token_by_its_own_padding(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        vocab_size=24, n_embd=8, n_layer=1, n_head=2, n_positions=32, pad_token_id=3
    )
    torch.manual_seed(0)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    words(tmp_path, pad="<pad>", special=False)
    tokenizer = section(tmp_path).tokenizer()
    with pytest.raises(InputError, match=r"pads with token 3, the tokenizer with 1, and the net"):
        check_tokens(section(tmp_path).build(CLASSES, seed=0), tokenizer, max_length=16)
    settings(tmp_path, pad_token_id=1)
    check_tokens(section(tmp_path).build(CLASSES, seed=0), tokenizer, max_length=16)


def test_two_paddings_that_make_no_difference_are_taken(encoder: Path, caplog) -> None:
    settings(encoder, pad_token_id=4)
    network = section(encoder).build(CLASSES, seed=0).train()
    check_tokens(network, section(encoder).tokenizer(), max_length=16)
    assert network.training
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def unlike(folder: Path) -> None:
    settings(folder, hidden_size=12)


def unknown(folder: Path) -> None:
    settings(folder, model_type="martian")


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_settings(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unlike, r"\d+ weights of the encoder are missing or of another shape \(bert\.embeddings"),
        (unknown, r"cannot be loaded \(.*martian"),
        (cut, r"cannot be loaded \("),
        (without_weights, r"cannot be loaded \(.*no file named"),
        (without_settings, r"has no config\.json\. Give a folder with config\.json, the"),
    ],
)
def test_a_spoilt_folder_is_said_in_one_line(
    encoder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(encoder)
    with pytest.raises(InputError, match=f"^model.path: {encoder}: {message}") as caught:
        section(encoder).build(CLASSES, seed=0)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_usable_tokenizer_is_refused(encoder: Path) -> None:
    path = encoder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))
    with pytest.raises(InputError, match="its tokenizer has no token for padding"):
        section(encoder).tokenizer()
    for each in (*encoder.glob("tokenizer*"), *encoder.glob("vocab*")):
        each.unlink()
    with pytest.raises(InputError, match=r"its tokenizer has no vocabulary\. Put the tokenizer's"):
        section(encoder).tokenizer()


def test_a_name_that_cannot_be_fetched_asks_for_a_folder(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = (
        r"^model\.path: no/body: there is no such folder, and the Hugging Face hub has no model "
        r"of this name \(.*offline mode.*\)\. Give a folder with config\.json"
    )
    for load in (section("no/body").tokenizer, lambda: section("no/body").build("ab", seed=0)):
        with pytest.raises(InputError, match=message) as caught:
            load()
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match=r"no/such/folder: there is no such folder\. Give a"):
        section("no/such/folder").tokenizer()


def test_without_transformers_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for build in (
        lambda: TinyBertConfig().build(CLASSES, seed=0),
        lambda: section("x").build(CLASSES, seed=0),
        section("x").tokenizer,
    ):
        with pytest.raises(InputError, match=r"^model: .*Run: pip install famseg\[language\]$"):
            build()


def test_a_configuration_is_read_without_transformers_and_torch() -> None:
    code = (
        "import sys; from famseg.config import load; load('smoke/rte_fam');"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_a_width_that_heads_do_not_share_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden 10 is not a multiple of heads 4"):
        TinyBertConfig(hidden=10)


@pytest.mark.parametrize("model", [TinyBertConfig(), section("x")])
def test_a_section_describes_its_fields_and_survives_its_own_output(model) -> None:
    for name, field in type(model).model_fields.items():
        assert field.description or name == "kind"
    assert type(model).model_validate(model.model_dump(mode="json")) == model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_size": 10**9},
            r"asks for 8000000\d+ weights, but there is room for 5824 in the files of weights\.",
        ),
        ({"max_position_embeddings": 10**15}, r"asks for 8\d+ weights, but there is room for"),
        ({"num_hidden_layers": 10**9}, "has num_hidden_layers 1000000000, more than 1000"),
        ({"num_hidden_layers": 10**400}, r"has num_hidden_layers over 10\^20, more than 1000"),
        ({"hidden_size": "big"}, r"\(Validation error for field 'hidden_size': TypeError: .*'big'"),
    ],
)
def test_a_configuration_that_its_weights_cannot_fill_costs_little(
    encoder: Path, changes: dict[str, object], message: str
) -> None:
    settings(encoder, **changes)
    found = cost(lambda: section(encoder).build(CLASSES, seed=0))
    assert re.search(message, found.fault or "")
    assert "\n" not in (found.fault or "")
    assert found.mib < 100
    assert found.seconds < 5


def test_without_weights_nothing_is_built(encoder: Path) -> None:
    without_weights(encoder)
    settings(encoder, vocab_size=10**9)
    found = cost(lambda: section(encoder).build(CLASSES, seed=0))
    assert "no file named" in (found.fault or "")
    assert found.mib < 100


def test_packed_weights_cost_little(encoder: Path) -> None:
    without_weights(encoder)
    plain = encoder / "plain.pt"
    torch.save({"x": torch.zeros(2**26)}, plain)  # 256 MiB
    packed = encoder / "pytorch_model.bin"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    found = cost(lambda: section(encoder).build(CLASSES, seed=0))
    assert re.search(
        r"pytorch_model\.bin: its parts are compressed, which torch never does",
        found.fault,
    )
    assert found.mib < 100


def test_a_number_of_classes_in_the_configuration_is_of_no_matter(encoder: Path) -> None:
    settings(encoder, num_labels=10**9)
    found = cost(lambda: section(encoder).build(CLASSES, seed=0))
    assert found.fault is None
    assert found.mib < 100


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_code_beside_a_model_is_not_run(encoder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    without_weights(encoder)
    torch.save({"x": Evil(mark)}, encoder / "pytorch_model.bin")
    with pytest.raises(InputError, match="its weights contain more than tensors; no code in them"):
        section(encoder).build(CLASSES, seed=0)
    (encoder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    names = {"AutoConfig": "evil.A", "AutoModelForSequenceClassification": "evil.B"}
    settings(encoder, auto_map=names, model_type="evil")
    with pytest.raises(InputError, match="contains custom code"):
        section(encoder).build(CLASSES, seed=0)
    section(encoder).tokenizer()
    assert not mark.exists()
