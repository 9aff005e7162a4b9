"""Which model is meant, and whether it can be decomposed: settled before weights are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.images.decoding import DECODINGS, Decode
from storage.second_order import SecondOrder

from . import configs, timm_names
from . import openclip_files as open_clip
from .checkpoint import WEIGHT_SUFFIXES, HubFile, weights_in
from .configs import Configuration
from .errors import ModelError, UnknownModel, UnsupportedModel
from .families import FAMILIES, family_of, faults
from .names import OWN, Name, parse
from .preprocess import Preprocess
from .supported import others, supported, tags, unknown, unsaid


@dataclass(frozen=True)
class ModelSpec:
    """What the user asked for."""

    model: str
    """A name: see `names`."""
    pretrained: str
    """A tag, a weights file, ``none`` for random weights, ``own`` for those that stand beside the
    configuration in a folder or on the hub; ``microworld`` is the tag of the embedded world's
    own weights."""
    seed: int = 0
    """Seed of random weights."""
    decode: Decode = "exact"
    """How files become pixels, of which `Architecture.preprocess` then tells."""

    @classmethod
    def of(
        cls, model: str, pretrained: str | None = None, seed: int = 0, decode: Decode = "exact"
    ) -> ModelSpec:
        """What a name means that may say which weights, too, as ``ViT-B-32/openai``.

        Parameters
        ----------
        model : str
        pretrained : str, optional
            Where the name does not say it. Of a model with weights of one name only, of timm's, of
            a folder or repository and of the embedded world it may stay unsaid.
        seed : int
        decode : Decode

        Raises
        ------
        ModelError
            If weights are named twice and not the same, or not at all where that is needed.
        """
        name = parse(model)
        if pretrained and name.weights not in ("", pretrained):
            raise ModelError(_two_weights(model, name.weights, pretrained))
        weights = pretrained or name.weights or name.usual
        if not weights:
            check_supported(cls(name.spelled, "none"))  # a name that means nothing is told first
            raise ModelError(unsaid(name))
        return cls(name.spelled, weights, seed, decode)


@dataclass(frozen=True, kw_only=True, eq=False)
class Architecture(SecondOrder):
    """A supported image tower, as its configuration tells it; no weights."""

    name: str
    """The model's name, or the address of its config."""
    config: dict[str, Any]
    """The open_clip model config, or timm's as its hub lays it out."""
    checkpoint: Path | HubFile | dict[str, Any] | None
    """Weights file, here or on the hub, open_clip's entry of a tag, or None for random weights."""
    preprocess: Preprocess
    family: str
    """How it is built: a row of `FAMILIES`."""
    layers: int
    heads: int
    head_dim: int
    width: int
    mlp_width: int
    grid: tuple[int, int]
    """Rows and columns of patches."""
    prefix: int
    """Tokens before the patches: the class token, which is the first, and registers."""
    embed_dim: int
    activation: str
    """Of the image tower, for example ``gelu`` or ``quickgelu``."""
    reading: str
    """What the tail reads: one of `storage.metadata.READINGS`."""
    varying_bias: bool
    """Whether what the attention's biases write is another multiple for every image and layer."""
    has_texts: bool
    """Whether it has a text tower."""
    trunk_layers: int = 0
    trunk_mlp_width: int = 0
    """Of an attention pool: see `Sizes`."""
    refined: tuple[str, ...] = ()
    """Further components that only an attention pool has: see `Sizes`."""

    @property
    def tokens(self) -> int:
        """Image tokens: those of the prefix, then the patches row by row."""
        return self.prefix + self.grid[0] * self.grid[1]


def check_supported(spec: ModelSpec) -> Architecture:
    """Refuse whatever cannot be decomposed; say what the rest looks like.

    Reads the configuration only: no weights, no images.

    Raises
    ------
    UnsupportedModel
        If no family here takes the image tower.
    ModelError
        If the model, the tag, or a file is unknown.
    """
    name = parse(spec.model)
    if name.weights not in ("", spec.pretrained):
        raise ModelError(_two_weights(spec.model, name.weights, spec.pretrained))
    found = _configuration(name, spec.pretrained)
    family = _supported_family(name, found.config)
    checkpoint = _checkpoint(spec, name, found)
    sizes = FAMILIES[family].sizes(found.config)
    of = Preprocess.of_timm if "architecture" in found.config else Preprocess.of
    return Architecture(
        name=name.name if name.library == "open_clip" else name.spelled,
        config=found.config,
        checkpoint=checkpoint,
        preprocess=replace(of(sizes.image_size, found.pictures), decoding=DECODINGS[spec.decode]),
        family=family,
        layers=sizes.layers,
        heads=sizes.heads,
        head_dim=sizes.head_dim,
        width=sizes.width,
        mlp_width=sizes.mlp_width,
        grid=sizes.grid,
        prefix=sizes.prefix,
        embed_dim=sizes.embed_dim,
        activation=sizes.activation,
        reading=sizes.reading,
        varying_bias=sizes.varying_bias,
        trunk_layers=sizes.trunk_layers,
        trunk_mlp_width=sizes.trunk_mlp_width,
        refined=sizes.refined,
        has_texts=found.config.get("text_cfg") is not None,
    )


