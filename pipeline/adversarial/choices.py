"""What may be chosen of adversarial images, by name; light, as it is read before any work."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pipeline.language.choices import Chosen, parse_choice
from storage.errors import FacetError

# Where cues come from: neurons whose second-order effects point from the drawn class to the target;
# as many random ones; neurons by their indirect effects; the texts most like the difference of the
# classes; no cues at all, to know what the model gets wrong in any case; a file.
Source = Literal["second-order", "random", "indirect", "similar", "none", "given"]

# What comes of a picture: the model takes it for the target, or not; the drawn class is not there,
# or the target is; the picture is all of one colour; whoever was to draw it refused.
Outcome = Literal["fooled", "not fooled", "not there", "blank", "refused"]
# Neurons that speak, cues of theirs, and the similarity from which on a text is a synonym; where
# nobody says otherwise.
NEURONS, CUES, ALIKE = 100, 25, 0.6
# What writes descriptions.
WRITERS = {"grammar": "", "openai": "MODEL", "transformers": "PATH"}
# What draws pictures: the embedded world's renderer, a pipeline on this machine, a server.
DRAWERS = {"microworld": "", "diffusers": "PATH-OR-NAME", "openai": "MODEL"}


def parse_drawer(text: str) -> Chosen:
    """``microworld``, ``diffusers:PATH-OR-NAME`` or ``openai:MODEL``.

    Raises
    ------
    FacetError
        If it is none of them, a folder holds no pipeline, or its library is not installed.
    """
    chosen = parse_choice("draw_with", text, DRAWERS)
    if chosen.kind == "diffusers":
        folder = Path(chosen.model)
        if folder.exists() and not (folder / "model_index.json").is_file():
            raise FacetError(
                f"`draw_with` {text}: {folder} has no model_index.json; give a folder that holds a "
                "text-to-image pipeline of diffusers, or the name of one"
            )
        if part := _pickled(folder):
            raise FacetError(
                f"`draw_with` {text}: the weights of its {part} are a pickle, which may run "
                "anything as it is read: save the pipeline with safetensors"
            )
        if find_spec("diffusers") is None or find_spec("transformers") is None:
            raise FacetError(f"`draw_with` {text} needs pip install 'facet-interp[draw]'")
    return chosen


def _pickled(folder: Path) -> str:
    """The first part of a pipeline that has weights, but none as safetensors; empty: none has."""
    for part in sorted(path for path in folder.glob("*") if path.is_dir()):
        kinds = {file.suffix for file in part.iterdir()}
        if kinds & {".bin", ".ckpt", ".pt", ".pth"} and ".safetensors" not in kinds:
            return part.name
    return ""
