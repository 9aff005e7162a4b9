"""Weights files as people have them: what a file is, its tensors under open_clip's names."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.lean import open_clip

from .errors import ModelError

# What torch.compile, data parallelism and trainers put before every name, in any order.
PREFIXES = ("module.", "_orig_mod.", "model.")
# Where checkpoints keep their weights, beside optimisers and epochs.
INSIDE = ("state_dict", "model_state_dict", "model")
# Facts of OpenAI's and of older files that are no weights of either tower, and a bias of all
# logits alike, which no embedding has.
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "logit_bias")
NAMED = 3
_DAMAGED = (
    SafetensorError, RuntimeError, LookupError, AttributeError, TypeError, ValueError, EOFError,
    OSError, zipfile.BadZipFile,
)  # fmt: skip


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, prefixes of wrappers taken off.

    No pickle is read that could run code. A TorchScript archive, such as OpenAI's, is built by
    torch's own interpreter, which reaches neither Python nor its modules, and is never called.

    Raises
    ------
    ModelError
        Saying what the file is and what to do.
    """
    _refuse_other_files(path)
    try:
        content = _content(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path} is not a plain state dict, and anything else in a pickle could "
            f"run code: convert it to .safetensors{_held(error)}"
        ) from error
    except _DAMAGED as error:
        raise ModelError(
            f"weights file {path} is damaged or no weights file: {_brief(error)}"
        ) from (error)
    if isinstance(content, Mapping):
        content = next((c for n in INSIDE if isinstance(c := content.get(n), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(n, str) for n in content):
        raise ModelError(
            f"weights file {path} holds a {type(content).__name__}, not weights by name: save the "
            "model's state_dict()"
        )
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ModelError(f"weights file {path} holds no tensors: save the model's state_dict()")
    return _without_prefixes(state)


def fitted(state: dict[str, Tensor], wanted: Mapping[str, Tensor], of: str) -> dict[str, Tensor]:
    """The same tensors under the names of the model, all of whose shapes agree.

    Parameters
    ----------
    state : dict of str to Tensor
    wanted : mapping of str to Tensor
        The model's own, of which only names and shapes are looked at.
    of : str
        Which file and which model, for people.

    Raises
    ------
    ModelError
        Naming what is missing, what is too much and which shapes differ. Nothing is interpolated.
    """
    if any(name.startswith(("vision_model.", "text_model.")) for name in state):
        raise ModelError(
            f"{of}: it has the key names of Hugging Face's transformers (vision_model.…), and "
            "open_clip's are needed: take the same weights by open_clip's tag or its "
            "open_clip_model.safetensors on the hub"
        )
    state = {n: v for n, v in state.items() if n not in NO_WEIGHTS or n in wanted}
    if "positional_embedding" in state and "text.positional_embedding" in wanted:
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    elif "text.positional_embedding" in state and "positional_embedding" in wanted:
        state = {name.removeprefix("text."): value for name, value in state.items()}
    bare = "class_embedding" in state and "visual.class_embedding" in wanted
    if bare or all(name.startswith("visual.") for name in state):
        raise ModelError(
            f"{of}: it is an image tower alone, and texts are embedded, too: give the whole "
            "model's weights, both towers in one file"
        )
    if "logit_scale" in state and state["logit_scale"].numel() == 1 and "logit_scale" in wanted:
        state["logit_scale"] = state["logit_scale"].reshape(wanted["logit_scale"].shape)
    if "logit_bias" in wanted and "logit_bias" not in state:
        state["logit_bias"] = torch.zeros(wanted["logit_bias"].shape)
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{n} is {_shape(state[n])}, the model's {_shape(wanted[n])}"
        for n in wanted
        if n in state and state[n].shape != wanted[n].shape
    ]
    facts = [
        f"{len(names)} {what} ({', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''})"
        for names, what in (
            (missing, "names are missing"),
            (unknown, "are not the model's"),
            (shapes, "have another shape"),
        )
        if names
    ]
    if not facts:
        return state
    remedy = "give the weights of this model, or the model of these weights"
    if shapes and all("positional_embedding" in text for text in shapes):
        remedy = "positions are not interpolated: take the config of the size they were trained at"
    raise ModelError(f"{of}: {'; '.join(facts)}: {remedy}")


def _refuse_other_files(path: Path) -> None:
    """Files that stand where weights should, told by how they begin."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        raise ModelError(f"weights file {path} cannot be read: {error.strerror}") from error
    if not start:
        raise ModelError(f"weights file {path} is empty, as if its download was damaged: repeat it")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"weights file {path} is a Git LFS pointer, not the weights: run `git lfs pull` in its "
            "repository"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            f"weights file {path} is a web page, not the weights: its download was refused; "
            "repeat it, with an account where one is needed"
        )


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
        # By what it holds, too: the length of a header in 8 bytes, then its JSON.
        named = path.suffix == ".safetensors" or start[8:] == b"{"
        if named and not start.startswith((b"PK", b"\x80\x02")):
            return load_file(path)
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                scripted = any(n.rsplit("/", 1)[-1] == "constants.pkl" for n in archive.namelist())
            file.seek(0)
            if scripted:
                with warnings.catch_warnings():  # that new archives are to be made otherwise
                    warnings.simplefilter("ignore", FutureWarning)
                    return torch.jit.load(file, map_location="cpu").state_dict()
        file.seek(0)
        # A checkpoint's settings are a Namespace, which holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    # torch.compile of one tower alone puts it in the middle.
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}


def _held(error: Exception) -> str:
    """What was refused, without torch's advice to run it all the same."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f" (it holds {found[1]})" if found else ""


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
