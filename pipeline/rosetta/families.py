"""Families of models that a name can begin with: a name and weights in, a module out."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.images.resize import FILTER
from pipeline.lean import open_clip, timm, torchvision
from pipeline.microworld.world import SIDE
from pipeline.microworld.zoo import MEAN, STD, ZOO, load_zoo
from pipeline.models import ModelSpec, Preprocess, load_model
from pipeline.models.checkpoint import WEIGHT_SUFFIXES
from pipeline.models.errors import ModelError
from pipeline.models.names import Name, parse
from pipeline.models.openclip_files import list_models
from storage.rosetta import MapSize


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a family, or a function named by ``import:``, gives.

    Attributes
    ----------
    module : nn.Module
        Prepared pictures (b, 3, h, w) in; of a generator, latents (b, latent) in and pictures
        (b, 3, h, w) in -1 … 1 out.
    preprocess : Preprocess or None
        None for a generator.
    latent : int or None
        Numbers that a generator takes.
    """

    module: nn.Module
    preprocess: Preprocess | None
    latent: int | None = None


def _square(size: MapSize, mean: Any, std: Any, interpolation: str) -> Preprocess:
    """The model's own size, mean and standard deviation, and always the central square.

    Libraries crop more or less of a picture for different models; positions of two models can
    only be compared if both see the same part of it.
    """
    try:
        return Preprocess(
            size, tuple(map(float, mean)), tuple(map(float, std)),
            interpolation if interpolation in FILTER else "bicubic", "shortest", 0,
        )  # fmt: skip
    except ValueError as error:
        raise ModelError(f"its preprocessing cannot be followed: {error}") from error


def _seed(pretrained: str) -> int | None:
    """The seed of ``none`` or ``none:<seed>``; None for anything else."""
    word, _, seed = pretrained.partition(":")
    if word != "none":
        return None
    if seed and not seed.isdigit():
        raise ModelError(f"/{pretrained}: write none:SEED with a whole number")
    return int(seed or 0)


def _unknown(family: str, name: str, known: Sequence[str]) -> ModelError:
    near = get_close_matches(name, known, n=5, cutoff=0.5)
    return ModelError(f"{family} has no model {name!r}; near names: {', '.join(near) or 'none'}")


