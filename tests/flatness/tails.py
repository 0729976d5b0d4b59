"""Networks behind a penalized layer: which ones are supported, and which ones are refused.

``python tests/flatness/tails.py > docs/flatness-tails.md`` writes the table; test_tails.py checks
each row, and that the table is up to date.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Case:
    """A model, its penalized layer or layers, a loss and a batch, all in float64."""

    model: nn.Module
    inputs: Any
    targets: Any
    loss: Loss
    layer: str | tuple[str, ...] = "layer"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        group: The heading that it stands under.
        layer: The penalized layer.
        tail: What runs behind it.
        loss: The loss.
        build: Makes the case.
        method: What ``estimator="auto"`` takes.
        refused: Part of the message, where it is refused.
        step: Step of the differences that it is checked with.
        rel: Relative error that is allowed; more than rounding where something casts to float32.
        needs: A package that it needs.
        slow: Whether it takes more than a second.
    """

    group: str
    layer: str
    tail: str
    loss: str
    build: Callable[[], Case]
    method: str = "sample_probes"
    refused: str | None = None
    step: float = 1e-5
    rel: float = 1e-5
    needs: str | None = None
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.group}: {self.tail}, {self.loss}, {self.layer}"


METHODS = {
    "closed_form": "closed form",
    "columns": "exact columns",
    "sample_probes": "probes for each sample",
    "batch_probes": "probes for the batch",
}


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def classes(*shape: int, of: int) -> Tensor:
    return torch.randint(0, of, shape, generator=torch.Generator().manual_seed(3))


