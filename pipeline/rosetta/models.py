"""Models whose units can be compared: a name in, a module and its maps out.

``family:name[/pretrained][@layers]``, or a model of the embedded world: see ``FAMILIES``.
``pretrained`` is a tag, a weights file, ``none`` for random weights or ``none:<seed>``; layers
are names of modules, separated by commas, with ``*`` and ``?`` allowed.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.images.resize import FILTER
from pipeline.microworld.world import SIDE
from pipeline.microworld.zoo import MEAN, STD, ZOO, load_zoo
from pipeline.models import ModelSpec, Preprocess, load_model
from pipeline.models.finite import refuse_weights
from pipeline.models.lean import open_clip, timm, torchvision
from pipeline.models.loading import digest_of
from pipeline.models.spec import WEIGHT_SUFFIXES, ModelError
from storage.rosetta import Card, Layer, Size

from . import bilinear
from .maps import MapError, Reader, probe, recording, usual_layers


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


@dataclass(frozen=True, eq=False)
class UnitModel:
    """A model whose units can be compared.

    Attributes
    ----------
    card : Card
        Its identity: name, weights, layers.
    module : nn.Module
        In evaluation mode, without gradients.
    preprocess : Preprocess or None
        None for a generator.
    readers : dict of str to Reader
        How each layer's output becomes maps.
    """

    card: Card
    module: nn.Module
    preprocess: Preprocess | None
    readers: dict[str, Reader]

    def to(self, device: torch.device) -> UnitModel:
        return replace(self, module=self.module.to(device))

    def maps(self, inputs: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One pass.

        Parameters
        ----------
        inputs : (b, 3, h, w) or (b, latent)
            Prepared pictures, or a generator's latents.

        Returns
        -------
        output : tensor
            The model's own.
        maps_bhwu : list of (b, height, width, units) float32
            One a layer of the card; differentiable where gradients are on.
        """
        with recording(self.module, self.readers) as maps:
            output = self.module(inputs)
        return output, [maps[layer.name] for layer in self.card.layers]


def unit_maps(
    model: UnitModel,
    pixels: NDArray[np.uint8] | torch.Tensor,
    units: Sequence[int],
    moments: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> torch.Tensor:
    """Maps of chosen units for chosen images, at the largest size among them.

    Parameters
    ----------
    model : UnitModel
    pixels : (b, height, width, 3) uint8, or (b, latent) float32
        Resized pictures (``model.preprocess.to_uint8``), or latents of a generator.
    units : sequence of int
        Numbered through the layers of the card.
    moments : (mean, std), each (units of the model,) float64, optional
        Of every unit over the data set: maps are then standardised by them.

    Returns
    -------
    (b, units, height, width) float32
    """
    inputs = torch.as_tensor(pixels).to(next(model.module.parameters()).device)
    _, maps = model.maps(inputs if model.preprocess is None else model.preprocess.to_tensor(inputs))
    names = [layer.name for layer in model.card.layers]
    chosen = []
    for unit in units:
        layer, channel = model.card.locate(unit)
        plane = maps[names.index(layer)][..., channel]
        if moments is not None:
            mean, std = (float(values[unit]) for values in moments)
            plane = (plane - mean) / (std or 1.0)
        chosen.append(plane)
    size: Size = (1, 1)
    for plane in chosen:
        size = bilinear.larger(size, (plane.shape[1], plane.shape[2]))
    return torch.cat(
        [F.interpolate(p[:, None], size, mode="bilinear", align_corners=False) for p in chosen], 1
    )


def latents(seeds: Sequence[int], size: int) -> torch.Tensor:
    """Standard normal latents (seeds, size) float32, each of its own seed alone."""
    rows = [torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows)


def pictures(output: torch.Tensor) -> NDArray[np.uint8]:
    """A generator's output in -1 … 1 as (b, height, width, 3) uint8."""
    levels = ((output.float() + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


# -- loading -------------------------------------------------------------------------------


def load_units(text: str, *, generator: bool = False) -> UnitModel:
    """The model that a name means, probed once so that its layers and map sizes are known.

    Raises
    ------
    ModelError
        If the name, the weights or a layer are unknown; near names are listed.
    MapError
        If a layer's output cannot be taken as maps.
    """
    name, _, wanted = text.partition("@")
    family, colon, rest = name.partition(":")
    if not colon:
        family, rest = name, ""
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES, n=3, cutoff=0.4)
        raise ModelError(
            f"unknown model {text!r}: a name begins with one of {', '.join(FAMILIES)}"
            + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    base, _, pretrained = rest.partition("/")
    loaded = FAMILIES[family](base, pretrained)
    if generator != (loaded.latent is not None):
        raise ModelError(
            f"{text} is {'no' if generator else 'a'} generator: give it to "
            f"{'--models' if generator else '--generator'}"
        )
    try:
        return _probe(text, loaded, wanted)
    except MapError as error:
        raise MapError(f"model {text}: {error}") from None


def _probe(text: str, loaded: Loaded, wanted: str) -> UnitModel:
    module = loaded.module.eval().requires_grad_(False)
    refuse_weights(f"model {text}", module)
    layers = _chosen_layers(text, module, wanted) if wanted else usual_layers(module)
    if loaded.latent is not None:
        inputs = latents([0, 1], loaded.latent)
    else:
        assert loaded.preprocess is not None  # families see to it
        inputs = latents([0, 1], 3 * int(np.prod(loaded.preprocess.size)))
        inputs = inputs.view(2, 3, *loaded.preprocess.size)
    try:
        output, readers, shapes = probe(module, inputs, layers, chosen=bool(wanted))
    except RuntimeError as error:
        raise ModelError(
            f"model {text} cannot take inputs of shape {tuple(inputs.shape)}"
            + (" (batch, latent)" if loaded.latent is not None else "")
            + f": {str(error)[:300]}"
        ) from error
    if not shapes:
        raise MapError("no activation function in it gives maps: name layers after an @")
    if loaded.latent is not None and (output.ndim != 4 or output.shape[1] != 3):
        raise ModelError(
            f"{text} gives {tuple(output.shape)}: a generator's pictures are (b, 3, h, w)"
        )
    card = Card(
        name=text,
        weights_digest=digest_of(module.state_dict()),
        layers=tuple(Layer(n, *shapes[n]) for n in shapes),
        preprocessing={} if loaded.preprocess is None else asdict(loaded.preprocess),
        latent=loaded.latent,
    )
    return UnitModel(card, module, loaded.preprocess, readers)


def _chosen_layers(text: str, module: nn.Module, wanted: str) -> list[str]:
    names = [name for name, _ in module.named_modules() if name]
    found: dict[str, None] = {}
    for pattern in filter(None, (p.strip() for p in wanted.split(","))):
        matches = [n for n in names if fnmatchcase(n, pattern)]
        if not matches:
            near = get_close_matches(pattern, names, n=5, cutoff=0.5)
            raise ModelError(
                f"model {text} has no layer {pattern!r}; near names: {', '.join(near) or 'none'}. "
                f"By default these are taken: {', '.join(usual_layers(module))}"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _square(size: Size, mean: Any, std: Any, interpolation: str) -> Preprocess:
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


FAMILIES: dict[str, Callable[[str, str], Loaded]] = {
    "timm": _timm,
    "open_clip": _open_clip,
    "torchvision": _torchvision,
    "import": _import,
    "microworld": _microworld_clip,
    **{f"microworld-{kind}": partial(_zoo, kind) for kind in ZOO},
}
