"""Models whose units can be compared: a name in, a module and its maps out.

``model[/pretrained][@layers]``: a model as it is named everywhere, or one of the libraries in
``FAMILIES``. ``pretrained`` is a tag, a weights file, ``none`` for random weights or
``none:<seed>``; layers are names of modules, separated by commas, with ``*`` and ``?`` allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pipeline.images.decoding import DECODINGS, Decode
from pipeline.models import Preprocess
from pipeline.models.errors import ModelError
from pipeline.models.finite import refuse_weights
from pipeline.models.loading import digest_of
from storage.errors import NotFinite
from storage.rosetta import Card, MapSize, UnitLayer

from . import bilinear
from .families import Loaded, load
from .maps import MapError, MapReader, recording, usual_layers
from .probe import probe_generator, probe_pictures


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
    readers : dict of str to MapReader
        How each layer's output becomes maps.
    left_out : dict of str to str
        Layers that would have been taken and give no maps, and why.
    """

    card: Card
    module: nn.Module
    preprocess: Preprocess | None
    readers: dict[str, MapReader]
    left_out: dict[str, str] = field(default_factory=dict)

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
    size: MapSize = (1, 1)
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


def load_units(text: str, *, generator: bool = False, decode: Decode = "exact") -> UnitModel:
    """The model that a name means, probed once so that its layers and map sizes are known.

    Parameters
    ----------
    text : str
    generator : bool
        Whether it is to make pictures.
    decode : Decode
        How it is to be shown others.

    Raises
    ------
    ModelError
        If the name, the weights or a layer are unknown; near names are listed.
    MapError
        If a layer's output cannot be taken as maps.
    """
    name, _, wanted = text.partition("@")
    loaded = load(name)
    if generator != (loaded.latent is not None):
        raise ModelError(
            f"{text} is {'no' if generator else 'a'} generator: give it to "
            f"{'`models`' if generator else '`generator`'}"
        )
    if loaded.preprocess is not None:
        seeing = replace(loaded.preprocess, decoding=DECODINGS[decode])
        loaded = replace(loaded, preprocess=seeing)
    try:
        return _probe(text, loaded, wanted)
    except (MapError, NotFinite) as error:
        raise type(error)(f"model {text}: {error}") from None


def _probe(text: str, loaded: Loaded, wanted: str) -> UnitModel:
    module = loaded.module.eval().requires_grad_(False)
    refuse_weights(f"model {text}", module)
    layers = _chosen_layers(text, module, wanted) if wanted else usual_layers(module)
    if loaded.preprocess is None:
        assert loaded.latent is not None  # families see to it
        probe, noise = probe_generator, latents([0, 1], loaded.latent)
    else:
        height, width = loaded.preprocess.size
        probe, noise = probe_pictures, latents([0, 1], 3 * height * width)
        noise = noise.view(-1, 3, height, width)
    try:
        probed = probe(module, noise, layers, chosen=bool(wanted))
    except RuntimeError as error:
        raise ModelError(
            f"model {text} cannot take inputs of shape {('n', *noise.shape[1:])}"
            + (" (batch, latent)" if loaded.latent is not None else "")
            + f": {str(error)[:300]}"
        ) from error
    if not probed.shapes:
        raise MapError(
            "no activation function in it gives maps"
            + "".join(f"; {why}" for why in left_out_words(probed.left_out))
            + ": name layers after an @"
        )
    output = probed.output
    if loaded.latent is not None and (output.ndim != 4 or output.shape[1] != 3):
        raise ModelError(
            f"{text} gives {tuple(output.shape)}: a generator's pictures are (b, 3, h, w)"
        )
    card = Card(
        name=text,
        weights_digest=digest_of(module.state_dict()),
        layers=tuple(UnitLayer(n, *probed.shapes[n]) for n in probed.shapes),
        preprocessing={} if loaded.preprocess is None else loaded.preprocess.identity(),
        latent=loaded.latent,
    )
    return UnitModel(card, module, loaded.preprocess, probed.readers, probed.left_out)


def left_out_words(left_out: dict[str, str], shown: int = 3) -> list[str]:
    """How many layers each reason left out, and the names of the first."""
    by_reason: dict[str, list[str]] = {}
    for layer, why in left_out.items():
        by_reason.setdefault(why, []).append(layer)
    return [
        f"{len(names)} layer(s) left out ({', '.join(names[:shown])}"
        + (f" and {len(names) - shown} more" if len(names) > shown else "")
        + f"): {why}"
        for why, names in by_reason.items()
    ]


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
