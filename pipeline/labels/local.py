"""Causal language models on this machine, through ``transformers``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from storage.errors import FacetError

from .by_model import Messages

# How an answer is made: the likeliest word each time.
SETTINGS: dict[str, Any] = {"do_sample": False, "max_new_tokens": 256}


class LocalModel:
    """A model and its tokenizer from a folder; nothing is fetched.

    Parameters
    ----------
    path : str
        As ``save_pretrained`` writes it.
    """

    def __init__(self, path: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().partition("\n")[0]
            raise FacetError(
                f"`with_` transformers:{path} is no causal language model with its tokenizer: "
                f"{first}"
            ) from error
        self._path = path
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, messages: Messages) -> str:
        """The answer to messages, in the model's own chat template, or plainly without one."""
        tokenizer = self._tokenizer
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        else:
            text = "\n\n".join(m["content"] for m in messages) + "\n"
        words = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        words = words.to(self._model.device)
        length = words["input_ids"].shape[1]
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and length >= longest:
            raise FacetError(
                f"a question has {length} tokens, and the model in {self._path} reads {longest}: "
                "give fewer `examples`, a shorter `lexicon`, or another model"
            )
        most = SETTINGS["max_new_tokens"]
        room = most if longest is None else min(most, longest - length)
        with torch.inference_mode():
            out = self._model.generate(
                **words,
                do_sample=SETTINGS["do_sample"],
                max_new_tokens=room,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            )
        return str(tokenizer.decode(out[0, length:], skip_special_tokens=True))


def model_digest(path: str) -> str:
    """sha256 of all files of a model's folder, hex."""
    found = hashlib.sha256()
    for file in sorted(p for p in Path(path).iterdir() if p.is_file()):
        with file.open("rb") as opened:
            found.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()
