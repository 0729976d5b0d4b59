"""Random small networks with features of real ones: branches, gates, stashes, shared inputs.

`draw` describes a network, its loss and its batch by means of a function that chooses among
options, so that both hypothesis and a plain loop over seeds can draw them. The `repr` of a
description is the Python expression that recreates it, and `build` creates the network in float64.
Networks are small enough for `exact`, and lengths coincide on purpose: inputs without samples, and
class weights, are as long as the batch or as the quarter of it that the penalty uses.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from famseg.flatness._tracing._arguments import call_model, select
from famseg.flatness._tracing._layer import penalizable_layers

T = TypeVar("T")
Choose = Callable[[Sequence[T]], T]

SWITCH_AFTER = 3  # steps after which a counter enables a late feature


@dataclass(frozen=True, repr=False)
class Network:
    """A network, its loss and its batch; the defaults are the plainest.

    Attributes:
        seed: Of parameters and data.
        samples: Size of the batch.
        width: Features of a sample, or of a token.
        classes: Outputs.
        tokens: Tokens of a sample; 0 for samples that are one vector.
        stages: Names from `STAGES`, in the order in which they run.
        other: A second input, see `OTHERS`.
        order: How the inputs are passed: ``"x, other"`` or ``"other, x"``.
        passed: As a ``"tuple"`` or a ``"mapping"``.
        around: What leads from the first stage to the head: ``"nothing"``, ``"sum"`` or
            ``"concatenation"``.
        pool: How tokens become one vector: ``"mean"``, ``"attention"``, or ``"not"``: each has a
            label.
        output: ``"tensor"``, or ``"mapping"``, of which the loss takes the logits.
        frozen: What does not train: ``"nothing"``, ``"first stage"``, ``"layer"``.
        hook: What a hook of the user notes, and where: ``"none"``, ``"attribute"``, ``"closure"``.
        loss: See `_loss`.
        late: What changes after the first steps, see `LATE`.
        training: Whether the network, not its loss, is in training mode; the objective always is.
        first: The batches that the objective sees first, as in ``"larger, bare"``: the ``"same"``,
            a ``"larger"`` or ``"smaller"`` one, or one with ``"plain targets"`` (all of one class,
            and none ignored), ``"bare"`` (without the second input and the weights of samples), or
            ``"shared"`` (with one row as second input of all samples).
        layers: The penalized layers.
        options: Of the objective, all others being the defaults.
    """

    seed: int = 0
    samples: int = 8
    width: int = 4
    classes: int = 3
    tokens: int = 0
    stages: tuple[str, ...] = ("linear", "linear")
    other: str = "none"
    order: str = "x, other"
    passed: str = "tuple"
    around: str = "nothing"
    pool: str = "mean"
    output: str = "tensor"
    frozen: str = "nothing"
    hook: str = "none"
    loss: str = "cross entropy"
    late: str = "nothing"
    training: bool = True
    first: str = "same"
    layers: tuple[str, ...] = ("head",)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Python expression that recreates the description, without default values."""
        plain = Network()
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lines = [f"    {k}={v!r}," for k, v in values.items() if v != getattr(plain, k)]
        return "\n".join(["Network(", *lines, ")"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Make hypothesis print descriptions in the same way."""
        printer.text(repr(self))


# --- the stages: each maps (n, width) or (n, tokens, width) to the same shape ---


class Linear(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return torch.tanh(self.a(h))


class InPlaceActivation(nn.Module):
    """An in-place activation before a layer, and another one after it."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(w, w) for _ in range(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return self.c(self.act(self.b(self.act(self.a(h))))).tanh_()


class InPlaceArithmetic(nn.Module):
    """In-place arithmetic and a nonlinearity on the output of a module, also with parameters."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)
        self.scale, self.shift = nn.Parameter(torch.ones(w) + 0.3), nn.Parameter(torch.zeros(w))

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        h = self.a(h)
        h.mul_(self.scale).add_(self.shift)
        h[..., 0] *= 1.5
        h = self.b(h.sigmoid_())
        return h.mul_(self.scale).tanh_()


class InPlaceBranch(nn.Module):
    """The output of a module, changed in place, goes through a layer and around it."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(w, w) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(w) + 0.3)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        h = self.a(h)
        h.mul_(self.scale)
        return torch.tanh(self.c(torch.tanh(self.b(h)) * h))


class InPlaceInput(nn.Module):
    """Changes its input tensor in place."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return torch.tanh(self.a(h.mul_(0.8)))


class Skip(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return h + self.b(torch.tanh(self.a(h)))


class Concatenated(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(2 * w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return torch.tanh(self.b(torch.cat([h, torch.tanh(self.a(h))], -1)))


class EncoderDecoder(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.down, self.bottom, self.up = nn.Linear(w, w), nn.Linear(w, 2), nn.Linear(w + 2, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        down = torch.tanh(self.down(h))
        return torch.tanh(self.up(torch.cat([down, torch.tanh(self.bottom(down))], -1)))


class Film(nn.Module):
    """Feature-wise linear modulation by a second input or by the features themselves."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.condition, self.a, self.b = nn.Linear(w, 2 * w), nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        scale, shift = self.condition(_condition(h, other)).chunk(2, -1)
        return torch.tanh(self.b(torch.tanh(self.a(h)) * (1 + scale) + shift))


class Towers(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.beside, self.own, self.joint = nn.Linear(w, w), nn.Linear(w, w), nn.Linear(2 * w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        beside = torch.tanh(self.beside(_condition(h, other)))
        own = torch.tanh(self.own(h))
        return torch.tanh(self.joint(torch.cat([own, own * beside], -1)))


class SoftExperts(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.gate = nn.Linear(w, 3)
        self.experts = nn.ModuleList(nn.Linear(w, w) for _ in range(3))

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        shares = self.gate(_condition(h, other)).softmax(-1)[..., None]
        experts = torch.stack([torch.tanh(expert(h)) for expert in self.experts], -2)
        return (shares * experts).sum(-2)


class RoutedExperts(nn.Module):
    """Each token goes to one of three experts; the last one receives few tokens, and often none."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.gate = nn.Linear(w, 3)
        self.experts = nn.ModuleList(nn.Linear(w, w) for _ in range(3))
        with torch.no_grad():
            self.gate.bias[2] -= 0.7

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        flat = h.reshape(-1, h.shape[-1])
        shares = self.gate(flat).softmax(-1)
        out = flat.clone()
        for index, expert in enumerate(self.experts):
            chosen = shares.argmax(-1) == index
            out[chosen] += shares[chosen, index, None] * torch.tanh(expert(flat[chosen]))
        return out.reshape(h.shape)


class Functional(nn.Module):
    """Parameters that are used by functions, without a module of their own."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(w) + 0.5)
        self.w, self.b = nn.Parameter(torch.randn(w, w) / 2), nn.Parameter(torch.zeros(w))

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return torch.tanh(F.linear(self.scale * h, self.w, self.b))


class Twice(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        return torch.tanh(self.a(torch.tanh(self.a(h))))


class Reused(nn.Module):
    """A module that runs both before and after a layer."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.both, self.a = nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        h = torch.tanh(self.both(h))
        return torch.tanh(self.both(torch.tanh(self.a(h))))


class SeveralOutputs(nn.Module):
    """A module that returns a mapping, one item of which bypasses a layer."""

    class Encoder(nn.Module):
        def __init__(self, w: int) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)

        def forward(self, h: Tensor) -> dict[str, Any]:
            return {"deep": torch.tanh(self.a(h)), "others": [torch.tanh(self.b(h)), len(h)]}

    def __init__(self, w: int) -> None:
        super().__init__()
        self.encoder, self.c = self.Encoder(w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        found = self.encoder(h)
        return torch.tanh(self.c(found["deep"])) * found["others"][0]


class DetachedGate(nn.Module):
    """A gate computed from detached features."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.gate, self.a = nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        gate = torch.sigmoid(self.gate(h.detach()))
        return gate * torch.tanh(self.a(h))


class Checkpointed(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        def inner(h: Tensor) -> Tensor:
            return torch.tanh(self.b(torch.tanh(self.a(h))))

        return checkpoint(inner, h, use_reentrant=False)


class LearnedRows(nn.Module):
    """Samples attend to eight learned rows, which are not samples even if the batch has eight."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.rows, self.q, self.v = nn.Embedding(8, w), nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        rows = self.rows(torch.arange(8))
        return h + (self.q(h) @ rows.T).softmax(-1) @ self.v(rows)


class Stash(nn.Module):
    """Stores its output, which a loss may use, and the number of its calls."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)
        self.calls, self.sizes = 0, []

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        self.h = torch.tanh(self.a(h))
        self.calls += 1
        self.sizes.append(len(h))
        return self.h


class Running(nn.Module):
    """Subtracts a running mean and updates it afterwards."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)
        self.register_buffer("mean", torch.zeros(w))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        h = self.a(h)
        out = torch.tanh(h - self.mean)
        if self.training:
            with torch.no_grad():
                # A new tensor: the graph may need the old one.
                self.mean = (self.mean + h.reshape(-1, h.shape[-1]).mean(0)) / 2
                self.count += 1
        return out


class Drawing(nn.Module):
    """Draws random numbers that its output does not depend on."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        self.drawn = torch.rand(2)
        return torch.tanh(self.a(h))


class Normed(nn.Module):
    def __init__(self, w: int, kind: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)
        if kind == "layer":
            self.norm: nn.Module = nn.LayerNorm(w)
        else:
            self.norm = nn.GroupNorm(1, w) if kind == "group" else nn.BatchNorm1d(w)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 0.8, 0.2)
        for name, buffer in self.norm.named_buffers():
            if name != "num_batches_tracked":
                nn.init.normal_(buffer, 0.9, 0.1)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        h = self.a(h)
        flat = self.norm(h.reshape(-1, h.shape[-1]))
        return torch.tanh(self.b(torch.tanh(flat.reshape(h.shape))))


class Convolutions(nn.Module):
    """Convolutions over the features; tokens are flattened into the batch dimension."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.down = nn.Conv1d(1, 2, 3, padding=1)
        self.norm = nn.GroupNorm(1, 2)
        self.up = nn.ConvTranspose1d(2, 1, 3, padding=1)

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        volume = h.reshape(-1, 1, h.shape[-1])
        return self.up(self.norm(torch.tanh(self.down(volume)))).reshape(h.shape)


class Attention(nn.Module):
    """Self-attention of tokens, under a mask if there is one."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(w, w) for _ in range(3))

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        scores = self.q(h) @ self.k(h).mT
        return h + (scores if other is None else scores + other).softmax(-1) @ self.v(h)


class Memory(nn.Module):
    """Samples attend to rows that all of them share."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(w, w) for _ in range(3))

    def forward(self, h: Tensor, other: Tensor) -> Tensor:
        return h + (self.q(h) @ self.k(other).mT).softmax(-1) @ self.v(other)


class Positions(nn.Module):
    def __init__(self, w: int) -> None:
        super().__init__()
        self.a = nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor) -> Tensor:
        return torch.tanh(self.a(h)) * other[:, None]


class Context(nn.Module):
    """One vector that scales the features of all samples."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor) -> Tensor:
        return torch.tanh(self.b(torch.tanh(self.a(h)) * other))


class Codes(nn.Module):
    """An index per sample selects a vector."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.table, self.a = nn.Embedding(5, w), nn.Linear(w, w)

    def forward(self, h: Tensor, other: Tensor) -> Tensor:
        return torch.tanh(self.a(h)) * _as_wide(self.table(other), h)


class Mixing(nn.Module):
    """The samples of a batch interact after some steps."""

    def __init__(self, w: int, counted: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(w, w), nn.Linear(w, w)
        self.on, self.counted, self.calls = False, counted, 0

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        self.calls += 1
        h = torch.tanh(self.a(h))
        if self.on or (self.counted and self.calls > SWITCH_AFTER):
            h = h - h.mean(0)
        return torch.tanh(self.b(h))


class Opening(nn.Module):
    """A path around a layer that opens after some steps."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.before, self.a, self.b = nn.Linear(w, w), nn.Linear(w, w), nn.Linear(w, w)
        self.on = False

    def forward(self, h: Tensor, other: Tensor | None) -> Tensor:
        h = torch.tanh(self.before(h))
        inner = torch.tanh(self.a(h))
        return torch.tanh(self.b(inner * h if self.on else inner))


STAGES: dict[str, Callable[[int], nn.Module]] = {
    "linear": Linear,
    "in-place activation": InPlaceActivation,
    "in-place arithmetic": InPlaceArithmetic,
    "in-place branch": InPlaceBranch,
    "in-place input": InPlaceInput,
    "skip": Skip,
    "concatenated": Concatenated,
    "encoder-decoder": EncoderDecoder,
    "film": Film,
    "towers": Towers,
    "soft experts": SoftExperts,
    "routed experts": RoutedExperts,
    "functional": Functional,
    "twice": Twice,
    "reused": Reused,
    "several outputs": SeveralOutputs,
    "detached gate": DetachedGate,
    "checkpointed": Checkpointed,
    "learned rows": LearnedRows,
    "stash": Stash,
    "running mean": Running,
    "drawing": Drawing,
    "layer norm": functools.partial(Normed, kind="layer"),
    "group norm": functools.partial(Normed, kind="group"),
    "batch norm": functools.partial(Normed, kind="batch"),
    "convolutions": Convolutions,
    "attention": Attention,
    "memory": Memory,
    "positions": Positions,
    "context": Context,
    "codes": Codes,
    "mixing": Mixing,
    "mixing, counted": functools.partial(Mixing, counted=True),
    "opening": Opening,
}

_CONDITIONED = ("film", "towers", "soft experts")
OTHERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "the same": _CONDITIONED,
    "another": _CONDITIONED,
    "codes": ("codes",),
    "context": ("context",),
    "memory": ("memory",),
    "positions": ("positions",),
    "mask": ("attention",),
}
"""Second inputs, and the stages that use them: the first input given twice; features of each
sample, or a number; and inputs that samples share: a vector (width,), rows to attend to
(m, width), position indices (tokens,), an attention mask (tokens, tokens)."""

LATE: dict[str, str] = {
    "nothing": "",
    "loss, attribute": "",
    "loss, counter": "",
    "loss, closure": "",
    "mixing": "mixing",
    "mixing, counted": "mixing, counted",
    "opening": "opening",
    "training": "batch norm",
    "unfreezing": "skip",
}
"""Changes after the first steps, and the stage that each of them concerns unless it is the loss.
Stages with a counter change by themselves."""
SHOWN = ("loss, attribute", "mixing", "opening", "training")
"""Changes that are visible in attributes, so that the next step detects them."""


def _condition(h: Tensor, other: Tensor | None) -> Tensor:
    """The second input of each sample, or the features themselves without one."""
    return h if other is None else _as_wide(other, h)


def _as_wide(other: Tensor, h: Tensor) -> Tensor:
    return other[:, None] if other.ndim < h.ndim else other


class Model(nn.Module):
    """The network of a description."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, w = network, network.width
        self.stages = nn.ModuleList(STAGES[name](w) for name in network.stages)
        self.score = nn.Linear(w, 1) if network.tokens and network.pool == "attention" else None
        self.joint = nn.Linear(2 * w, w) if network.around == "concatenation" else None
        self.head = nn.Linear(w, network.classes)

    def forward(self, *arguments: Tensor, **named: Tensor) -> object:
        network = self.network
        given = dict(zip(network.order.split(", "), arguments, strict=False)) | named
        h, other = given["x"], given.get("other")
        first = h
        for name, stage in zip(network.stages, self.stages, strict=True):
            h = stage(h, other if name in OTHERS[network.other] else None)
            first = h if stage is self.stages[0] else first
        if network.around == "sum":
            h = h + first
        elif self.joint is not None:
            h = torch.tanh(self.joint(torch.cat([h, first], -1)))
        if self.score is not None:
            h = (self.score(h).softmax(1) * h).sum(1)
        elif network.tokens and network.pool == "mean":
            h = h.mean(1)
        z = self.head(h)
        z = z.mT if z.ndim == 3 else z  # as losses take positions: (n, classes, tokens)
        return {"logits": z, "hidden": h} if network.output == "mapping" else z


# --- losses ---


def smooth(z: Tensor, y: Tensor) -> Tensor:
    return (z.sin() * (1.5 * y[:, None] - 1)).mean()


def weighted_classes(z: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
    labels, weights = y
    return F.cross_entropy(z, labels, weights)


def weighted_samples(z: Tensor, y: Mapping[str, Tensor]) -> Tensor:
    each = F.cross_entropy(z, y["labels"], reduction="none")
    return (each * y["weights"]).mean() if "weights" in y else each.mean()


class Counting(nn.Module):
    """Records its calls in a list and a counter, like losses that log."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.calls = 0

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(z))
        self.calls += 1
        return F.cross_entropy(z, y)


class CountingObject:
    """The same, but not a module."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        self.sizes.append(len(z))
        return F.cross_entropy(z, y)


class Contrastive(nn.Module):
    """Cross-entropy plus a term between samples, enabled by an attribute or after enough steps."""

    def __init__(self, *, on: bool, counted: bool = False) -> None:
        super().__init__()
        self.on, self.counted, self.calls = on, counted, 0

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        on = self.on or (self.counted and self.calls > SWITCH_AFTER)
        return F.cross_entropy(z, y) + (contrast(z) if on else 0)


def contrast(z: Tensor) -> Tensor:
    unit = z / (z.square().sum(1, keepdim=True) + 0.1).sqrt()
    similar = 2 * unit @ unit.T - 1e9 * torch.eye(len(z), dtype=z.dtype)
    return F.cross_entropy(similar, (torch.arange(len(z)) + 1) % len(z))


def _loss(network: Network, model: Model) -> tuple[Callable[[Any, Any], Tensor], list[bool]]:
    """Return the loss, and a function that enables its late part if a closure holds that state."""
    switch = [network.late == "nothing"]
    weights = torch.linspace(0.5, 2, network.classes, dtype=torch.float64)
    stashes = [stage for stage in model.stages if isinstance(stage, Stash)]

    def centers(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + (stashes[0].h - 0.3).square().mean()

    def balance(z: Tensor, y: Tensor) -> Tensor:
        h = stashes[0].h
        return F.cross_entropy(z, y) + h.reshape(-1, h.shape[-1]).mean(0).square().sum()

    def contrastive(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + (contrast(z) if switch[0] else 0)

    losses: dict[str, Callable[[Any, Any], Tensor]] = {
        "cross entropy": nn.CrossEntropyLoss(),
        "label smoothing": nn.CrossEntropyLoss(label_smoothing=0.2),
        "class weights": nn.CrossEntropyLoss(weight=weights),
        "ignored labels": nn.CrossEntropyLoss(),
        "squared error": nn.MSELoss(),
        "function": smooth,
        "class weights in the targets": weighted_classes,
        "sample weights in the targets": weighted_samples,
        "counting": Counting(),
        "counting object": CountingObject(),
        "centers": centers,
        "balance": balance,
        "contrastive": contrastive
        if network.late == "loss, closure"
        else Contrastive(on=network.late == "nothing", counted=network.late == "loss, counter"),
    }
    return losses[network.loss], switch


# --- complete networks ---


@dataclass(frozen=True)
class Batch:
    """Tensors of a batch; arguments are copied for each pass, since a network may change them."""

    network: Network
    x: Tensor
    other: Tensor | None
    targets: Any

    @property
    def inputs(self) -> Any:
        x = self.x.clone()
        other = x if self.network.other == "the same" else self.other
        if other is None:
            return {"x": x} if self.network.passed == "mapping" else (x,)
        given = {"x": x, "other": other}
        given = {name: given[name] for name in self.network.order.split(", ")}
        return given if self.network.passed == "mapping" else tuple(given.values())


@dataclass(frozen=True)
class Built:
    """A network with everything that a step needs.

    Attributes:
        network: The description.
        model: The network.
        loss: The loss.
        batch: The batch.
        records: What a hook of the user noted.
        output: What of the network's output the loss takes.
    """

    network: Network
    model: Model
    loss: Callable[[Any, Any], Tensor]
    batch: Batch
    records: list[tuple[int, ...]]
    _switch: list[bool]

    @property
    def output(self) -> str | None:
        return "logits" if self.network.output == "mapping" else None

    def plain(self) -> Tensor:
        """Return the loss of a plain step."""
        return self.step(self.batch.inputs)

    def step(self, inputs: Any) -> Tensor:
        """Return the loss of a plain step on these tensors, without copies."""
        return self.loss(select(call_model(self.model, inputs), self.output), self.batch.targets)

    def switch(self, *, counters: bool) -> None:
        """Enable the late change; also set the counters, which would do so by themselves."""
        self._switch[0] = True
        if self.network.late == "training":
            self.model.train()
        if self.network.late == "unfreezing":
            self.model.requires_grad_(True)
        for part in (self.loss, *self.model.stages):
            if isinstance(part, Contrastive | Mixing | Opening):
                part.on = part.on or counters or "count" not in self.network.late

    def trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


def build(network: Network) -> Built:
    """Build a network and its batch, the same on each call."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(network.seed)
        model = Model(network).double()
        loss, switch = _loss(network, model)
        made = batch(network)
    records: list[tuple[int, ...]] = []
    if network.hook == "attribute":
        model.noted = records
    if network.hook != "none":
        for module in (model.stages[0], model.head):
            module.register_forward_hook(lambda m, args, out: records.append(tuple(out.shape)))
    still: Mapping[str, Sequence[nn.Module]] = {
        "nothing": (),
        "first stage": model.stages[:1],
        "layer": [model.get_submodule(name) for name in network.layers],
    }
    for module in still[network.frozen]:
        module.requires_grad_(False)
    model.train(network.training)
    return Built(network, model, loss, made, records, switch)


def batch(network: Network, kind: str = "same") -> Batch:
    """Create a batch; inputs shared by its samples have the same length in every batch."""
    n = {"larger": 2 * network.samples, "smaller": network.samples // 4}.get(kind, network.samples)
    generator = torch.Generator().manual_seed(network.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    w, t, c = network.width, network.tokens, network.classes
    shared = {
        "context": normal(w),
        "memory": normal(t or network.samples, w),
        "positions": torch.linspace(0.3, 1.5, t, dtype=torch.float64),
        "mask": normal(t, t),
    }
    own = {"another": normal(n, w), "codes": torch.arange(n) % 5}
    x = 1.5 * normal(n, t, w) if t else 1.5 * normal(n, w)
    shape = (n, t) if t and network.pool == "not" else (n,)
    labels = torch.randint(1 if kind == "plain targets" else c, shape, generator=generator)
    targets: Any = labels
    if network.loss == "ignored labels" and kind != "plain targets":
        targets = labels.where(torch.rand(shape, generator=generator) < 0.7, -100)
        targets[0] = labels[0]
    elif network.loss == "squared error":
        targets = normal(n, c, *shape[1:])
    elif network.loss == "class weights in the targets":
        targets = labels, torch.linspace(0.5, 2, c, dtype=torch.float64)
    elif network.loss == "sample weights in the targets":
        weights = normal(n).square() + 0.1
        targets = {"labels": labels} if kind == "bare" else {"labels": labels, "weights": weights}
    other = None if kind == "bare" else (shared | own).get(network.other)
    if other is not None and kind == "shared":
        other = other[:1]
    return Batch(network, x, other, targets)


def holding_samples(network: Network) -> list[str]:
    """Return the paths of the tensors of a batch that have one row per sample."""
    names = ["x"] if network.other == "none" else network.order.split(", ")
    shared = network.other in ("context", "memory", "positions", "mask")
    paths = [
        f"inputs.{name if network.passed == 'mapping' else index}"
        for index, name in enumerate(names)
        if name == "x" or not shared
    ]
    if network.loss == "class weights in the targets":
        return [*paths, "targets.0"]
    return [*paths, "targets"]


def called_once(network: Network) -> list[str]:
    """Return the layers that can be penalized: those that are called once per pass."""
    built = build(network)
    calls: list[str] = []
    for name in penalizable_layers(built.model):
        layer = built.model.get_submodule(name)
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    built.plain()
    return [name for name in dict.fromkeys(calls) if calls.count(name) == 1]


ADDITIVE = ("cross entropy", "label smoothing", "squared error", "function")
LOSSES = (
    *ADDITIVE,
    "class weights",
    "ignored labels",
    "class weights in the targets",
    "sample weights in the targets",
    "counting",
    "counting object",
    "contrastive",
    "centers",
    "balance",
)
_PER_TOKEN = ("cross entropy", "label smoothing", "class weights", "ignored labels")
_OPTIONS: tuple[Mapping[str, Any], ...] = (
    *({},) * 6,
    {"estimator": "columns"},
    {"estimator": "hutchinson"},
    {"estimator": "hutchinson", "probe_per": "batch"},
    {"samples": "all"},
    {"samples": 2},
    {"distribution": "gaussian"},
    {"probes": 2},
    {"gradient": "weights_only"},
    {"quantity": "simplified"},
    {"normalize": "features"},
    {"standardize": True},
)
_INSERTED = {
    *LATE.values(),
    "codes",
    "context",
    "memory",
    "positions",
    "attention",
    "in-place input",
}

# Few other options, so that most networks of a topic test it.
_FOCUSED: dict[str, tuple[Any, ...]] = {
    "more stages": (0, 1),
    "loss": ADDITIVE,
    "around": ("nothing",),
    "frozen": ("nothing",),
    "count": (1,),
    "options": (*({},) * 4, {"probes": 2}, {"distribution": "gaussian"}),
}
TOPICS: dict[str, dict[str, tuple[Any, ...]]] = {
    "anything": {"special": ("linear",)},
    "branches": {
        **_FOCUSED,
        "special": ("film", "towers", "soft experts", "several outputs", "detached gate"),
        "other": ("another", "none", "codes"),
        "layer": (r"\.a$|\.c$|own|experts",),
    },
    "ways around": {
        "special": ("encoder-decoder", "concatenated", "skip", "reused", "checkpointed"),
        "more stages": (1, 2),
        "loss": ADDITIVE,
        "around": ("sum", "concatenation", "nothing"),
    },
    "experts": {**_FOCUSED, "special": ("routed experts",), "layer": ("experts",)},
    "frozen features": {
        **_FOCUSED,
        "special": ("attention", "learned rows"),
        "more stages": (1,),
        "stage": ("linear", "functional", "convolutions"),
        "tokens": (3, 5),
        "frozen": ("first stage",),
        "layer": ("k$|v$|q$",),
    },
    "in place": {
        **_FOCUSED,
        "special": (
            "in-place activation",
            "in-place branch",
            "in-place arithmetic",
            "in-place input",
        ),
        "tokens": (0, 0, 0, 3),
        "other": ("none", "another"),
        "layer": (r"\.b$|\.c$",),
    },
    "coincidence": {
        **_FOCUSED,
        "other": ("positions", "mask", "memory", "context"),
        "more stages": (1,),
        "layer": ("stages",),
        "tokens": ("n", "n", "n/4"),
        "width": ("n", "n/4", 4),
        "first": ("larger", "larger", "larger", "smaller", "same"),
    },
    "targets": {
        **_FOCUSED,
        "classes": ("n", "n/4", 3),
        "loss": (
            "class weights",
            "ignored labels",
            "class weights in the targets",
            "sample weights in the targets",
        ),
        "first": ("plain targets", "larger", "smaller"),
    },
    "stash": {
        **_FOCUSED,
        "special": ("stash",),
        "loss": ("cross entropy", "centers", "balance"),
    },
    "state": {
        **_FOCUSED,
        "special": ("running mean", "drawing", "stash"),
        "loss": ("counting", "counting object", "cross entropy"),
    },
    "hooks": {**_FOCUSED, "hook": ("attribute", "closure"), "more stages": (1, 2)},
    "norms": {"special": ("batch norm", "layer norm", "group norm", "convolutions")},
    "named": {
        **_FOCUSED,
        "more stages": (1, 2),
        "options": ({"estimator": "columns"}, {"estimator": "exact"}),
        "other": ("none", "another", "codes", "context"),
        "tokens": (0,),
    },
    "layouts": {
        **_FOCUSED,
        "other": ("another",),
        "order": ("x, other",),
        "first": (
            "bare",
            "larger, bare, smaller",
            "shared",
            "smaller, shared, bare",
        ),
        "loss": ("sample weights in the targets", *ADDITIVE),
        "layer": (r"\.a$|own|experts|joint",),
    },
    "late": {
        **_FOCUSED,
        "more stages": (1, 2),
        "late": tuple(LATE)[1:],
        "stage": ("linear", "functional"),
        "options": ({}, {"samples": "all"}),
    },
}
"""Options to choose from where they differ from those of `draw`."""

_LEADING = {
    "coincidence": "other",
    "targets": "loss",
    "stash": "loss",
    "hooks": "hook",
    "named": "options",
    "layouts": "first",
    "late": "late",
}


def topics() -> list[tuple[str, Any]]:
    """Return all pairs of a topic and one of its subjects."""
    return [
        (topic, one)
        for topic, options in TOPICS.items()
        for one in options[_LEADING.get(topic, "special")]
    ]


def draw(choose: Choose[Any], topic: str = "anything", about: Any = None) -> Network:
    """Draw a network.

    Args:
        choose: Takes a sequence and returns one of its items; the first ones are the simplest.
        topic: One of `TOPICS`.
        about: Subject of the topic, see `topics`; any by default.
    """
    wished = dict(TOPICS[topic])
    if about is not None:
        wished[_LEADING.get(topic, "special")] = (about,)

    def pick(name: str, *options: object) -> Any:
        return choose(wished.get(name, options))

    n = pick("samples", 8, 12)
    lengths = {"n": n, "n/4": n // 4}
    other = pick("other", *("none",) * 4, *OTHERS)
    if other in ("positions", "mask", "memory"):
        tokens = pick("tokens", "n", "n/4", 5)
    elif topic == "coincidence":
        tokens = 0
    else:
        tokens = pick("tokens", 0, 0, 0, 3, "n/4", "n")
    width = pick("width", 4, 3, "n/4", 6)
    classes = pick("classes", 3, "n/4", 2, "n")
    tokens, width, classes = (lengths.get(size, size) for size in (tokens, width, classes))
    pool = pick("pool", "mean", "attention", "not") if tokens else "mean"
    late = pick("late", "nothing")
    loss = "contrastive" if late.startswith("loss") else pick("loss", "cross entropy", *LOSSES)
    if pool == "not" and loss not in _PER_TOKEN:
        pool = "mean"
    if late != "nothing" and loss not in (*ADDITIVE, "contrastive"):
        loss = "cross entropy"

    free = tuple(name for name in STAGES if name not in _INSERTED)
    stages = [pick("stage", *("linear",) * 4, *free) for _ in range(pick("more stages", 1, 2, 3))]
    wanted = [LATE[late]] if LATE[late] else []
    if OTHERS[other] and not set(stages) & set(OTHERS[other]):
        wanted.append(choose(OTHERS[other]))
    if "special" in wished:
        wanted.append(pick("special"))
    if loss in ("centers", "balance"):
        wanted.append("stash")
    frozen = pick("frozen", "nothing", "nothing", "first stage", "layer")
    if late == "unfreezing":
        frozen = "first stage"
    for name in wanted:
        if name not in stages:  # the subject of a topic is trained
            stages.insert(
                choose(range(frozen == "first stage" and len(stages) > 0, len(stages) + 1)), name
            )
    if not stages:
        stages = ["linear"]
    if "attention" in stages and not tokens:
        tokens = 3
    # A plain step works even if the caller's tensor is changed in place.
    stages.sort(key=lambda name: name != "in-place input")

    network = Network(
        seed=choose(range(1000)),
        samples=n,
        width=width,
        classes=classes,
        tokens=tokens,
        stages=tuple(stages),
        other=other,
        order=pick("order", "x, other", "other, x") if other != "none" else "x, other",
        passed=choose(("tuple", "mapping")),
        around=pick("around", "nothing", "nothing", "sum", "concatenation"),
        pool=pool,
        output=pick("output", "tensor", "tensor", "mapping"),
        frozen=frozen,
        hook=pick("hook", "none"),
        loss=loss,
        late=late,
        training=late != "training" and pick("training", True, True, False),
        first=pick("first", "same", "larger"),
        options=pick("options", *_OPTIONS),
    )
    layers = called_once(network)
    (wanted_layer,) = wished.get("layer", ("",))
    fitting = [name for name in layers if re.search(wanted_layer, name)] or layers
    # The head, which has a closed form, is only one of many layers.
    options = (*(fitting[:-1] or fitting), *fitting)
    chosen = {choose(options) for _ in range(pick("count", 1, 1, 1, 2))}
    return dataclasses.replace(network, layers=tuple(sorted(chosen)))


def drawn(seed: int, topic: str = "anything", about: Any = None) -> Network:
    """Draw a network by a seed."""
    return draw(random.Random(seed).choice, topic, about)  # noqa: S311
