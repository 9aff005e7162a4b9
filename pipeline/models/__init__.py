"""Models: what is meant, whether it is supported, loading it, and its linear tail."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.lean import open_clip

    from .errors import ModelError, UnsupportedModel
    from .loading import VisionModel, load_model
    from .maps import MeanMaps, ModelMaps, mean_maps, model_maps
    from .preprocess import Preprocess
    from .spec import Architecture, ModelSpec, check_supported, count_parameters
    from .supported import supported_models
    from .tower import Block, Tower, Weights

__all__ = [
    "Architecture",
    "Block",
    "MeanMaps",
    "ModelError",
    "ModelMaps",
    "ModelSpec",
    "Preprocess",
    "Tower",
    "UnsupportedModel",
    "VisionModel",
    "Weights",
    "check_supported",
    "count_parameters",
    "load_model",
    "mean_maps",
    "model_maps",
    "open_clip",
    "supported_models",
]
_PLACES = {
    "pipeline.lean": ("open_clip",),
    "pipeline.models.errors": ("ModelError", "UnsupportedModel"),
    "pipeline.models.loading": ("VisionModel", "load_model"),
    "pipeline.models.maps": ("MeanMaps", "ModelMaps", "mean_maps", "model_maps"),
    "pipeline.models.preprocess": ("Preprocess",),
    "pipeline.models.spec": (
        "Architecture",
        "ModelSpec",
        "check_supported",
        "count_parameters",
    ),
    "pipeline.models.supported": ("supported_models",),
    "pipeline.models.tower": ("Block", "Tower", "Weights"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # torch and open_clip take seconds to import, and whether a model is supported needs neither.
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(place), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
