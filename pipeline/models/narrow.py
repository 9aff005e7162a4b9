"""Parts of a tower that are run whole, as their library runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .loading import VisionModel


def narrow(model: VisionModel) -> torch.autocast:
    """Within it such parts run in the model's dtype, where it is narrower than float32."""
    few_bits = model.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(
        model.device.type, dtype=model.dtype if few_bits else None, enabled=few_bits
    )