def _make(what: str, make: Callable[[], nn.Module], seed: int | None) -> nn.Module:
    """Build a module; from the seed where its weights are random."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)
            return make()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        offline = (
            ""
            if seed is not None
            else (
                " Without network, give a weights file, or none for random weights, after a slash."
            )
        )
        raise ModelError(f"cannot make {what}: {str(error)[:300]}.{offline}") from error


def _read_weights(what: str, module: nn.Module, path: str) -> nn.Module:
    try:
        if path.endswith(".safetensors"):
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state.get("state_dict", state))
    except (
        OSError,
        SafetensorError,
        RuntimeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise ModelError(
            f"weights file {path} cannot be read or does not fit {what}: {str(error)[:300]}"
        ) from error
    return module


def _timm(name: str, pretrained: str) -> Loaded:
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise _unknown("timm", name, known)
    seed = _seed(pretrained)
    file = pretrained.endswith(WEIGHT_SUFFIXES)
    full = name if seed is not None or file or not pretrained else f"{name}.{pretrained}"
    fetch = seed is None and not file
    module = _make(f"timm:{full}", lambda: timm.create_model(full, pretrained=fetch), seed)
    if file:
        _read_weights(f"timm:{name}", module, pretrained)
    config = timm.data.resolve_model_data_config(module)
    size = tuple(config["input_size"][1:])
    return Loaded(module, _square(size, config["mean"], config["std"], config["interpolation"]))


def _torchvision(name: str, pretrained: str) -> Loaded:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    seed = _seed(pretrained)
    file = pretrained.endswith(WEIGHT_SUFFIXES)
    weights = torchvision.models.get_model_weights(name)
    tag = None if seed is not None or file else pretrained or "DEFAULT"
    if tag is not None and tag not in weights.__members__:
        tags = ", ".join(weights.__members__)
        raise ModelError(f"torchvision:{name} has no weights {tag!r}: give one of {tags}, or none")
    module = _make(
        f"torchvision:{name}", lambda: torchvision.models.get_model(name, weights=tag), seed
    )
    if file:
        _read_weights(f"torchvision:{name}", module, pretrained)
    cut = weights[tag or "DEFAULT"].transforms()
    return Loaded(
        module, _square((cut.crop_size[0],) * 2, cut.mean, cut.std, cut.interpolation.value)
    )


def _open_clip(name: str, pretrained: str) -> Loaded:
    known = open_clip.list_models()
    if name not in known:
        raise _unknown("open_clip", name, known)
    seed = _seed(pretrained)
    tags = open_clip.pretrained.list_pretrained_tags_by_model(name)
    if seed is None and pretrained not in tags and not pretrained.endswith(WEIGHT_SUFFIXES):
        near = get_close_matches(pretrained, tags, n=3) or tags
        raise ModelError(
            f"open_clip:{name} needs a tag, a weights file or none after a slash, and has no "
            f"{pretrained!r}; its tags: {', '.join(near) or 'none'}"
        )
    tag = open_clip.pretrained.get_pretrained_cfg(name, pretrained) or {}
    given = bool((open_clip.get_model_config(name) or {}).get("quick_gelu"))
    if given and tag and not tag.get("quick_gelu"):
        raise ModelError(
            f"open_clip:{name}/{pretrained}: these weights were trained with GELU and the model "
            f"runs QuickGELU: use {name.removesuffix('-quickgelu')}"
        )
    model = _make(
        f"open_clip:{name}/{pretrained}",
        lambda: open_clip.create_model(
            name,
            pretrained=None if seed is not None else pretrained,
            force_quick_gelu=bool(tag.get("quick_gelu")),
            weights_only=True,
        ),
        seed,
    )
    cut = open_clip.get_model_preprocess_cfg(model)
    size = cut["size"] if isinstance(cut["size"], tuple | list) else (cut["size"],) * 2
    visual: Any = model.visual
    return Loaded(visual, _square(tuple(size), cut["mean"], cut["std"], cut["interpolation"]))


def _import(name: str, _pretrained: str) -> Loaded:
    place, _, function = name.partition(":")
    try:
        loaded = getattr(importlib.import_module(place), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"import:{name}: {error}; write import:package.module:function") from error
    if not isinstance(loaded, Loaded):
        raise ModelError(f"import:{name} gave {type(loaded).__name__}, not {Loaded.__qualname__}")
    return loaded


def _microworld_clip(_name: str, _pretrained: str) -> Loaded:
    model = load_model(ModelSpec("microworld", "microworld"))
    cut = model.preprocess
    return Loaded(model.visual, _square(cut.size, cut.mean, cut.std, cut.interpolation))


def _zoo(kind: str, _name: str, _pretrained: str) -> Loaded:
    module: Any = load_zoo(kind)
    if kind == "generator":
        return Loaded(module, None, module.latent)
    return Loaded(module, _square((SIDE, SIDE), MEAN, STD, "bicubic"))


def _decomposed(name: Name) -> Loaded:
    """A model by its configuration: what Facet itself builds and loads."""
    model = load_model(ModelSpec.of(name.spelled, name.weights or None))
    cut = model.preprocess
    return Loaded(model.visual, _square(cut.size, cut.mean, cut.std, cut.interpolation))


FAMILIES: dict[str, Callable[[str, str], Loaded]] = {
    "timm": _timm,
    "open_clip": _open_clip,
    "torchvision": _torchvision,
    "import": _import,
    "microworld": _microworld_clip,
    **{f"microworld-{kind}": partial(_zoo, kind) for kind in ZOO},
}


def load(text: str) -> Loaded:
    """The model that a name means, without its layers.

    Raises
    ------
    ModelError
        If the name or the weights are unknown; near names are listed.
    """
    family, colon, rest = text.partition(":")
    if family in FAMILIES and family not in ("timm", "open_clip", "microworld"):
        base, _, pretrained = rest.partition("/")
        return FAMILIES[family](base, pretrained)
    name = parse(text)
    if name.library == "microworld" and colon:
        family = f"microworld-{name.name.partition(':')[2]}"
    elif name.library in ("hf-hub", "local-dir", "config"):
        return _decomposed(name)
    elif name.library != "open_clip" or family == "open_clip" or name.name in list_models():
        family = name.library
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES, n=3, cutoff=0.4)
        raise ModelError(
            f"unknown model {text!r}: a name is open_clip's, or begins with one of "
            f"{', '.join(FAMILIES)}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    weights = name.weights or (name.usual if family == "open_clip" else "")
    return FAMILIES[family](name.name, weights)
