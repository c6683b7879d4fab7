"""The number format that a network computes in, chosen for a device."""

from __future__ import annotations

import torch

AMP_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """Autocast to what `run.amp` asks for.

    Attributes:
        name: a key of `AMP_DTYPES`.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            # Not bf16 on a CPU, though 1.5 times as fast with AVX512_BF16: in 1 of 13 runs oneDNN's weight gradient of
            # a 3D convolution held numbers of 1e35 (torch 2.13), and what is random in memory cannot be repeated.
            has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            amp = "fp32" if device.type == "cpu" else "bf16" if has_bf16 else "fp16"
        self.name = amp
        self.device = device
        self.dtype = AMP_DTYPES[amp]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
