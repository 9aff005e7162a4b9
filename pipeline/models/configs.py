"""Configurations of models in files, folders and repositories: read, and held to their library."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.microworld.cards import WEIGHTS
from storage import urls

from . import hub, microworld, timm_names
from . import openclip_files as open_clip
from .checkpoint import PREFERRED, HubFile
from .errors import ModelError

TOP_LEVEL_KEYS = {
    "embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text",
    "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale",
}  # fmt: skip
# The embedded world's own models, by name.
WORLD = ("microworld", *(f"microworld:{kind}" for kind in microworld.KINDS))
# Names of configurations as open_clip and as timm write them; the first that is there is meant.
OPEN_CLIP, TIMM = "open_clip_config.json", "config.json"


@dataclass(frozen=True, eq=False)
class Configuration:
    """What decides how a model is built, and how its pictures are prepared."""

    config: dict[str, Any]
    """open_clip's model config, or timm's as its hub lays it out."""
    pictures: dict[str, Any]
    """Settings of preprocessing: open_clip's, or timm's ``pretrained_cfg``."""
    own: Path | HubFile | None = None
    """Where the weights beside it are, if there are any: a folder, or a repository."""


def of_world(name: str) -> Configuration:
    """The configuration of one of the embedded world's models, and its trained weights."""
    _, _, kind = name.partition(":")
    if kind:
        config = microworld.configuration(kind)
        return Configuration(config, dict(microworld.PICTURES), microworld.weights(kind))
    found = of_file(str(WEIGHTS / "clip.json"))
    return Configuration(found.config, found.pictures, microworld.weights("clip"))


def of_file(url: str) -> Configuration:
    """The configuration in a JSON file, at a path or URL.

    Raises
    ------
    ModelError
        If it cannot be read, or is none that open_clip or timm writes.
    """
    try:
        data = urls.read_bytes(url)  # bytes: JSON's reader knows byte order marks
    except OSError as error:
        raise ModelError(f"cannot read model config {url}: {error}") from error
    return _read(f"model config {url}", data)


def of_folder(folder: str) -> Configuration:
    """The configuration in a folder, and which of its files holds the weights."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ModelError(f"model local-dir:{folder}: there is no such folder")
    name = next((name for name in (OPEN_CLIP, TIMM) if (place / name).is_file()), None)
    if name is None:
        raise ModelError(
            f"model local-dir:{folder}: the folder has neither {OPEN_CLIP} nor {TIMM}, which say "
            "what is built"
        )
    found = of_file(str(place / name))
    return Configuration(found.config, found.pictures, place)


def of_hub(place: str) -> Configuration:
    """The configuration in a repository of the hub, or in what this machine's cache has of it.

    Parameters
    ----------
    place : str
        ``organisation/name``, and, behind an @, a revision.
    """
    repo, _, revision = place.partition("@")
    asked = HubFile(repo, (OPEN_CLIP, TIMM), revision or None)
    path = hub.fetch(asked, f"the configuration of model hf-hub:{place}")
    found = of_file(str(path))
    names = PREFERRED if path.name == OPEN_CLIP else timm_names.FILES
    return Configuration(found.config, found.pictures, HubFile(repo, names, revision or None))


def _read(what: str, data: bytes) -> Configuration:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{what} is not valid JSON: {error}") from error
    if isinstance(content, dict) and "architecture" in content:
        return _of_timm(what, content)
    if isinstance(content, dict) and "model_type" in content:
        raise ModelError(
            f"{what} is of Hugging Face's transformers ({content['model_type']}), and open_clip's "
            "or timm's are taken: the same weights often stand under open_clip's or timm's name"
        )
    return _of_open_clip(what, content)


def _of_open_clip(what: str, content: Any) -> Configuration:
    config = content.get("model_cfg", content) if isinstance(content, dict) else None
    needed = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(key not in config for key in needed):
        raise ModelError(
            f"{what} lacks {', '.join(needed)}: it must be an open_clip model config, bare or "
            "under 'model_cfg' as on the hub, or timm's, with its architecture"
        )
    unknown = [
        *(set(config) - TOP_LEVEL_KEYS),
        *(set(config["vision_cfg"]) - {f.name for f in fields(open_clip.vision_config())}),
        *(set(config["text_cfg"]) - {f.name for f in fields(open_clip.text_config())}),
    ]
    if unknown:
        raise ModelError(
            f"{what}: open_clip {open_clip.version()} knows no {', '.join(sorted(unknown))}"
        )
    return Configuration(config, dict(content.get("preprocess_cfg", {})))


def _of_timm(what: str, content: dict[str, Any]) -> Configuration:
    """timm's two layouts: settings of pictures under ``pretrained_cfg``, or, before, flat."""
    settings = dict(content.get("pretrained_cfg", content))
    name = content["architecture"]
    config = {"architecture": name}
    for key in ("num_classes", "global_pool"):
        found = content.get(key, settings.get(key))
        if found is not None:
            config[key] = found
    if "input_size" in settings:
        config["pretrained_cfg"] = {"input_size": settings["input_size"]}
    if content.get("model_args"):
        config["model_args"] = content["model_args"]
    known = timm_names.list_models()
    if name not in known and name not in timm_names.refused():
        raise ModelError(f"{what}: timm {timm_names.table()['timm']} knows no model {name!r}")
    # What it leaves unsaid is the name's own.
    own = timm_names.settings(name) if name in known else {}
    return Configuration(config, {**own, **settings})