class Call(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class Net(nn.Module):
    """A body, the penalized layer ``layer``, a module that reshapes its output, and a tail."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], tail: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.layer = layer
        self.shape = shape
        self.tail = tail

    def forward(self, x: Tensor) -> Any:
        return self.tail(self.layer(self.body(x)).unflatten(1, self.shape))


def smooth(prediction: Tensor, targets: Tensor) -> Tensor:
    """A loss with derivatives of all orders, whatever the shape of the prediction."""
    flat = prediction.flatten(1)
    return (flat * targets[:, : flat.shape[1]]).tanh().square().mean()


SMOOTH = "smooth"
Make = Callable[[], Any]


def behind_linear(make: Make, shape: tuple[int, ...], loss: Make, targets: Any) -> Case:
    d = torch.Size(shape).numel()
    model = Net(nn.Linear(3, d), shape, make()).double()
    return Case(model, numbers(5, 3), targets, loss())


def tails(
    group: str, makes: Mapping[str, Make], *, shape: tuple[int, ...], **how: Any
) -> list[Row]:
    """Rows of one linear layer with several tails."""
    return [
        Row(
            group,
            f"Linear 3 to {torch.Size(shape).numel()}",
            name,
            SMOOTH,
            lambda make=make: behind_linear(make, shape, lambda: smooth, numbers(5, 999, seed=1)),
            **how,
        )
        for name, make in makes.items()
    ]


def mixed(*modules: nn.Module) -> nn.Module:
    """A tail in which each output depends on several inputs in different ways."""
    return nn.Sequential(nn.Linear(3, 3), *modules, nn.Linear(3, 2), nn.Tanh())


def batch_norm_in_evaluation() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    norm.running_mean, norm.running_var = numbers(4).float(), numbers(4).square().float()
    return norm.eval()


NORMS: dict[str, Make] = {
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, affine=True),
    "InstanceNorm1d, running statistics": lambda: nn.InstanceNorm1d(4, track_running_stats=True),
    "LayerNorm": lambda: nn.LayerNorm(3),
    "LayerNorm, two dimensions": lambda: nn.LayerNorm((4, 3), elementwise_affine=False),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "GroupNorm as instance norm": lambda: nn.GroupNorm(4, 4),
    "RMSNorm": lambda: nn.RMSNorm(3),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "BatchNorm1d, stored statistics": batch_norm_in_evaluation,
    "F.layer_norm": lambda: Call(lambda z: F.layer_norm(z, (3,))),
    "F.instance_norm": lambda: Call(F.instance_norm),
    "torch.native_layer_norm": lambda: Call(
        lambda z: torch.native_layer_norm(z, (3,), None, None, 1e-5)[0]
    ),
    "F.normalize": lambda: Call(F.normalize),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral norm, evaluation": lambda: nn.utils.parametrizations.spectral_norm(
        nn.Linear(3, 3)
    ).eval(),
}
BATCH_NORMS: dict[str, Make] = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm1d, cumulative": lambda: nn.BatchNorm1d(4, momentum=None, affine=False),
    "BatchNorm1d, no running statistics": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "SyncBatchNorm, one process": lambda: nn.SyncBatchNorm(4),
    "F.batch_norm": lambda: Call(lambda z: F.batch_norm(z, None, None, training=True)),
}
VOLUME_NORMS: dict[str, Make] = {
    "InstanceNorm3d": lambda: nn.InstanceNorm3d(2),
    "LayerNorm over channels": lambda: Call(lambda z: F.layer_norm(z.movedim(1, -1), (2,))),
    "GroupNorm, volume": lambda: nn.GroupNorm(1, 2),
}


def bent(makes: Mapping[str, Make]) -> dict[str, Make]:
    return {
        name: lambda make=make: nn.Sequential(make(), nn.Tanh()) for name, make in makes.items()
    }


def monai_activation(name: str) -> Make:
    def make() -> Any:
        from monai.networks.blocks import activation

        return getattr(activation, name)()

    return make


KINKS = "ReLU LeakyReLU PReLU RReLU ReLU6 Hardtanh Hardswish Hardsigmoid Hardshrink Softshrink"
CURVES = "ELU SELU CELU GELU SiLU Mish Softplus Softsign Tanh Sigmoid LogSigmoid Tanhshrink"
ACTIVATIONS: dict[str, Make] = {
    **{name: getattr(nn, name) for name in f"{KINKS} {CURVES}".split()},
    "ReLU, in place": lambda: nn.ReLU(inplace=True),
    "GELU, tanh": lambda: nn.GELU("tanh"),
    "Threshold": lambda: nn.Threshold(0.1, 0.2),
    "Softmax": lambda: nn.Softmax(2),
    "LogSoftmax": lambda: nn.LogSoftmax(2),
    "GLU": lambda: nn.Sequential(nn.Linear(3, 6), nn.GLU()),
    "Dropout": nn.Dropout,
    "AlphaDropout": nn.AlphaDropout,
    "MONAI Swish": monai_activation("Swish"),
    "MONAI MemoryEfficientSwish": monai_activation("MemoryEfficientSwish"),
    "MONAI Mish": monai_activation("Mish"),
}
CROSSED: dict[str, Make] = {
    f"{norm}, {activation}": lambda norm=norm, activation=activation: nn.Sequential(
        NORMS[norm](), ACTIVATIONS[activation]()
    )
    for norm, activation in itertools.product(
        ("InstanceNorm1d", "LayerNorm", "GroupNorm", "RMSNorm"),
        ("ReLU", "LeakyReLU", "GELU", "SiLU", "Softplus"),
    )
}
BATCH_CROSSED: dict[str, Make] = {
    f"BatchNorm1d, {name}": lambda name=name: nn.Sequential(nn.BatchNorm1d(4), ACTIVATIONS[name]())
    for name in ("ReLU", "LeakyReLU", "GELU", "SiLU", "Softplus")
}


def unpooled(z: Tensor) -> Tensor:
    pooled, indices = F.max_pool2d(z.tanh(), 2, return_indices=True)
    return F.max_unpool2d(pooled, indices, 2)


def warped(z: Tensor) -> Tensor:
    theta = torch.eye(2, 3, dtype=z.dtype) + z.flatten(1)[:, :6].reshape(-1, 2, 3).tanh() / 5
    grid = F.affine_grid(theta, [len(z), 2, 4, 4], align_corners=False)
    return F.grid_sample(z, grid, align_corners=False)


RESAMPLING: dict[str, Make] = {
    "Conv2d, strided": lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1),
    "Conv2d, depthwise": lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 2, 2, stride=2),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "MaxUnpool2d": lambda: Call(unpooled),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "LPPool2d": lambda: nn.Sequential(nn.Sigmoid(), nn.LPPool2d(3, 2)),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(2),
    "Upsample, nearest": lambda: nn.Upsample(scale_factor=2),
    "Upsample, bilinear": lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"),
    "Upsample, bicubic": lambda: nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "reflection padding": lambda: nn.ReflectionPad2d(1),
    "PixelShuffle": lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)),
    "grid_sample by its own input": lambda: Call(warped),
    "fft": lambda: Call(lambda z: torch.fft.rfft2(z).abs()),
}


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.inner = kind(3, 3, batch_first=True, **options)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.inner(z)[0]
        return out


class Packed(Recurrent):
    def forward(self, z: Tensor) -> Tensor:
        lengths = torch.tensor([4, 3, 2, 2, 1])
        packed = nn.utils.rnn.pack_padded_sequence(z, lengths, batch_first=True)
        out: Tensor = nn.utils.rnn.pad_packed_sequence(self.inner(packed)[0], batch_first=True)[0]
        return out


class SelfAttention(nn.Module):
    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(3, 3, batch_first=True)
        self.weights = weights

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.inner(z, z, z, need_weights=self.weights)[0]
        return out


class BertBlock(nn.Module):
    """A BERT block (Devlin et al. 2018): attention and two linear layers, post-normalized."""

    def __init__(self, width: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.project, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.grow, self.shrink = nn.Linear(width, 8), nn.Linear(8, width)
        self.heads = heads

    def forward(self, z: Tensor) -> Tensor:
        z = self.embed(z)
        parts = self.project(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        z = self.first(z + self.mix(mixed))
        out: Tensor = self.second(z + self.shrink(F.gelu(self.grow(z))))
        return out


def causal(z: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(z, z.sin(), z.cos(), is_causal=True)


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(3, 1, 5, batch_first=True, **options)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerDecoderLayer(3, 1, 5, dropout=0.0, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.inner(z[:, :2], z[:, 2:])
        return out


SEQUENCES: dict[str, Make] = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "LSTM, bidirectional, two layers": lambda: Recurrent(
        nn.LSTM, num_layers=2, bidirectional=True, proj_size=2
    ),
    "LSTM, packed": lambda: Packed(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "RNN": lambda: Recurrent(nn.RNN),
    "MultiheadAttention": lambda: SelfAttention(weights=True),
    "MultiheadAttention, fused": lambda: SelfAttention(weights=False),
    "scaled_dot_product_attention, causal": lambda: Call(causal),
    "BERT block": BertBlock,
    "TransformerEncoderLayer": lambda: encoder(dropout=0.1, activation="gelu"),
    "TransformerEncoderLayer, norm first": lambda: encoder(dropout=0.0, norm_first=True),
    "TransformerDecoderLayer": Decoder,
}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.GELU())

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = z + self.inner(z)
        return out


class Recomputed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inner, z, use_reentrant=False)
        return out


def pairs(z: Tensor) -> Tensor:
    return torch.cdist(z, z.roll(1, 1) + 1)


STRUCTURES: dict[str, Make] = {
    "nothing": nn.Identity,
    "residual block": Residual,
    "checkpoint, norm and attention": lambda: Recomputed(
        nn.Sequential(nn.LayerNorm(3), Call(causal))
    ),
    "bilinear form": lambda: Call(lambda z: z @ z.mT),
    "cdist": lambda: Call(pairs),
    "pdist": lambda: Call(lambda z: torch.stack([F.pdist(one) for one in z])),
    "cosine similarity": lambda: Call(lambda z: F.cosine_similarity(z[:, :2], z[:, 2:], dim=2)),
    "logsumexp": lambda: Call(lambda z: z.logsumexp(2)),
    "determinant and inverse": lambda: Call(
        lambda z: (
            torch.linalg.inv(z @ z.mT + torch.eye(4)) * torch.linalg.det(z[:, :3])[:, None, None]
        )
    ),
    "singular values": lambda: Call(torch.linalg.svdvals),
    "sort, cumprod": lambda: Call(lambda z: z.sort(2).values.cumprod(2)),
}


LABELS = classes(5, of=6)
ONE_HOT = F.one_hot(LABELS, 6).double()
REAL = numbers(5, 6, seed=2)
SIGNS = REAL.sign()


def onto(loss: Callable[..., Tensor], targets: Any, *, change: Any = None) -> tuple[Make, Any]:
    """A loss of the prediction, which is transformed first if necessary, and its targets."""
    if change is None:
        return lambda: loss, targets
    return lambda: lambda z, y: loss(change(z), y), targets


LOSSES: dict[str, tuple[Make, Any]] = {
    "MSELoss": (nn.MSELoss, REAL),
    "L1Loss": (nn.L1Loss, REAL),
    "SmoothL1Loss": (nn.SmoothL1Loss, REAL),
    "HuberLoss": (lambda: nn.HuberLoss(delta=0.3), REAL),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, LABELS),
    "CrossEntropyLoss, smoothing": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), LABELS),
    "CrossEntropyLoss, soft targets": (nn.CrossEntropyLoss, REAL.softmax(1)),
    "NLLLoss": onto(F.nll_loss, LABELS, change=lambda z: z.log_softmax(1)),
    "BCELoss": onto(F.binary_cross_entropy, ONE_HOT, change=torch.sigmoid),
    "BCEWithLogitsLoss": (lambda: nn.BCEWithLogitsLoss(pos_weight=numbers(6).abs()), ONE_HOT),
    "KLDivLoss": onto(
        lambda z, y: F.kl_div(z, y, reduction="batchmean"),
        REAL.softmax(1),
        change=lambda z: z.log_softmax(1),
    ),
    "GaussianNLLLoss": onto(
        lambda z, y: F.gaussian_nll_loss(z[:, :3], y, z[:, 3:].exp()), numbers(5, 3, seed=2)
    ),
    "PoissonNLLLoss": (nn.PoissonNLLLoss, REAL.abs()),
    "SoftMarginLoss": (nn.SoftMarginLoss, SIGNS),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, ONE_HOT),
    "HingeEmbeddingLoss": onto(F.hinge_embedding_loss, SIGNS, change=torch.sin),
    "MarginRankingLoss": onto(
        lambda z, y: F.margin_ranking_loss(z[:, :3].sin(), z[:, 3:].cos(), y, margin=0.1),
        SIGNS[:, :3],
    ),
    "CosineEmbeddingLoss": onto(
        lambda z, y: F.cosine_embedding_loss(z[:, :3], z[:, 3:], y), SIGNS[:, 0]
    ),
    "TripletMarginLoss": onto(
        lambda z, y: F.triplet_margin_loss(z, y, y.flip(0), margin=3.0), REAL
    ),
}
BATCH_LOSSES: dict[str, tuple[Make, Any]] = {
    "contrastive, all pairs": onto(
        lambda z, y: F.cross_entropy(F.normalize(z) @ F.normalize(z).T / 0.5, y), torch.arange(5)
    ),
    "pairwise distances": onto(lambda z, y: (torch.cdist(z, z) - y).square().mean(), 1.0),
    "CrossEntropyLoss, weighted by its batch": onto(
        lambda z, y: F.cross_entropy(z, y) / z.std(), LABELS
    ),
}


def monai_loss(name: str, **options: Any) -> Make:
    def make() -> Any:
        from monai import losses

        return getattr(losses, name)(**options)

    return make


def monai_loss_of(name: str, change: Callable[[Tensor], Tensor], **options: Any) -> Make:
    def make() -> Any:
        loss = monai_loss(name, **options)()
        return lambda z, y: loss(change(z), y)

    return make


VOXELS = classes(5, 1, 4, 4, 4, of=2)
PLANE = numbers(5, 1, 6, 6, seed=4)
SEGMENTATION: dict[str, Make] = {
    "DiceLoss": monai_loss("DiceLoss", sigmoid=True),
    "DiceLoss, Jaccard, squared": monai_loss(
        "DiceLoss", sigmoid=True, jaccard=True, squared_pred=True
    ),
    "DiceCELoss": monai_loss("DiceCELoss", sigmoid=True),
    "TverskyLoss": monai_loss("TverskyLoss", sigmoid=True),
    "GeneralizedDiceLoss": monai_loss("GeneralizedDiceLoss", sigmoid=True),
    "HausdorffDTLoss": monai_loss("HausdorffDTLoss", sigmoid=True, include_background=True),
    "SoftclDiceLoss": monai_loss_of("SoftclDiceLoss", torch.sigmoid),
    "MultiScaleLoss": lambda: monai_loss(
        "MultiScaleLoss", loss=monai_loss("DiceLoss", sigmoid=True)(), scales=[0.0, 0.5]
    )(),
}
SINGLE_PRECISION: dict[str, Make] = {
    "FocalLoss": monai_loss("FocalLoss"),
    "DiceFocalLoss": monai_loss("DiceFocalLoss", sigmoid=True),
    "GeneralizedDiceFocalLoss": monai_loss("GeneralizedDiceFocalLoss", sigmoid=True),
}
IMAGES: dict[str, Make] = {
    "LocalNormalizedCrossCorrelationLoss": monai_loss(
        "LocalNormalizedCrossCorrelationLoss", spatial_dims=2
    ),
    "GlobalMutualInformationLoss": monai_loss_of("GlobalMutualInformationLoss", torch.sigmoid),
}


def volume_case(make: Make, targets: Tensor, *, tail: Make | None = None) -> Case:
    """The penalized layer of a small decoder for a volume or an image."""
    spatial = targets.ndim - 2
    convolution = (nn.ConvTranspose2d, nn.ConvTranspose3d)[spatial - 2]
    size = targets.shape[2] // 2
    decoder = nn.Sequential(
        convolution(2, 2, 2, stride=2), nn.SiLU(), (nn.Conv2d, nn.Conv3d)[spatial - 2](2, 1, 1)
    )
    return behind_linear(lambda: decoder, (2, *[size] * spatial), make, targets)


def loss_rows() -> Iterator[Row]:
    for name, (make, targets) in LOSSES.items():
        build = lambda make=make, targets=targets: behind_linear(  # noqa: E731
            lambda: nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(6, 6)), (6,), make, targets
        )
        yield Row("Losses", "Linear 3 to 6", "Tanh, Linear", name, build)
    for name, (make, targets) in BATCH_LOSSES.items():
        build = lambda make=make, targets=targets: behind_linear(  # noqa: E731
            nn.Tanh, (6,), make, targets
        )
        yield Row("Losses", "Linear 3 to 6", "Tanh", name, build, "batch_probes")
    for name in ("CrossEntropyLoss", "MSELoss", "BCEWithLogitsLoss", "CrossEntropyLoss, smoothing"):
        make, targets = LOSSES[name]
        yield Row(
            "Losses",
            "Linear 3 to 6, the last one",
            "nothing",
            name,
            lambda make=make, targets=targets: last_layer(make, targets),
            "closed_form",
        )
    for name, make in SEGMENTATION.items():
        build = lambda make=make: volume_case(make, VOXELS.double())  # noqa: E731
        yield Row(
            "Losses", "Linear 3 to 16", "ConvTranspose3d, SiLU, Conv3d", f"MONAI {name}", build
        )
    for name, make in SINGLE_PRECISION.items():
        build = lambda make=make: volume_case(make, VOXELS.double())  # noqa: E731
        tail = "ConvTranspose3d, SiLU, Conv3d"
        yield Row("Losses", "Linear 3 to 16", tail, f"MONAI {name}", build, step=1e-2, rel=2e-3)
    for name, make in IMAGES.items():
        build = lambda make=make: volume_case(make, PLANE)  # noqa: E731
        tail = "ConvTranspose2d, SiLU, Conv2d"
        yield Row("Losses", "Linear 3 to 18", tail, f"MONAI {name}", build)
    make = monai_loss_of("SSIMLoss", torch.sigmoid, spatial_dims=2, win_size=5)
    build = lambda make=make: volume_case(make, PLANE)  # noqa: E731
    yield Row("Losses", "Linear 3 to 18", tail, "MONAI SSIMLoss", build, step=1e-2, rel=2e-3)


def last_layer(make: Make, targets: Any) -> Case:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 6)).double()
    return Case(model, numbers(5, 3), targets, make(), "2")


LAYERS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "Linear on sequences": (lambda: nn.Linear(4, 3), (3, 4)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 2), (2, 5)),
    "Conv1d, strided, dilated": (lambda: nn.Conv1d(2, 3, 2, stride=2, dilation=2), (2, 7)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4)),
    "Conv2d, two groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), (4, 3, 3)),
    "Conv2d, depthwise": (lambda: nn.Conv2d(3, 3, 2, groups=3), (3, 3, 3)),
    "Conv2d, circular padding": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        (2, 4, 4),
    ),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 3, 3, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 2, stride=2), (2, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, output_padding=1), (2, 3, 3)),
    "ConvTranspose2d, two groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 3, 3)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 2, 2)),
}


def layer_case(make: Make, shape: tuple[int, ...], tail: nn.Module) -> Case:
    body = nn.Sequential(nn.Linear(3, torch.Size(shape).numel()), nn.Tanh(), nn.Unflatten(1, shape))
    model = nn.Sequential(body, make(), tail).double()
    return Case(model, numbers(4, 3), numbers(4, 999, seed=1), smooth, "1")


def layer_rows() -> Iterator[Row]:
    for name, (make, shape) in LAYERS.items():
        for tail, second in {
            "Tanh": nn.Tanh,
            "GroupNorm, SiLU": lambda: nn.Sequential(nn.GroupNorm(3, 3), nn.SiLU()),
            "InstanceNorm, LeakyReLU": lambda: nn.Sequential(Call(F.instance_norm), nn.LeakyReLU()),
        }.items():
            if tail != "Tanh" and name not in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d"):
                continue
            build = lambda make=make, shape=shape, second=second: layer_case(make, shape, second())  # noqa: E731
            yield Row("Layers", name, tail, SMOOTH, build)


def network(
    make: Make, layer: str | tuple[str, ...], shape: tuple[int, ...], *, out: Any = None
) -> Callable[[], Case]:
    def build() -> Case:
        model = make().double()
        change = out or (lambda prediction: prediction)
        return Case(
            model,
            numbers(*shape),
            numbers(shape[0], 9999, seed=1),
            lambda z, y: smooth(change(z), y),
            layer,
        )

    return build


def monai_net(name: str, *arguments: Any, **options: Any) -> Make:
    def make() -> Any:
        from monai.networks import nets

        return getattr(nets, name)(*arguments, **options)

    return make


def shape_autoencoder() -> nn.Module:
    from famseg.models import ShapeAutoencoder

    return ShapeAutoencoder(size=8, channels=(2, 4, 2), strides=(2, 2, 1), latent=2)


EFFICIENT = ["r1_k3_s11_e1_i4_o4_se0.25", "r1_k3_s22_e2_i4_o8_se0.25"]

UNET = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}


def segresnet() -> Any:
    from monai.networks.nets import SegResNet

    group = ("GROUP", {"num_groups": 2})
    return SegResNet(2, 4, 1, 2, norm=group, num_groups=2, blocks_down=(1, 1), blocks_up=(1,))


def high_res_net() -> Any:
    from monai.networks.nets import HighResNet

    plain = {"n_features": 2, "kernel_size": 1}
    layers = (
        {"name": "conv_0", "n_features": 2, "kernel_size": 3},
        {"name": "res_1", "n_features": 2, "kernels": (3, 3), "repeat": 1},
        {"name": "conv_1", **plain},
        {"name": "conv_2", "kernel_size": 1},
    )
    return HighResNet(2, 1, 2, layer_params=layers)


def first(prediction: Any) -> Tensor:
    out: Tensor = prediction[0]
    return out


# Name, constructor, layer, input shape, estimator chosen by auto.
NETWORKS: list[tuple[str, Make, str | tuple[str, ...], tuple[int, ...], str]] = [
    (
        "UNet",
        monai_net("UNet", **UNET, channels=(2, 4, 4), strides=(2, 2), num_res_units=1),
        "model.1.submodule.1.submodule.conv.unit0.conv",
        (2, 1, 8, 8),
        "sample_probes",
    ),
    (
        "UNet, first layer",
        monai_net("UNet", **UNET, channels=(2, 4), strides=(2,)),
        "model.0.conv",
        (2, 1, 8, 8),
        "sample_probes",
    ),
    (
        "UNet, batch norm",
        monai_net("UNet", **UNET, channels=(2, 4), strides=(2,), norm="batch"),
        "model.1.submodule.conv",
        (2, 1, 8, 8),
        "batch_probes",
    ),
    (
        "BasicUNet",
        monai_net("BasicUNet", **UNET, features=(2,) * 6),
        "upcat_2.convs.conv_0.conv",
        (1, 1, 32, 32),
        "sample_probes",
    ),
    (
        "AttentionUnet",
        monai_net("AttentionUnet", **UNET, channels=(2, 4), strides=(2,)),
        "model.1.submodule.conv.1.conv",
        (2, 1, 8, 8),
        "batch_probes",
    ),
    (
        "DynUNet",
        monai_net(
            "DynUNet",
            **UNET,
            kernel_size=[3] * 3,
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[2, 4, 4],
        ),
        "output_block.conv.conv",
        (2, 1, 8, 8),
        "sample_probes",
    ),
    ("SegResNet", segresnet, "down_layers.1.1.conv1.conv", (2, 1, 8, 8), "sample_probes"),
    (
        "AutoEncoder",
        monai_net("AutoEncoder", 2, 1, 1, channels=(2, 4), strides=(2, 2)),
        "encode.encode_1.conv",
        (2, 1, 8, 8),
        "sample_probes",
    ),
    (
        "AutoEncoder, batch norm, transposed convolution",
        monai_net("AutoEncoder", 2, 1, 1, channels=(2, 4), strides=(2, 2), norm="batch"),
        "decode.decode_0.conv.conv",
        (2, 1, 8, 8),
        "batch_probes",
    ),
    (
        "VarAutoEncoder",
        monai_net("VarAutoEncoder", 2, (1, 8, 8), 1, 3, (2, 4), (2, 2)),
        "mu",
        (3, 1, 8, 8),
        "sample_probes",
    ),
    (
        "ResNet",
        monai_net(
            "ResNet",
            "basic",
            [1] * 4,
            [2, 4, 4, 4],
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=3,
            conv1_t_stride=1,
            no_max_pool=True,
            num_classes=3,
        ),
        "layer3.0.conv1",
        (3, 1, 8, 8),
        "batch_probes",
    ),
    (
        "EfficientNet",
        monai_net("EfficientNet", EFFICIENT, 2, 1, 3, image_size=8, width_coefficient=0.1),
        "_blocks.0.0._project_conv",
        (3, 1, 8, 8),
        "batch_probes",
    ),
    (
        "DenseNet",
        monai_net("DenseNet", 2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1)),
        "features.transition1.conv",
        (3, 1, 16, 16),
        "batch_probes",
    ),
    ("HighResNet", high_res_net, "blocks.1.layers.1.conv", (2, 1, 6, 6), "batch_probes"),
    (
        "MedNeXt",
        monai_net(
            "MedNeXt",
            2,
            2,
            1,
            2,
            encoder_expansion_ratio=2,
            decoder_expansion_ratio=2,
            bottleneck_expansion_ratio=2,
            blocks_down=(1,),
            blocks_bottleneck=1,
            blocks_up=(1,),
        ),
        "bottleneck.0.conv2",
        (1, 1, 16, 16),
        "sample_probes",
    ),
    (
        "ViT",
        monai_net("ViT", 1, 4, 2, 4, 6, 1, 2, classification=True, num_classes=3, spatial_dims=2),
        "patch_embedding.patch_embeddings",
        (3, 1, 4, 4),
        "sample_probes",
    ),
    (
        "FullyConnectedNet, dropout",
        monai_net("FullyConnectedNet", 3, 3, (5, 4), dropout=0.1),
        "hidden_0.0",
        (4, 3),
        "sample_probes",
    ),
]


def bert() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=11,
        hidden_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=8,
        num_labels=3,
        initializer_range=0.5,
    )
    model = BertForSequenceClassification(config).double()
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[0, 3:] = 0
    tokens = 1 + classes(3, 5, of=10)  # not the padding token, whose row has no gradient in torch
    inputs = {"input_ids": tokens, "attention_mask": mask}
    layer = "bert.encoder.layer.0.output.dense"
    return Case(model, inputs, classes(3, of=3), F.cross_entropy, layer, {"output": "logits"})


def network_rows() -> Iterator[Row]:
    for name, make, layer, shape, method in NETWORKS:
        out = first if name in ("ViT", "VarAutoEncoder") else None
        build = network(make, layer, shape, out=out)
        # Many kinks: the step must be small.
        yield Row("Networks", str(layer), f"MONAI {name}", SMOOTH, build, method, step=1e-6)
    build = network(shape_autoencoder, "expand", (2, 1, 8, 8, 8))
    yield Row("Networks", "expand", "famseg.models.ShapeAutoencoder", SMOOTH, build)
    build = network(shape_autoencoder, ("latent", "decode.decode_0.conv.conv"), (2, 1, 8, 8, 8))
    several = "latent and decode.decode_0.conv.conv"
    yield Row("Networks", several, "famseg.models.ShapeAutoencoder", SMOOTH, build)
    layer = "bert.encoder.layer.0.output.dense"
    tail = "transformers BertForSequenceClassification, dropout"
    yield Row("Networks", layer, tail, "cross_entropy", bert, needs="transformers")


class SyncBatchNorm(torch.autograd.Function):
    """Named like torch's norm over several processes, which runs only on accelerators."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.layer(x).tanh())
        return out


def scripted_layer_norm() -> nn.Module:
    norm = nn.LayerNorm(3)
    return torch.jit.trace(norm, torch.randn(5, 4, 3))


REFUSED_TAILS: dict[str, tuple[Make, str]] = {
    "reentrant checkpoint": (
        lambda: Call(lambda z: checkpoint(torch.sin, z, use_reentrant=True)),
        "a reentrant checkpoint runs after layer",
    ),
    "SyncBatchNorm, several processes": (
        lambda: Call(SyncBatchNorm.apply),
        "synchronized batch norm runs after layer",
    ),
    "torch.ops.aten.native_layer_norm": (
        lambda: Call(lambda z: torch.ops.aten.native_layer_norm(z, [3], None, None, 1e-5)[0]),
        "layer norm runs after layer",
    ),
    "LayerNorm, traced": (scripted_layer_norm, "layer norm runs after layer"),
    "cdist, p=1": (
        lambda: Call(lambda z: torch.cdist(z, z.roll(1, 1) + 1, p=1)),
        "_cdist_backward",
    ),
    "pdist, p=3": (
        lambda: Call(lambda z: torch.stack([F.pdist(one, 3) for one in z])),
        "_pdist_backward",
    ),
    "embedding_bag, weighted": (
        lambda: Call(
            lambda z: F.embedding_bag(
                classes(5, 12, of=4),
                numbers(4, 3),
                per_sample_weights=z.flatten(1),
                mode="sum",
            )
        ),
        "_embedding_bag_per_sample_weights_backward",
    ),
    "segment_reduce": (
        lambda: Call(
            lambda z: torch.segment_reduce(z, "mean", lengths=torch.ones(5, dtype=torch.long))
        ),
        "_segment_reduce_backward",
    ),
    "detached": (lambda: Call(lambda z: z.detach()), "does not depend on layer"),
    "argmax": (lambda: Call(lambda z: z.argmax(2).double()), "does not depend on layer"),
}
REFUSED_LOSSES: dict[str, tuple[Make, Any, str]] = {
    "CTCLoss": (
        *onto(
            lambda z, y: F.ctc_loss(
                z[:, None].log_softmax(2), y, torch.tensor([5]), torch.tensor([2])
            ),
            torch.tensor([[1, 2]]),
        ),
        "_ctc_loss_backward",
    ),
    "MultiMarginLoss": (nn.MultiMarginLoss, LABELS, "multi_margin_loss_backward"),
    "MultiLabelMarginLoss": (
        nn.MultiLabelMarginLoss,
        torch.tensor([[0, 3, -1, 0, 0, 0]] * 5),
        "multilabel_margin_loss_backward",
    ),
    'MSELoss, reduction="none"': (
        lambda: nn.MSELoss(reduction="none"),
        REAL,
        "one scalar for the batch",
    ),
}


def refused_rows() -> Iterator[Row]:
    for name, (make, message) in REFUSED_TAILS.items():
        build = lambda make=make: behind_linear(  # noqa: E731
            lambda: nn.Sequential(nn.Sigmoid(), make()), (4, 3), lambda: smooth, numbers(5, 99)
        )
        yield Row("Refused", "Linear 3 to 12", name, SMOOTH, build, refused=message)
    for name, (make, targets, message) in REFUSED_LOSSES.items():
        build = lambda make=make, targets=targets: behind_linear(  # noqa: E731
            nn.Tanh, (6,), make, targets
        )
        yield Row("Refused", "Linear 3 to 6", "Tanh", name, build, refused=message)
    twice = lambda: Case(Twice().double(), numbers(5, 3), numbers(5, 3), F.mse_loss)  # noqa: E731
    message = "was called 2 times"
    yield Row("Refused", "Linear 3 to 3", "the layer itself", "mse_loss", twice, refused=message)


def rows() -> Iterator[Row]:
    narrow, plane = (4, 3), (2, 4, 4)
    yield from tails("Normalization", bent(NORMS), shape=narrow)
    yield from tails("Normalization", bent(BATCH_NORMS), shape=narrow, method="batch_probes")
    yield from tails("Normalization", bent(VOLUME_NORMS), shape=(2, 2, 3, 2))
    yield from tails(
        "Normalization",
        bent({"BatchNorm2d": lambda: nn.BatchNorm2d(2)}),
        shape=plane,
        method="batch_probes",
    )
    yield from tails(
        "Activations",
        {name: lambda make=make: mixed(make()) for name, make in ACTIVATIONS.items()},
        shape=narrow,
    )
    yield from tails("Norms and activations", CROSSED, shape=narrow)
    yield from tails("Norms and activations", BATCH_CROSSED, shape=narrow, method="batch_probes")
    yield from tails("Convolution and resampling", bent(RESAMPLING), shape=plane)
    yield from tails("Sequences and attention", bent(SEQUENCES), shape=narrow)
    yield from tails("Structure", bent(STRUCTURES), shape=narrow)
    yield from loss_rows()
    yield from layer_rows()
    yield from network_rows()
    yield from refused_rows()


ROWS = list(rows())

HEAD = """# What may stand behind a penalized layer

Each row is a network of a few neurons in float64, penalized as `FAM(..., estimator="auto")` does it
by itself. Its flatness is compared with differences of the loss, and the gradient of it, in all
parameters of the model, with differences of the flatness; torch's double backward is trusted in
neither. Norms in training mode and attention are right because the step replaces the operations
that torch differentiates wrongly, or not at all, by equal ones. What is refused raises a
`FlatnessError` that holds the words given here.

This page is written by `python tests/flatness/tails.py > docs/flatness-tails.md`; a test checks
every row of it, the refusals too.
It is that of torch 2.13: with torch 2.10 `grid_sample` by its own input has no second derivative
and is refused.
"""


def markdown(rows: Iterable[Row]) -> str:
    """Return the page that shows some rows: tables under headings, refusals last."""
    rows = list(rows)
    right = sum(row.refused is None for row in rows)
    lines = [HEAD, f"{right} tails are right, {len(rows) - right} are refused."]
    for group in dict.fromkeys(row.group for row in rows):
        refused = group == "Refused"
        last = "message" if refused else "`auto` takes"
        lines += ["", f"## {group}", "", f"| behind the layer | loss | layer | {last} |"]
        lines += ["|---|---|---|---|"]
        for row in rows:
            if row.group == group:
                end = f"... {row.refused} ..." if row.refused else METHODS[row.method]
                lines.append(f"| {row.tail} | {row.loss} | {row.layer} | {end} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(ROWS), end="")
