"""Tensors of a weights file under the names of a model: whoever wrote it, whatever it left out."""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.lean import open_clip

from .errors import ModelError

IMAGES = "visual."
# Facts of OpenAI's and of older files that are no weights of either tower, a bias of all logits
# alike, which no embedding has, and what stands in pretraining for what is masked.
NO_WEIGHTS = (
    "input_resolution", "context_length", "vocab_size", "attn_mask", "logit_bias", "mask_token",
    "text.transformer.embeddings.position_ids",
)  # fmt: skip
# Beside an image tower that was trained to make pictures whole.
DECODER = "decoder_"
# What a whole model has beside its image tower, in any of open_clip's layouts.
TEXTS = ("text.", "text_decoder.", "transformer.", "token_embedding.", "ln_final.", "logit_",
         "positional_embedding", "text_projection", "cls_emb")  # fmt: skip
_TRANSFORMERS = ("vision_model.", "text_model.", "embeddings.", "encoder.layer.", "dinov2.")
INTERPOLATED = "positions are not interpolated: take the config of the size they were trained at"
NAMED = 3


def fitted(state: dict[str, Tensor], module: nn.Module, of: str) -> dict[str, Tensor]:
    """The same tensors under the names of the model, all of whose shapes agree.

    If the file holds an image tower alone, then only those of the image tower; if the model is
    one and the file holds both, those of texts come along.

    Parameters
    ----------
    state : dict of str to Tensor
    module : nn.Module
        The model, of which names and shapes are looked at; its image tower is ``visual``.
    of : str
        Which file and which model, for people.

    Raises
    ------
    ModelError
        Naming what is missing, what is too much and which shapes differ. Nothing is interpolated.
    """
    if any(name.startswith(_TRANSFORMERS) for name in state):
        raise ModelError(
            f"{of}: it has the key names of Hugging Face's transformers (vision_model.…), and "
            "open_clip's or timm's are needed: take the same weights by open_clip's or timm's tag, "
            "or its open_clip_model.safetensors on the hub"
        )
    wanted = module.state_dict()
    named = _as_named(state, wanted)
    differences = _Differences.of(named, wanted)
    if not differences.facts:
        return named
    if differences.missing or differences.unknown:
        for convert in (_by_open_clip, _by_timm):
            with _NotInterpolated(of):
                found = _as_named(convert(dict(state), module), wanted)
            if found and not _Differences.of(found, wanted).facts:
                return found
    raise ModelError(f"{of}: {'; '.join(differences.facts)}: {differences.remedy}")


def has_texts(state: Mapping[str, Tensor]) -> bool:
    """Whether what was fitted has more than an image tower."""
    return not all(name.startswith(IMAGES) for name in state)


def _as_named(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {
        name: value
        for name, value in state.items()
        if name in wanted or (name not in NO_WEIGHTS and not name.startswith(DECODER))
    }
    return _as_images_are_named(_as_texts_are_named(weights, wanted), wanted)


def _as_texts_are_named(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A text tower's names as the model has them: its own, or under ``text.``."""
    if "positional_embedding" in state and "text.positional_embedding" in wanted:
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    elif "text.positional_embedding" in state and "positional_embedding" in wanted:
        state = {name.removeprefix("text."): value for name, value in state.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in wanted and state[name].numel() == 1:
            state[name] = state[name].reshape(wanted[name].shape)
    if "logit_bias" in wanted and "logit_bias" not in state and "logit_scale" in state:
        state["logit_bias"] = torch.zeros(wanted["logit_bias"].shape)
    return state


def _as_images_are_named(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """An image tower's names as the model has them, where the file holds nothing else."""
    known = {p: sum(p + name in wanted for name in state) for p in ("", IMAGES, f"{IMAGES}trunk.")}
    prefix = max(known, key=known.__getitem__)
    return {prefix + name: value for name, value in state.items()} if prefix else state


@dataclass(frozen=True)
class _Differences:
    """Names that are missing, names that are not the model's, and shapes that differ, in words."""

    missing: list[str]
    unknown: list[str]
    shapes: list[str]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> _Differences:
        if not has_texts(state):
            wanted = {name: value for name, value in wanted.items() if name.startswith(IMAGES)}
        unknown = sorted(state.keys() - wanted.keys())
        if not has_texts(wanted):
            unknown = [name for name in unknown if not name.startswith(TEXTS)]
        shapes = [
            f"{n} is {_shape(state[n])}, the model's {_shape(wanted[n])}"
            for n in wanted
            if n in state and state[n].shape != wanted[n].shape
        ]
        return cls(sorted(wanted.keys() - state.keys()), unknown, shapes)

    @property
    def facts(self) -> list[str]:
        """A sentence for each kind; empty if there are none."""
        return [
            f"{len(names)} {what} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"
            for names, what in (
                (self.missing, "names are missing"),
                (self.unknown, "are not the model's"),
                (self.shapes, "have another shape"),
            )
            if names
        ]

    @property
    def remedy(self) -> str:
        if self.shapes and all("pos" in text.partition(" is ")[0] for text in self.shapes):
            return (
                "positions are not interpolated: take the config of the size they were trained at"
            )
        return "give the weights of this model, or the model of these weights"


# -- other layouts of timm's models --------------------------------------------------------


def _trunk(module: nn.Module) -> tuple[nn.Module, str] | None:
    """timm's model in a model, and the prefix of its names; None if there is none."""
    visual: Any = module.visual
    for tower, prefix in ((getattr(visual, "trunk", None), f"{IMAGES}trunk."), (visual, IMAGES)):
        if tower is not None and type(tower).__module__.startswith("timm.models."):
            return tower, prefix
    return None


def _by_open_clip(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors as open_clip itself converts them: Apple's own layout. Empty where it cannot."""
    return _tried(partial(open_clip.convert.convert_state_dict, module), state)


def _by_timm(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The tensors as timm itself converts them: Meta's, Microsoft's, Apple's own layouts. Empty
    where its module has nothing to convert, or does not know the layout."""
    if (known := _trunk(module)) is None:
        return {}
    trunk, prefix = known
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return {}
    whole = any(name.startswith(IMAGES) for name in state)
    images = {n: v for n, v in state.items() if not whole or n.startswith(IMAGES)}
    if any(".gamma_" in n for n in images) and "adapt_layer_scale" in _parameters(convert):
        convert = partial(convert, adapt_layer_scale=True)  # as timm does for DeiT III
    found = _tried(lambda given: convert(given, trunk), dict(images))
    unwanted = set(_classifiers(trunk))
    others = {n: v for n, v in state.items() if n not in images}
    return {prefix + n: v for n, v in found.items() if n not in unwanted} | others


def _tried(convert: Callable[[dict[str, Tensor]], Any], state: dict[str, Tensor]) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm prints what a model does not have
            return dict(convert(state))
    except ModelError:
        raise
    except Exception:  # of a layout that is taken for another
        return {}


def _parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _classifiers(trunk: Any) -> Iterator[str]:
    """Names of a classifier that the model was asked to be without."""
    if getattr(trunk, "num_classes", 1):
        return
    given = getattr(trunk, "pretrained_cfg", {}).get("classifier") or ()
    for name in (given,) if isinstance(given, str) else given:
        yield from (f"{name}.weight", f"{name}.bias")


class _NotInterpolated(TorchFunctionMode):
    """Within it nothing becomes larger or smaller."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.interpolate:
            raise ModelError(
                f"{self.of}: its positions or patches have another size than the model's, and "
                f"{INTERPOLATED}"
            )
        return func(*args, **(kwargs or {}))


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
