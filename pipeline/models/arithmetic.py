"""How a worker computes: threads, device, precision, and where a GPU may shorten float32."""

from __future__ import annotations

from dataclasses import replace

import torch

from .loading import VisionModel

TORCH_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# TF32 keeps 10 bits of a float32's 23. Torch's own choice, made explicit here: convolutions, such
# as those that cut a picture into patches, may use it, matrix products may not.
TF32 = {"convolutions": True, "products": False}
# Of maps whose correlations are the result.
NO_TF32 = {"convolutions": False, "products": False}


def settle(threads: int, tf32: dict[str, bool]) -> None:
    """Have this process compute with so many threads on a CPU, with TF32 on a GPU as it says.

    What is given here is kept in the provenance of what comes of it.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32["convolutions"]
    torch.backends.cuda.matmul.allow_tf32 = tf32["products"]


def placed(model: VisionModel, device: str, precision: str) -> VisionModel:
    """A model on a device, to be run in a precision of the store's metadata."""
    place = torch.device(device)
    module, dtype = model.module.to(place), TORCH_DTYPE[precision]
    return replace(model, module=module, device=place, dtype=dtype)
