"""Models: what is meant, whether it is supported, loading it, and its linear tail."""

from pipeline.lean import open_clip  # before the others, which bring it in

from .loading import VisionModel, count_parameters, load_model
from .maps import MeanMaps, ModelMaps, mean_maps, model_maps
from .preprocess import Preprocess
from .spec import Architecture, ModelSpec, UnsupportedModel, check_supported, supported_models

__all__ = [
    "Architecture",
    "MeanMaps",
    "ModelMaps",
    "ModelSpec",
    "Preprocess",
    "UnsupportedModel",
    "VisionModel",
    "check_supported",
    "count_parameters",
    "load_model",
    "mean_maps",
    "model_maps",
    "open_clip",
    "supported_models",
]
