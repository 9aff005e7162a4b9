"""Whether texts can be embedded with a model at all; light, as jobs ask it first."""

from __future__ import annotations

from pipeline.models import hf_texts
from pipeline.models.errors import ModelError
from pipeline.models.spec import Architecture, ModelSpec, check_supported
from storage.errors import FacetError, Remedy
from storage.metadata import Metadata

# Where texts come from then.
CLIP_STORE = "CLIP-STORE"
ALIGN = "texts of a CLIP over the same images can be brought to its heads"


def why_without_texts(model: Architecture) -> str:
    """What keeps texts from being embedded with a model, in words; empty if nothing does.

    Parameters
    ----------
    model : Architecture
        Of a model that is loaded it is known, too, what its weights file held.
    """
    if model.config.get("text_cfg") is None:
        why = f"model {model.name} has no text tower, so no text can be embedded with it"
        return f"{why}; {ALIGN}" if model.heads else why
    if lacking := hf_texts.absent(model.config, model.name):
        return f"no text can be embedded with model {model.name}: {lacking}"
    if why := getattr(model, "without_texts", ""):
        return (
            f"no text can be embedded with model {model.name}: {why}. Extract with a file that "
            f"holds both towers{f'; or {ALIGN}' if model.heads else ''}"
        )
    return ""


def refuse_without_texts(model: Architecture, url: str | None = None) -> None:
    """Refuse a model that no text can be embedded with.

    Parameters
    ----------
    model : Architecture
    url : str, optional
        A store of that model.

    Raises
    ------
    FacetError
        Which says what is missing: a text tower, its weights, or files on this machine.
    """
    if why := why_without_texts(model):
        aligned = url is not None and why.endswith(ALIGN)
        known = {"from_": CLIP_STORE, "pool": "POOL"}
        raise FacetError(why, Remedy.first("align", str(url), **known) if aligned else None)


def refuse_store_without_texts(url: str, meta: Metadata) -> None:
    """Refuse the model of a store if its configuration has no text tower.

    Files that a text tower needs may be missing: what was embedded before is there all the same.

    Parameters
    ----------
    url : str
        The store, which may still be to be made.
    meta : Metadata

    Raises
    ------
    FacetError
    """
    if (model := without_text_tower(meta)) is not None:
        refuse_without_texts(model, url)


def without_text_tower(meta: Metadata) -> Architecture | None:
    """The model of a store if its configuration has no text tower; else None."""
    try:
        model = check_supported(ModelSpec(meta.architecture, "none"))
    except ModelError:  # a configuration that is gone is told of when it is needed
        return None
    return model if model.config.get("text_cfg") is None else None
