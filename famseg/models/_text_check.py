"""Compatibility check of a network for texts and a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from famseg.messages import InputError
from famseg.models._text_classifier import TextClassifier
from famseg.models._text_tokens import ByteTokenizer, PretrainedTokenizer

_logger = logging.getLogger("famseg")

_PROBED = 8  # number of tokens of the sample for testing padding
_SAME_FEATURES = 1e-3  # relative to their norm; rounding is far below


def check_tokens(
    network: TextClassifier,
    tokenizer: ByteTokenizer | PretrainedTokenizer,
    *,
    max_length: int,
    multiple: int = 1,
) -> None:
    """Check that a network is compatible with a tokenizer, for single samples and batches.

    Runs the network on a few tokens, with and without padding.

    Args:
        network: The network.
        tokenizer: The tokenizer.
        max_length: Largest number of tokens per sample.
        multiple: The length of a batch is rounded up to a multiple of this.

    Raises:
        InputError: If samples may be too long, tokens are unknown, or the tokenizer and the network
            use different padding tokens and the network distinguishes them.
    """
    body: Any = network.body
    limits = (tokenizer.longest, _positions(body))
    longest = min((limit for limit in limits if limit is not None), default=max_length)
    if max_length > longest:
        raise InputError(
            f"tokens.max_length: {max_length} tokens are more than the {longest} that the network "
            f"accepts. Give at most {longest}."
        )
    padded = -(-max_length // multiple) * multiple
    # RoBERTa's own padding token does not use up a position, but any other token does.
    stated = getattr(body.config, "max_position_embeddings", None)
    alike = body.config.pad_token_id == tokenizer.padding["input_ids"]
    positions = stated if alike else _positions(body)
    if positions is not None and padded > positions:
        raise InputError(
            f"tokens.pad_to_multiple_of: {multiple} makes {max_length} tokens {padded}, more than "
            f"the {positions} that the network accepts. Give max_length at most "
            f"{positions // multiple * multiple}."
        )
    known = body.get_input_embeddings().num_embeddings
    if tokenizer.vocabulary > known:
        raise InputError(
            f"model.path: the tokenizer has {tokenizer.vocabulary} tokens, the network knows "
            f"{known}: they are not from the same model. Put the files of one model into the "
            "folder."
        )
    if body.config.pad_token_id is None:
        raise InputError(
            "model.path: config.json has no pad_token_id, without which the network cannot process "
            f"a batch of several samples. Add the tokenizer's: {tokenizer.padding['input_ids']}."
        )
    _check_padding(network, tokenizer, min(max_length, _PROBED))


def _positions(body: Any) -> int | None:  # noqa: ANN401
    """Return the largest number of tokens with positions; None if the network has no limit.

    RoBERTa and similar networks number positions starting after the padding index, so that only 512
    of 514 are usable.
    """
    stated: int | None = getattr(body.config, "max_position_embeddings", None)
    limits = [stated] if stated is not None else []
    for name, module in body.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.split(".")[-1] == "position_embeddings" and padding is not None:
            limits.append(int(module.weight.shape[0]) - int(padding) - 1)
    return min(limits, default=None)


def _check_padding(
    network: TextClassifier, tokenizer: ByteTokenizer | PretrainedTokenizer, length: int
) -> None:
    """Refuse a network whose features depend on the tokenizer's padding, since it has another.

    If the padding is the same, but features still depend on it (through a convolution), there is a
    warning.
    """
    tokens = tokenizer.encode([("a b",)], max_length=length)[0]
    apart = _moved_by_padding(network, tokens, tokenizer.padding)
    if apart <= _SAME_FEATURES:
        return
    own, theirs = network.body.config.pad_token_id, tokenizer.padding["input_ids"]  # type: ignore[union-attr]
    if own != theirs:
        raise InputError(
            f"model.path: config.json pads with token {own}, the tokenizer with {theirs}, and the "
            "network tells them apart: the logits of a sample would depend on its batch. Write one "
            f"pad_token_id into a copy of the model: {theirs} into config.json, if the tokenizer "
            "is right."
        )
    _logger.warning(
        "model: padding changes the features of a sample by %.2g %%: the logits of this network "
        "depend on the batch that a sample is in",
        100 * apart,
    )


def _moved_by_padding(
    network: TextClassifier, tokens: Mapping[str, Sequence[int]], padding: Mapping[str, int]
) -> float:
    """Return the relative change of a sample's features when it is padded."""
    device = next(network.parameters()).device
    count = len(tokens["input_ids"])
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            found = []
            for more in (0, 1):
                padded = {
                    name: torch.tensor([[*values, *[padding[name]] * more]], device=device)
                    for name, values in tokens.items()
                }
                padded["attention_mask"] = torch.tensor([[1] * count + [0] * more], device=device)
                found.append(network.features(**padded))
    finally:
        network.train(training)
    return float((found[1] - found[0]).norm() / found[0].norm().clamp_min(1e-12))