def count_parameters(architecture: Architecture) -> int:
    """Parameters of both towers, none of which is made where the family can tell."""
    counted = FAMILIES[architecture.family].parameters(architecture.config)
    if counted is None:
        from .loading import built_parameters  # brings torch

        return built_parameters(architecture)
    return counted


def _configuration(name: Name, weights: str) -> Configuration:
    """The configuration that a name means, and with which pictures these weights were trained."""
    if name.library == "config":
        return configs.of_file(name.name)
    if name.library == "local-dir":
        return configs.of_folder(name.name)
    if name.library == "hf-hub":
        return configs.of_hub(name.name)
    if name.library == "microworld":
        if name.name not in configs.WORLD:
            raise UnknownModel(unknown(name))
        return configs.of_world(name.name)
    if name.library == "timm":
        if name.name in timm_names.list_models():
            of = timm_names.settings(name.name, weights)
            return Configuration(timm_names.config(name.name, of), of)
        if name.name in timm_names.refused():
            return Configuration({"architecture": name.name}, {})
        raise UnknownModel(unknown(name))
    if name.name not in open_clip.list_models():
        raise UnknownModel(unknown(name))
    entry = open_clip.get_pretrained_cfg(name.name, weights)
    return Configuration(open_clip.get_model_config(name.name), dict(entry))


def _supported_family(name: Name, config: dict[str, Any]) -> str:
    family = family_of(config)
    if family is None:
        raise UnsupportedModel(
            f"model {name.spelled} cannot be decomposed: {' and '.join(faults(config))}. "
            f"{others(name)}"
        )
    return family


def _checkpoint(
    spec: ModelSpec, name: Name, found: Configuration
) -> Path | HubFile | dict[str, Any] | None:
    """Where the weights are, without reading them."""
    if spec.pretrained == "none":
        return None
    own = "microworld" if name.library == "microworld" else OWN
    if spec.pretrained == own and found.own is not None:
        folder = isinstance(found.own, Path) and found.own.is_dir()
        return weights_in(Path(str(found.own))) if folder else found.own
    if name.library == "timm" and spec.pretrained in timm_names.tags(name.name):
        return timm_names.checkpoint(name.name, spec.pretrained)
    if name.library == "open_clip" and spec.pretrained in tags(name):
        _refuse_other_activation(spec, name.name, found.config, found.pictures)
        return found.pictures
    return _file(spec, name)


def _file(spec: ModelSpec, name: Name) -> Path:
    """The weights file that is given."""
    if "://" in spec.pretrained:
        raise ModelError(
            f"weights {spec.pretrained} are at a URL, and weights are read from files: copy them "
            "to this machine and give the path"
        )
    path = Path(spec.pretrained).expanduser()
    if path.is_dir():
        raise ModelError(f"weights {path} are a folder: give the file in it that holds them")
    if not path.is_file():
        known = tags(name)
        near = get_close_matches(spec.pretrained, known, n=5, cutoff=0.5) or known[:5]
        more = f" and {len(known) - len(near)} more" if len(known) > len(near) else ""
        raise ModelError(
            f"pretrained {spec.pretrained!r} of model {name.spelled} is neither a tag nor a file; "
            f"its tags: {', '.join(near) or 'none'}{more}. Or give a weights file "
            f"({', '.join(WEIGHT_SUFFIXES)}), or 'none' for random weights."
        )
    if not path.name.endswith(WEIGHT_SUFFIXES):
        raise ModelError(f"weights file {path} must end in one of {', '.join(WEIGHT_SUFFIXES)}")
    return path


def _two_weights(model: str, one: str, other: str) -> str:
    return f"model {model} names its weights, {one}, and `pretrained` names others: {other}"


def _refuse_other_activation(
    spec: ModelSpec, name: str, config: dict[str, Any], tag: dict[str, Any]
) -> None:
    """open_clip only warns of this, and then runs weights with a function they never saw."""
    wanted, given = bool(tag.get("quick_gelu")), bool(config.get("quick_gelu"))
    if wanted != given:
        other = f"{name}-quickgelu" if wanted else name.removesuffix("-quickgelu")
        known = other in supported("open_clip")
        remedy = f"model {other}" if known else f"a config file with quick_gelu {wanted}"
        raise ModelError(
            f"weights {spec.pretrained!r} were trained with {_gelu(wanted)}, but model {name} "
            f"runs {_gelu(given)}: use {remedy}"
        )


def _gelu(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"
