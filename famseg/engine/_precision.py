"""Float32 without the rounding of TF32."""

from __future__ import annotations

import torch


def exact_float32() -> None:
    """Prevent GPUs from computing float32 with the 10 mantissa bits of TF32.

    PyTorch allows this in convolutions by default. The penalty is a second derivative, of which
    such rounding leaves only two digits. Baselines are computed in the same way, so that they
    differ only in lambda. To trade precision for speed, set ``training.precision``, which computes
    the rest of the network in bf16.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
