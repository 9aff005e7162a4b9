"""CoCa as a module: built, and its attention pool as a tower of one layer."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.lean import open_clip

from . import openclip_tower
from .norms import linear_of
from .openclip_tower import OpenClipTower, block_of
from .query_pool import Projections, QueryPool
from .reading import PoolRow

if TYPE_CHECKING:
    from .loading import VisionModel


class CoCa(open_clip.CoCa):
    """open_clip's, whose embedding of an image is given as open_clip's other models give theirs:
    alone, and normalised only where that is asked for."""

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        embedding_be: Tensor = self.visual(images)  # `prepare` has it give that alone
        return torch.nn.functional.normalize(embedding_be, dim=-1) if normalize else embedding_be


def build(config: dict[str, Any]) -> Any:
    """A `CoCa`, or what open_clip makes of a configuration without captions; random weights."""
    if "multimodal_cfg" not in config:
        return openclip_tower.build(config)
    given = {name: value for name, value in config.items() if name != "custom_text"}
    return CoCa(**deepcopy(given))


class CocaTower(OpenClipTower):
    """An attention pool over a ViT of open_clip's own, which is its trunk."""

    def __init__(self, model: VisionModel) -> None:
        self._model, self._visual, read = model, model.visual, PoolRow(model.width)
        self.read, pool = read, model.visual.attn_pool
        self.trunk = [
            block_of(block, model.dtype, False, read)
            for block in model.visual.transformer.resblocks
        ]
        self.blocks = [
            QueryPool(
                heads=model.heads,
                dtype=model.dtype,
                reading=read,
                norm=pool.ln_k,
                query=lambda _: pool.ln_q(pool.query[None, :1]),
                projections=_projections(pool.attn),
            )
        ]


def _projections(attention: Any) -> Projections:
    """Those of PyTorch's attention, whose tokens may be of another width than its query."""
    if attention.in_proj_weight is not None:
        weights = attention.in_proj_weight.chunk(3)
    else:
        weights = (
            attention.q_proj_weight,
            attention.k_proj_weight,
            attention.v_proj_weight,
        )
    biases = attention.in_proj_bias.chunk(3)
    query, key, value = zip(weights, biases, strict=True)
    return Projections(query=query, key=key, value=value, out=linear_of(attention.out_proj))
