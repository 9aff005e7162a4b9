"""Weights files as people have them: what a file is, and its tensors by name."""

from __future__ import annotations

import argparse
import json
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

from .checkpoint import INDEX
from .errors import ModelError

# What torch.compile, data parallelism and trainers put before every name, in any order.
PREFIXES = ("module.", "_orig_mod.", "model.")
# Where checkpoints keep their weights, beside optimisers and epochs.
INSIDE = ("state_dict", "model_state_dict", "model", "module")
AVERAGED = ("state_dict_ema", "model_ema")
NAMED = 3
PART = re.compile(r"-\d{5}-of-(\d{5})\.")
_DAMAGED = (
    SafetensorError, RuntimeError, LookupError, AttributeError, TypeError, ValueError, EOFError,
    OSError, zipfile.BadZipFile,
)  # fmt: skip


def read_state(path: Path, averaged: bool = False) -> dict[str, Tensor]:
    """The tensors of a weights file by name, prefixes of wrappers taken off.

    No pickle is read that could run code. A TorchScript archive, such as OpenAI's, is built by
    torch's own interpreter, which reaches neither Python nor its modules, and is never called.

    Parameters
    ----------
    path : Path
        Of a file, or of an index that names those beside it.
    averaged : bool
        Of a checkpoint that holds both, whether its averaged weights are meant, as timm takes
        them, or those of its last step, as open_clip does.

    Raises
    ------
    ModelError
        Saying what the file is and what to do.
    """
    if path.name.endswith(INDEX):
        return _without_prefixes(_parts(path, averaged))
    if (parts := PART.search(path.name)) and int(parts[1]) > 1:
        index = path.with_name(f"{PART.split(path.name)[0]}{path.suffix}{INDEX}")
        raise ModelError(
            f"weights file {path} is one of {int(parts[1])}: give the index that names all of "
            f"them, {index}"
        )
    return _without_prefixes(_tensors(path, averaged))


def _parts(index: Path, averaged: bool) -> dict[str, Tensor]:
    """The tensors of all files that an index names."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [index.parent / name for name in sorted(set(places.values()))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"weights index {index} cannot be read: {_brief(error)}: it must be JSON with "
            "weight_map, from names of tensors to names of files"
        ) from error
    if absent := [file.name for file in files if not file.is_file()]:
        raise ModelError(
            f"weights index {index} names {len(files)} files, of which {len(absent)} are not "
            f"beside it: {', '.join(absent[:NAMED])}: copy them there"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _tensors(file, averaged)
    return state


def _tensors(path: Path, averaged: bool) -> dict[str, Tensor]:
    _refuse_other_files(path)
    try:
        content = _content(path)
    except ModelError:
        raise
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
        names = (*AVERAGED, *INSIDE) if averaged else (*INSIDE, *AVERAGED)
        content = next((c for n in names if isinstance(c := content.get(n), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(n, str) for n in content):
        raise ModelError(
            f"weights file {path} holds a {type(content).__name__}, not weights by name: save the "
            "model's state_dict()"
        )
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ModelError(f"weights file {path} holds no tensors: save the model's state_dict()")
    return state


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


def _refuse_arrays(path: Path, archive: zipfile.ZipFile) -> None:
    if any(name.endswith(".npy") for name in archive.namelist()):
        raise ModelError(
            f"weights file {path} holds NumPy's arrays, as big_vision names them: the same weights "
            "are on the hub in open_clip's and timm's layout, under a tag of theirs"
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
                _refuse_arrays(path, archive)
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


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
