"""Networks and tokenizers of transformers: from a folder, from the hub, or random."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

from famseg.messages import DAMAGED, InputError, visible
from famseg.models._text_classifier import TextClassifier
from famseg.models._text_size import check_size
from famseg.models._text_tokens import PAD, ByteTokenizer, PretrainedTokenizer

_logger = logging.getLogger("famseg")

T = TypeVar("T")

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FOLDER = "a folder with config.json, the weights and the tokenizer"
_HUB_TIMEOUT_S = 10.0
_MOST_NAMED = 4


def pretrained_classifier(
    path: str, *, classes: Sequence[str], seed: int, revision: str | None = None
) -> TextClassifier:
    """Load a pretrained network as a classifier.

    What the checkpoint lacks (a bare encoder has no classifier) is initialized from ``seed``, and
    the log says so. Dropout is that of the network's configuration, weights are in float32.

    Args:
        path: A folder, or a name on the Hugging Face hub. A path that exists is never looked up on
            the hub, a name that was fetched before neither.
        classes: Names of the classes in the order of their numbers.
        seed: Decides what is drawn.
        revision: Branch, tag or commit on the hub.

    Raises:
        InputError: If transformers is not installed, or the network cannot be loaded.
    """
    transformers = import_transformers()
    folder = Path(path).expanduser()

    def load(name: str, **options: Any) -> tuple[nn.Module, Mapping[str, Any]]:  # noqa: ANN401
        config = transformers.AutoConfig.from_pretrained(
            name,
            num_labels=len(classes),
            id2label=dict(enumerate(classes)),
            label2id={each: number for number, each in enumerate(classes)},
            trust_remote_code=False,
            **options,
        )
        check_size(transformers, config, path, folder if folder.exists() else None)
        loaded: tuple[nn.Module, Mapping[str, Any]] = (
            transformers.AutoModelForSequenceClassification.from_pretrained(
                name,
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                dtype=torch.float32,
                **options,
            )
        )
        return loaded

    with _seeded(seed), _silent(transformers):
        network, info = _from(path, revision, load)
    _report_new(network, info, path, seed)
    return _classifier(network, path)


def pretrained_tokenizer(path: str, *, revision: str | None = None) -> PretrainedTokenizer:
    """Load the tokenizer of a pretrained network.

    Args:
        path: As for `pretrained_classifier`.
        revision: The same.

    Raises:
        InputError: If transformers is not installed, or there is no usable tokenizer.
    """
    transformers = import_transformers()

    def load(name: str, **options: Any) -> Any:  # noqa: ANN401
        return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)

    with _silent(transformers):
        return PretrainedTokenizer(_from(path, revision, load), path)


def tiny_bert(
    *, classes: Sequence[str], layers: int, hidden: int, heads: int, dropout: float, seed: int
) -> TextClassifier:
    """Return a small BERT with random weights that reads the tokens of `ByteTokenizer`.

    Args:
        classes: Names of the classes in the order of their numbers.
        layers: Number of layers.
        hidden: Width, a multiple of ``heads``.
        heads: Attention heads a layer.
        dropout: Dropout probability.
        seed: Decides the weights.

    Raises:
        InputError: If transformers is not installed.
    """
    transformers = import_transformers()
    config = transformers.BertConfig(
        vocab_size=ByteTokenizer.vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * hidden,
        initializer_range=hidden**-0.5,  # BERT's default 0.02 suits a width of 2,500
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=PAD,
        num_labels=len(classes),
        id2label=dict(enumerate(classes)),
        label2id={each: number for number, each in enumerate(classes)},
    )
    with _seeded(seed):
        return TextClassifier(transformers.BertForSequenceClassification(config))


def import_transformers() -> ModuleType:
    """Return the package transformers.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"model: {error}: networks for texts need it. Run: pip install famseg[language]"
        ) from error
    module: ModuleType = transformers
    return module


def _from(path: str, revision: str | None, load: Callable[..., T]) -> T:
    """Load from a folder, else from the hub's cache, else from the hub."""
    folder = Path(path).expanduser()
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise InputError(f"model.path: {path}: has no config.json. Give {_FOLDER}.")
        return _loaded(path, lambda: load(str(folder), local_files_only=True))
    if not _HUB_NAME.fullmatch(path):
        raise InputError(f"model.path: {path}: there is no such folder. Give {_FOLDER}.")
    try:
        return load(path, revision=revision, local_files_only=True)
    except _faults():  # not, or not completely, in the cache
        _ask_hub(path, revision)
    return _loaded(path, lambda: load(path, revision=revision))


def _ask_hub(name: str, revision: str | None) -> None:
    """Raise an error at once if a name cannot be fetched; transformers would retry for a minute."""
    from huggingface_hub import HfApi

    # The error of the HTTP client below it, which depends on the version of huggingface_hub.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT_S)
    except (HTTPError, OSError, ValueError) as error:
        raise InputError(
            f"model.path: {name}: there is no such folder, and the Hugging Face hub has no model "
            f"of this name ({_first_line(error)}). Give {_FOLDER}."
        ) from error


def _faults() -> tuple[type[Exception], ...]:
    """Return the exceptions of transformers for missing, damaged or other files."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    known = SafetensorError, StrictDataclassError, UnpicklingError
    return OSError, RuntimeError, ImportError, *known, *DAMAGED


def _loaded(path: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except _faults() as error:
        raise InputError(
            f"model.path: {path}: cannot be loaded ({_first_line(error)}). Give {_FOLDER}."
        ) from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, UnpicklingError):
        return "its weights contain more than tensors; no code in them was run"
    lines = [visible(line.strip()) for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]).rstrip(".")


def _classifier(network: nn.Module, path: str) -> TextClassifier:
    try:
        return TextClassifier(network)
    except ValueError as error:
        raise InputError(f"model.path: {path}: {error} Choose another network.") from error


def _report_new(network: Any, info: Mapping[str, Any], path: str, seed: int) -> None:  # noqa: ANN401
    """Log which weights were initialized randomly; refuse if these include the encoder."""
    mismatched = [each if isinstance(each, str) else each[0] for each in info["mismatched_keys"]]
    new = sorted({*info["missing_keys"], *mismatched})
    inside = f"{network.base_model_prefix}."
    encoder = [name for name in new if name.startswith(inside) and ".pooler." not in name]
    if encoder:
        raise InputError(
            f"model.path: {path}: {len(encoder)} weights of the encoder are missing or of another "
            f"shape ({_named(encoder)}). Give {_FOLDER}, of one model."
        )
    if new:
        _logger.info("%s: not in the checkpoint, drawn with seed %d: %s", path, seed, _named(new))


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the context, and restore its state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _silent(transformers: ModuleType) -> Iterator[None]:
    """Suppress reports and progress bars of transformers."""
    settings = transformers.utils.logging
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()
