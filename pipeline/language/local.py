"""Causal language models on this machine, through ``transformers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from storage.errors import FacetError

from .choices import Messages


class LocalModel:
    """A model and its tokenizer from a folder; nothing is fetched.

    Parameters
    ----------
    path : str
        As ``save_pretrained`` writes it.
    settings : mapping
        How an answer is made: ``max_new_tokens`` and others of ``generate``.
    shorter : str
        What makes a question shorter, for one that is too long.
    """

    def __init__(self, path: str, settings: Mapping[str, Any], shorter: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            only: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            self._tokenizer = AutoTokenizer.from_pretrained(path, **only)
            # Weights of other kinds are pickles, which may run what they like as they are read.
            model: Any = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **only)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().partition("\n")[0]
            raise FacetError(
                f"transformers:{path} is no causal language model with its tokenizer: {first}"
            ) from error
        self._path, self._settings, self._shorter = path, settings, shorter
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def __call__(self, messages: Messages, seed: int | None = None) -> str:
        """The answer to messages, in the model's own chat template, or plainly without one.

        Where words are drawn by chance, the same seed draws the same.
        """
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
                f"{self._shorter}, or another model"
            )
        most = self._settings["max_new_tokens"]
        room = most if longest is None else min(most, longest - length)
        with torch.inference_mode(), torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            out = self._model.generate(
                **words,
                **{**self._settings, "max_new_tokens": room},
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            )
        return str(tokenizer.decode(out[0, length:], skip_special_tokens=True))
