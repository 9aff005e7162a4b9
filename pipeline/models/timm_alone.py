"""A timm model by itself: images, and no texts."""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn


class TimmAlone(nn.Module):
    """A model of timm's as the image tower of a model that has no other.

    Parameters
    ----------
    visual : nn.Module
        Whose output, a classifier's logits for example, is the embedding.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, images_bchw: Tensor) -> Tensor:
        embedding_be: Tensor = self.visual(images_bchw)
        return embedding_be


def build(config: dict[str, Any]) -> TimmAlone:
    """The model of a configuration as timm's hub keeps it, random weights.

    Parameters
    ----------
    config : dict
        ``architecture``, and, where they differ from the name's own, ``num_classes``,
        ``global_pool``, ``model_args`` and ``pretrained_cfg``, of which the input's size counts.
    """
    given = {name: config[name] for name in ("num_classes", "global_pool") if name in config}
    made = timm.create_model(
        config["architecture"],
        pretrained_cfg_overlay=config.get("pretrained_cfg"),
        **given,
        **config.get("model_args", {}),
    )
    return TimmAlone(made)
