"""What draws pictures: a pipeline of diffusers on this machine, or a server's images endpoint."""

from __future__ import annotations

import base64
import inspect
from pathlib import Path
from typing import Any

import torch

from pipeline.images.decode import decode
from pipeline.images.errors import BadImage
from pipeline.language.servers import RefusedError, Server
from storage.errors import FacetError

from .drawing import Picture

# What a server is asked for beside the description; the protocol knows no seed.
SETTINGS: dict[str, Any] = {"n": 1, "response_format": "b64_json"}
# Models that always answer so, and refuse to be told.
ALWAYS = "gpt-image"
# The status of a request that a server will not do as it stands, such as a forbidden picture.
WILL_NOT = 400


class ServerDrawer:
    """Draws through a server of the OpenAI protocol.

    Parameters
    ----------
    url : str
        Above ``/images/generations``.
    model : str
    """

    def __init__(self, url: str, model: str) -> None:
        known = {n: v for n, v in SETTINGS.items() if n == "n" or not model.startswith(ALWAYS)}
        self._server = Server(url, model, known)

    def __call__(self, text: str, seed: int) -> Picture:
        """A picture, or why the server will not draw it; another one each time, whatever the seed.

        Raises
        ------
        FacetError
            If the server cannot be reached, refuses for other reasons, or answers otherwise.
        """
        try:
            answer = self._server.post("images/generations", {"prompt": text})
        except RefusedError as error:
            if error.status != WILL_NOT:
                raise
            return Picture(None, error.said)
        try:
            data = base64.b64decode(answer["data"][0]["b64_json"], validate=True)
            return Picture(decode(data))
        except (LookupError, TypeError, ValueError, BadImage) as error:
            raise self._server.strange(answer) from error


class PipelineDrawer:
    """Draws with a text-to-image pipeline, in float32, a picture at a time.

    Steps, size and guidance are the pipeline's own. The same seed draws the same picture: its noise
    is drawn on the CPU, whatever the device.

    Parameters
    ----------
    model : str
        A folder that ``save_pretrained`` wrote, or a pipeline's name.
    device : str

    Raises
    ------
    FacetError
        If there is no such pipeline, or it takes no description.
    """

    def __init__(self, model: str, device: str) -> None:
        import diffusers
        import transformers

        for library in (diffusers, transformers):  # our own bar counts pictures
            library.utils.logging.disable_progress_bar()
        self._name = f"diffusers:{model}"
        try:
            # Weights of other kinds are pickles, which may run what they like as they are read.
            self._pipe: Any = diffusers.DiffusionPipeline.from_pretrained(
                model,
                local_files_only=Path(model).is_dir(),
                trust_remote_code=False,
                use_safetensors=True,
            )
        except Exception as error:  # of any library that it loads parts by
            raise FacetError(f"{self._name} is no pipeline: {_first_line(error)}") from error
        self._pipe.to(device)
        if "prompt" not in inspect.signature(self._pipe.__call__).parameters:
            raise FacetError(
                f"{self._name} takes no description ({type(self._pipe).__name__}): give a "
                "text-to-image pipeline"
            )
        self._pipe.set_progress_bar_config(disable=True)

    def __call__(self, text: str, seed: int) -> Picture:
        """A picture; a safety checker's black ones say so."""
        noise = torch.Generator().manual_seed(seed)
        try:
            with torch.inference_mode():
                made = self._pipe(prompt=text, generator=noise)
        except (TypeError, ValueError) as error:
            raise FacetError(
                f"{self._name} does not draw from a description alone: {_first_line(error)}"
            ) from error
        flagged = getattr(made, "nsfw_content_detected", None)
        why = "its safety checker found fault with it" if flagged and flagged[0] else ""
        return Picture(made.images[0], why)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
