"""What is known of image towers of timm's before timm is imported: family, faults, sizes.

A configuration that the table has is only looked up; another is built without memory for its
weights, which takes seconds and torch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from . import timm_names
from .family import Sizes
from .openclip_files import vision_config

# Classes of timm's that families here take: the family, and its module that needs torch, whose
# `examine` gives the faults of a built model and whose `measure` gives its sizes.
CLASSES = {
    "VisionTransformer": ("timm-vit", "timm_vit_tower"),
    "VisionTransformerDistilled": ("timm-vit", "timm_vit_tower"),
    "VisionTransformerRelPos": ("timm-vit", "timm_vit_tower"),
    "Eva": ("eva", "eva_tower"),
    "Beit": ("beit", "beit_tower"),
    "ConvNeXt": ("convnext", "convnext_tower"),
}

# Of files of timm's, why no family takes their models, where it is known.
WHY_NOT = {
    "fastvit": "behind its last stage a convolution with an activation (final_conv) mixes all that "
    "blocks wrote: no sum of parts",
    "swin_transformer": "only the two blocks of its last stage write what is read as a sum, in "
    "windows, which no family here runs",
}


@dataclass(frozen=True)
class Known:
    """What a configuration says of an image tower of timm's."""

    family: str
    """The row of `FAMILIES` that its class belongs to; empty where none takes the class."""
    faults: tuple[str, ...]
    """What keeps the family from taking it, in words."""
    sizes: Sizes | None
    """Where there are no faults."""
    parameters: int
    """Of the image tower alone."""


def is_timm(config: dict[str, Any]) -> bool:
    """Whether a model configuration's image tower is one that timm has, or was told of here."""
    name = config.get("architecture") or config.get("vision_cfg", {}).get("timm_model_name")
    if name in timm_names.table()["models"] or name in timm_names.refused():
        return True
    timm: Any = sys.modules.get("timm")  # which whoever tells it of models has imported
    return bool(name and timm and timm.is_model(name))


def known(config: dict[str, Any]) -> Known:
    """What is known of a configuration's image tower, which is one of timm's."""
    name = trunk_name(config)
    file = timm_names.refused().get(name)
    if file is not None:
        reason = WHY_NOT.get(file, "no family here is built like it")
        why = f"its image tower is timm's {name} ({file}), and {reason}"
        return Known("", (why,), None, 0)
    if config.get("global_pool", "") == timm_names.pool(name):
        config = {n: value for n, value in config.items() if n != "global_pool"}
    found = timm_names.table()["known"].get(key(config))
    return _read(found) if found is not None else _built(json.dumps(config, sort_keys=True))


def trunk_name(config: dict[str, Any]) -> str:
    """timm's name of the image tower."""
    name: str = config.get("architecture") or config["vision_cfg"]["timm_model_name"]
    return name


def key(config: dict[str, Any]) -> str:
    """All that decides how the image tower is built, as one word of the table."""
    if "architecture" in config:
        given: dict[str, Any] = {
            n: config[n] for n in ("num_classes", "global_pool") if n in config
        }
        given |= {**config.get("pretrained_cfg", {}), **config.get("model_args", {})}
    else:
        vision = vision_config(**config["vision_cfg"])
        named = ("timm_pool", "timm_proj", "timm_proj_bias", "image_size")
        given = {name: getattr(vision, name) for name in named}
        given["embed_dim"] = config["embed_dim"]
    return f"{trunk_name(config)} {json.dumps(given, sort_keys=True, separators=(',', ':'))}"


# Of `Sizes`, what a row has: the rest follows from it.
_KEPT = tuple(f.name for f in fields(Sizes) if f.name != "refined")


def write(known: Known) -> list[Any]:
    """A row of the table."""
    sizes = None if known.sizes is None else [getattr(known.sizes, name) for name in _KEPT]
    return [known.family, list(known.faults), sizes, known.parameters]


def _read(row: list[Any]) -> Known:
    family, faults, values, parameters = row
    if values is None:
        return Known(family, tuple(faults), None, parameters)
    plain = [tuple(value) if isinstance(value, list) else value for value in values]
    named: dict[str, Any] = dict(zip(_KEPT, plain, strict=True))
    return Known(family, tuple(faults), Sizes(**named, refined=refined(**named)), parameters)


def refined(*, reading: str, mlp_width: int, **_: Any) -> tuple[str, ...]:
    """Pools of timm's have an MLP, whose neurons can be told."""
    return ("pool_neurons",) if reading == "attention-pool" and mlp_width else ()


@cache
def _built(config: str) -> Known:
    from .timm_table import examined  # brings torch

    return examined(json.loads(config))
