"""CoCa, and other models whose ViT is open_clip's own and pools by attention.

The pool's first query makes the embedding; its other queries are for writing captions. A CoCa
without such a pool is read at its class token, as any ViT of open_clip's own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import openclip_vit
from .family import OtherTower, Sizes
from .openclip_files import vision_config

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


def faults(config: dict[str, Any]) -> list[str]:
    """What keeps a model from being decomposed, in words; empty if nothing does."""
    if other := openclip_vit.other_tower(config):
        return [OtherTower(other)]
    vision = vision_config(**config["vision_cfg"])
    if not vision.attentional_pool:
        if "multimodal_cfg" not in config:
            return [OtherTower("it is no CoCa")]
        return openclip_vit.tower_faults(config)
    found = openclip_vit.tower_faults(config)
    if isinstance(vision.attentional_pool, str):
        found.append(
            f"its {vision.attentional_pool!r} pools are unfinished in open_clip: they give no row "
            "that is the embedding"
        )
    elif vision.pool_type != "tok":
        found.append("it averages its pool's queries, each normed for itself")
    embed, heads = int(config["embed_dim"]), vision.attn_pooler_heads
    if embed % heads:
        found.append(f"its embed_dim {embed} does not divide into attn_pooler_heads {heads}")
    return found


def sizes(config: dict[str, Any]) -> Sizes:
    """Sizes of a model without faults."""
    vision, found = vision_config(**config["vision_cfg"]), openclip_vit.sizes(config)
    if not vision.attentional_pool:
        return found
    return replace(
        found,
        layers=1,
        heads=vision.attn_pooler_heads,
        head_dim=found.embed_dim // vision.attn_pooler_heads,
        width=found.embed_dim,
        mlp_width=0,
        reading="attention-pool",
        trunk_layers=found.layers,
        trunk_mlp_width=found.mlp_width,
    )


def parameters(config: dict[str, Any]) -> int | None:
    """Only the built module tells."""
    return None


def build(config: dict[str, Any]) -> Any:
    """An `open_clip.CoCa` whose image embedding is not normalised, or, of other models that pool
    so, what open_clip makes of them; random weights."""
    from . import coca_tower

    return coca_tower.build(config)


def prepare(module: Any) -> None:
    """Fold what can be folded exactly."""
    from . import openclip_tower

    openclip_tower.prepare(module)


def tower(model: VisionModel) -> Tower:
    """The image tower of a loaded model."""
    from .coca_tower import CocaTower
    from .openclip_tower import OpenClipTower

    return CocaTower(model) if model.reading == "attention-pool" else OpenClipTower(model)
