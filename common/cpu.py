"""The arithmetic of this machine's CPU."""

import torch


def cpu_emulates(dtype: torch.dtype) -> bool:
    """True if oneDNN has no convolutions and matrix products in ``dtype`` for this CPU.

    Torch's own loops then take their place. For bf16, oneDNN needs AVX-512 on x86.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    if not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return not torch.ops.mkldnn._is_mkldnn_fp16_supported()
