"""Float32 that is float32."""

from __future__ import annotations

import torch


def exact_float32() -> None:
    """Keep GPUs from computing float32 with the 10 bits of TF32.

    PyTorch allows it in convolutions by default. The penalty is a second derivative, of which such
    rounding leaves two digits; baselines are computed alike, so that a comparison of lambda is one
    of lambda. Whoever wants speed says so by ``training.precision``, under which the rest of the
    network is in bf16.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
