"""Which model is meant, and whether it can be decomposed: settled before weights are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from storage import urls

from . import openclip_files as open_clip
from .checkpoint import WEIGHT_SUFFIXES
from .errors import ModelError, UnsupportedModel
from .families import FAMILIES, family_of, faults
from .openclip_files import get_pretrained_cfg, list_pretrained_tags_by_model
from .preprocess import Preprocess

MICROWORLD = Path(__file__).parent.parent / "microworld" / "weights" / "clip.json"
TOP_LEVEL_KEYS = {
    "embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text",
    "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale",
}  # fmt: skip


@dataclass(frozen=True)
class ModelSpec:
    """What the user asked for."""

    model: str
    """An open_clip name, a path or URL of an open_clip config (JSON), or ``microworld``."""
    pretrained: str
    """An open_clip tag, a weights file, ``none`` for random weights; ``microworld`` is the
    tag of the embedded world's own weights."""
    seed: int = 0
    """Seed of random weights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Architecture:
    """A supported image tower, as its configuration tells it; no weights."""

    name: str
    """open_clip's name of the model, or the address of its config."""
    config: dict[str, Any]
    """The open_clip model config."""
    checkpoint: Path | dict[str, Any] | None
    """Weights file, open_clip's entry of a tag, or None for random weights."""
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
        If the image tower is not a ViT with class-token pooling.
    ModelError
        If the model, the tag, or a file is unknown.
    """
    name, config, overlay = _configuration(spec.model)
    family = _supported_family(name, config)
    checkpoint = _checkpoint(spec, name)
    if isinstance(checkpoint, dict):
        _refuse_other_activation(spec, name, config, checkpoint)
        overlay = checkpoint
    sizes = FAMILIES[family].sizes(config)
    return Architecture(
        name=name,
        config=config,
        checkpoint=checkpoint,
        preprocess=Preprocess.of(sizes.image_size, overlay),
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
        has_texts=config.get("text_cfg") is not None,
    )


def count_parameters(architecture: Architecture) -> int:
    """Parameters of both towers, none of which is made where the family can tell."""
    counted = FAMILIES[architecture.family].parameters(architecture.config)
    if counted is None:
        from .loading import built_parameters  # brings torch

        return built_parameters(architecture)
    return counted


@cache
def supported_models() -> tuple[str, ...]:
    """open_clip's own model names that `check_supported` lets pass."""
    return tuple(
        name for name in open_clip.list_models() if family_of(open_clip.get_model_config(name))
    )


def _configuration(model: str) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """Name, model config and preprocessing settings of a name, path or URL."""
    if model == "microworld":
        return model, *_config_file(str(MICROWORLD))
    if model.endswith(".json"):
        return model, *_config_file(model)
    _refuse_places(model)
    name = model.replace("/", "-")  # OpenAI wrote ViT-B/32
    if name not in open_clip.list_models():
        near = get_close_matches(name, (*supported_models(), "microworld"), n=5, cutoff=0.5)
        hint = f"; near names: {', '.join(near)}" if near else ""
        raise ModelError(f"unknown model {model!r}{hint}. {_supported()}")
    return name, open_clip.get_model_config(name), {}


def _refuse_places(model: str) -> None:
    """Names of Hugging Face's hub, and folders: which name or file is meant instead."""
    kind, _, place = model.partition(":")
    if kind == "local-dir" or Path(model).expanduser().is_dir():
        folder = place if kind == "local-dir" else model.rstrip("/")
        raise ModelError(
            f"model {model} is a folder: give the files in it, `model` "
            f"{folder}/open_clip_config.json `pretrained` {folder}/open_clip_model.safetensors"
        )
    hub = place if kind == "hf-hub" else model
    for host in ("https://huggingface.co/", "hf://"):
        hub = hub.removeprefix(host)
    if model.endswith(".json") or (hub == model and "/" not in model):
        return
    if hub == model and model.replace("/", "-") in open_clip.list_models():
        return
    if own := re.fullmatch(r"openai/clip-vit-(base|large)-patch(\d+(?:-336)?)", hub):
        size = {"base": "B", "large": "L"}[own[1]]
        raise ModelError(
            f"model {model} is transformers' name: write `model` ViT-{size}-{own[2]}-quickgelu "
            "`pretrained` openai"
        )
    for name in supported_models():
        for tag in list_pretrained_tags_by_model(name):
            entry = get_pretrained_cfg(name, tag)
            if entry.get("hf_hub", "").strip("/") == hub.strip("/") and bool(
                entry.get("quick_gelu")
            ) == name.endswith("-quickgelu"):
                raise ModelError(
                    f"model {model} is a name of Hugging Face's hub: write `model` {name} "
                    f"`pretrained` {tag}"
                )
    if hub != model or (model.count("/") == 1 and not model.startswith((".", "/", "~"))):
        raise ModelError(
            f"model {model} looks like a name of Hugging Face's hub, and open_clip's are taken: "
            "give its open_clip_config.json by `model` and its open_clip_model.safetensors by "
            f"`pretrained`, where https://huggingface.co/{hub} has them. {_supported()}"
        )


