"""A timm model by itself: images, and no texts."""

from __future__ import annotations

from typing import Any

import timm

from .alone import ImageAlone


def build(config: dict[str, Any]) -> ImageAlone:
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
    return ImageAlone(made)
