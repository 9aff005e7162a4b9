"""An image tower without a text tower."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.lean import open_clip


class ImageAlone(nn.Module):
    """An image tower in the place of a whole model.

    Parameters
    ----------
    visual : nn.Module
        Whose output, a classifier's logits for example, is the embedding.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, images_bchw: Tensor) -> Tensor:
        found = self.visual(images_bchw)
        # CoCa's gives its tokens, too.
        embedding_be: Tensor = found[0] if isinstance(found, tuple) else found
        return embedding_be


def build(config: dict[str, Any]) -> ImageAlone:
    """The image tower of an open_clip configuration, random weights."""
    tower = open_clip.model._build_vision_tower
    return ImageAlone(
        tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    )
