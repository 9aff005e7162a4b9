"""Text towers and tokenizers of Hugging Face: whether this machine has their files, and where.

open_clip makes a text tower of an encoder's configuration, `config.json`, and a tokenizer of its
own files; the encoder's weights are in the model's file. None of them is fetched here: they are
looked for beside the model, where it is a folder, in a folder that the configuration names, and
in the hub's cache. Light, as it is asked before torch is imported.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from . import hub
from .checkpoint import HubFile
from .openclip_files import definitions

CONFIG = ("config.json",)
TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt",
    "vocab.json", "tokenizer_config.json",
)  # fmt: skip
LOCAL = "local-dir:"


def installed() -> bool:
    """Whether transformers is, which reads all of these files."""
    return importlib.util.find_spec("transformers") is not None


def encoder_of(config: dict[str, Any]) -> str:
    """Hugging Face's name of a configuration's text tower; empty where it is open_clip's own."""
    return (config.get("text_cfg") or {}).get("hf_model_name") or ""


def on_this_machine(config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A configuration to build a model of, without network; None if its encoder is not here.

    Parameters
    ----------
    config : dict
        Of any model.
    name : str
        The model's.
    """
    if not encoder_of(config):
        return config
    if not installed():
        return None
    folder = encoder_folder(config, name)
    if folder is None:
        return None
    text = {"hf_model_name": str(folder), "hf_model_pretrained": False}
    return {**config, "text_cfg": {**config["text_cfg"], **text}, "custom_text": True}


def encoder_folder(config: dict[str, Any], name: str) -> Path | None:
    """The folder with an encoder's configuration; None where this machine has none.

    Parameters
    ----------
    config : dict
        An open_clip configuration whose text tower is Hugging Face's.
    name : str
        Of the model: a folder is looked into.
    """
    beside = _beside(name)
    if beside is not None and _is_encoder(beside / CONFIG[0]):
        return beside
    return _folder(config["text_cfg"]["hf_model_name"], CONFIG)


def tokenizer_folder(config: dict[str, Any], name: str) -> Path | None:
    """The folder with a tokenizer's files; None where this machine has none."""
    beside = _beside(name)
    if beside is not None and any((beside / file).is_file() for file in TOKENIZER):
        return beside
    return _folder(config["text_cfg"]["hf_tokenizer_name"], TOKENIZER)


def absent(config: dict[str, Any], name: str) -> str:
    """What a model's texts need and this machine lacks, and where to put it; empty if nothing."""
    text = config.get("text_cfg") or {}
    encoder, tokenizer = text.get("hf_model_name"), text.get("hf_tokenizer_name")
    if not encoder and not tokenizer:
        return ""
    if not installed():
        return (
            f"its {'text tower' if encoder else 'tokenizer'} is Hugging Face's "
            f"{encoder or tokenizer}: pip install 'facet-interp[texts]'"
        )
    if encoder and encoder_folder(config, name) is None:
        return _lacking("text tower", encoder, "`config.json`", name)
    if tokenizer and tokenizer_folder(config, name) is None:
        return _lacking("tokenizer", tokenizer, f"files ({', '.join(TOKENIZER[:3])} …)", name)
    return ""


def _lacking(what: str, of: str, files: str, name: str) -> str:
    beside = f", or put its files into {_beside(name)}" if _beside(name) is not None else ""
    return (
        f"its {what} is Hugging Face's {of}, whose {files} this machine does not have in "
        f"{hub.cache_folder()}: where there is a network, run `hf download {of} --include '*.json' "
        f"'*.model' '*.txt'` and copy that folder here{beside}"
    )


def _beside(name: str) -> Path | None:
    """The folder of a model that is one, or whose configuration is a file."""
    if name.startswith(LOCAL):
        return Path(name.removeprefix(LOCAL)).expanduser()
    if name.endswith(".json") and "://" not in name:
        return Path(name).expanduser().parent
    return None


def _folder(name: str, files: tuple[str, ...]) -> Path | None:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder if any((folder / file).is_file() for file in files) else None
    found = hub.cached(HubFile(name, files))
    return found and found.parent


def _is_encoder(file: Path) -> bool:
    """Whether a file is the configuration of an encoder that open_clip knows."""
    try:
        kind = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return kind in definitions("hf_configs.py", "arch_dict")["arch_dict"]
