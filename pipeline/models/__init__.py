"""Models: what is meant, whether it is supported, loading it, and its linear tail."""

from pipeline.lean import open_clip  # before the others, which bring it in

from .errors import ModelError, UnsupportedModel
from .loading import VisionModel, count_parameters, load_model
from .maps import MeanMaps, ModelMaps, mean_maps, model_maps
from .preprocess import Preprocess
from .spec import Architecture, ModelSpec, check_supported, supported_models
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
