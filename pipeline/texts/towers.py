"""Whether texts can be embedded with a model at all; light, as jobs ask it first."""

from __future__ import annotations

from pipeline.models import hf_texts
from pipeline.models.errors import ModelError
from pipeline.models.spec import Architecture, ModelSpec, check_supported
from storage.errors import FacetError
from storage.metadata import Metadata

ALIGN = (
    "`facet align --from CLIP-STORE --to THIS-STORE --pool POOL` brings texts of a CLIP over the "
    "same images to its heads"
)


def why_without_texts(model: Architecture) -> str:
    """What keeps texts from being embedded with a model, in words; empty if nothing does.

    Parameters
    ----------
    model : Architecture
        Of a model that is loaded it is known, too, what its weights file held.
    """
    if model.config.get("text_cfg") is None:
        return f"model {model.name} has no text tower, so no text can be embedded with it: {ALIGN}"
    if lacking := hf_texts.absent(model.config, model.name):
        return f"no text can be embedded with model {model.name}: {lacking}"
    if why := getattr(model, "without_texts", ""):
        return (
            f"no text can be embedded with model {model.name}: {why}. Extract with a file that "
            f"holds both towers; or {ALIGN}"
        )
    return ""


def refuse_without_texts(model: Architecture) -> None:
    """Refuse a model that no text can be embedded with.

    Raises
    ------
    FacetError
        Which says what is missing: a text tower, its weights, or files on this machine.
    """
    if why := why_without_texts(model):
        raise FacetError(why)


def refuse_store_without_texts(meta: Metadata) -> None:
    """Refuse the model of a store if its configuration has no text tower.

    Files that a text tower needs may be missing: what was embedded before is there all the same.
    """
    try:
        model = check_supported(ModelSpec(meta.architecture, "none"))
    except ModelError:  # a configuration that is gone is told of when it is needed
        return
    if model.config.get("text_cfg") is None:
        refuse_without_texts(model)