def _config_file(url: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    try:
        data = urls.read_bytes(url)  # bytes: JSON's reader knows byte order marks
    except OSError as error:
        raise ModelError(f"cannot read model config {url}: {error}") from error
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ModelError(f"model config {url} is not valid JSON: {error}") from error
    config = content.get("model_cfg", content) if isinstance(content, dict) else None
    needed = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(key not in config for key in needed):
        raise ModelError(
            f"model config {url} lacks {', '.join(needed)}: it must be an open_clip model "
            "config, bare or under 'model_cfg' as on the hub"
        )
    unknown = [
        *(set(config) - TOP_LEVEL_KEYS),
        *(set(config["vision_cfg"]) - {f.name for f in fields(open_clip.vision_config())}),
        *(set(config["text_cfg"]) - {f.name for f in fields(open_clip.text_config())}),
    ]
    if unknown:
        raise ModelError(
            f"model config {url}: open_clip {open_clip.version()} knows no "
            f"{', '.join(sorted(unknown))}"
        )
    return config, content.get("preprocess_cfg", {})


def _supported_family(name: str, config: dict[str, Any]) -> str:
    family = family_of(config)
    if family is None:
        raise UnsupportedModel(
            f"model {name} cannot be decomposed: {' and '.join(faults(config))}. {_supported()}"
        )
    return family


def _supported() -> str:
    named = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14")
    more = "python -c 'from pipeline.models import *; print(*supported_models())'"
    return (
        "Supported are OpenCLIP and OpenAI ViTs with class-token pooling: microworld, "
        f"{', '.join(named)}, {len(supported_models()) - len(named)} more (`{more}` lists them), "
        "or a config file (.json) of such a ViT."
    )


def _checkpoint(spec: ModelSpec, name: str) -> Path | dict[str, Any] | None:
    """Where the weights are, without reading them."""
    if spec.pretrained == "none":
        return None
    if spec.model == "microworld" and spec.pretrained == "microworld":
        path = MICROWORLD.with_suffix(".safetensors")
        if not path.is_file():
            raise ModelError(f"{path} is absent: pipeline/microworld/training makes it")
        return path
    if tag := get_pretrained_cfg(name, spec.pretrained):
        return dict(tag)
    if "://" in spec.pretrained:
        raise ModelError(
            f"weights {spec.pretrained} are at a URL, and weights are read from files: copy them "
            "to this machine and give the path"
        )
    path = Path(spec.pretrained).expanduser()
    if path.is_dir():
        raise ModelError(f"weights {path} are a folder: give the file in it that holds them")
    if not path.is_file():
        tags = ["microworld"] if name == "microworld" else list_pretrained_tags_by_model(name)
        raise ModelError(
            f"pretrained {spec.pretrained!r} of model {name} is neither a tag nor a file; its "
            f"tags: {', '.join(tags) or 'none'}. Or give a weights file "
            f"({', '.join(WEIGHT_SUFFIXES)}), or 'none' for random weights."
        )
    if not path.name.endswith(WEIGHT_SUFFIXES):
        raise ModelError(f"weights file {path} must end in one of {', '.join(WEIGHT_SUFFIXES)}")
    return path


def _refuse_other_activation(
    spec: ModelSpec, name: str, config: dict[str, Any], tag: dict[str, Any]
) -> None:
    """open_clip only warns of this, and then runs weights with a function they never saw."""
    wanted, given = bool(tag.get("quick_gelu")), bool(config.get("quick_gelu"))
    if wanted != given:
        other = f"{name}-quickgelu" if wanted else name.removesuffix("-quickgelu")
        known = other in supported_models()
        remedy = f"model {other}" if known else f"a config file with quick_gelu {wanted}"
        raise ModelError(
            f"weights {spec.pretrained!r} were trained with {_gelu(wanted)}, but model {name} "
            f"runs {_gelu(given)}: use {remedy}"
        )


def _gelu(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"
