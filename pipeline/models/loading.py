"""From a `ModelSpec` to an open_clip module whose image tower is ready to be decomposed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pipeline.lean import open_clip

from . import alone, hf_texts, hub
from .checkpoint import HubFile, hub_file_of, weights_in
from .errors import ModelError
from .families import FAMILIES
from .finite import refuse_weights
from .fitting import IMAGES, fitted, has_texts
from .spec import Architecture, ModelSpec, check_supported
from .tower import Tower
from .weights import read_state

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionModel(Architecture):
    """A loaded model: its architecture, and the open_clip module with both towers."""

    module: Any
    """An `open_clip.CLIP` or `open_clip.CustomTextCLIP` in evaluation mode. Its weights are
    float32 (float64 if `dtype` is), also where the image tower is run in bfloat16 or float16:
    the maps and the text tower are to be exact."""
    dtype: torch.dtype
    """In which the image tower's matrix products run."""
    device: torch.device
    weights_digest: str
    """sha256 over names, shapes and float32 values of both towers, as loaded. Of a text tower of
    Hugging Face's, whether or not it could be built: as the file has it."""
    without_texts: str = ""
    """Why texts cannot be embedded, in words; empty if they can, or if no model of that
    architecture can."""

    @property
    def visual(self) -> Any:
        """The image tower's module, whose parts only its family knows."""
        return self.module.visual

    @property
    def wide(self) -> dict[str, Any]:
        """Where and as wide as the residual stream: for what goes with it."""
        return {"dtype": next(self.visual.parameters()).dtype, "device": self.device}

    def tower(self) -> Tower:
        """The image tower, to be run block by block; copies its matrices to `dtype` as it runs."""
        return FAMILIES[self.family].tower(self)

    def refuse_other_images(self, images_bchw: torch.Tensor) -> None:
        """Refuse pixels of another shape than the model takes."""
        expected = (3, *self.preprocess.size)
        if images_bchw.ndim != 4 or tuple(images_bchw.shape[1:]) != expected:
            raise ValueError(
                f"images have shape {tuple(images_bchw.shape)}, but {self.name} takes "
                f"(batch, {', '.join(map(str, expected))}): prepare them with model.preprocess"
            )


def load_model(
    spec: ModelSpec,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionModel:
    """Build the model that `spec` means and load its weights.

    What its family folds exactly is folded: LayerScale into the projections before it, say.

    Raises
    ------
    ModelError
        As `check_supported`, and if weights cannot be read, do not fit the model or hold NaN.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype} is none of {', '.join(map(str, DTYPES))}")
    architecture = check_supported(spec)
    if architecture.checkpoint is None:
        module, lacking = _build(architecture, spec.seed), ""
        held = module.state_dict()
        if hf_texts.encoder_of(architecture.config):  # whether or not it could be built
            held = {name: value for name, value in held.items() if name.startswith(IMAGES)}
    else:
        module, held, lacking = _filled(architecture, spec)
    digest = digest_of(held)
    if not (lacking or has_texts(module.state_dict())):
        lacking = hf_texts.absent(architecture.config, architecture.name)
    refuse_weights(f"weights {spec.pretrained} of model {architecture.name}", module)
    module.to(device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    FAMILIES[architecture.family].prepare(module)
    known: dict[str, Any] = {f.name: getattr(architecture, f.name) for f in fields(architecture)}
    if lacking:
        known["has_texts"] = False
    return VisionModel(
        **known,
        module=module.eval().requires_grad_(False),
        dtype=dtype,
        device=torch.device(device),
        weights_digest=digest,
        without_texts=lacking,
    )


def _filled(
    architecture: Architecture, spec: ModelSpec
) -> tuple[Any, dict[str, torch.Tensor], str]:
    """The module with its weights, what tells these from others, and why it is without texts."""
    file = _fetch(architecture)
    held = read_state(file, averaged="architecture" in architecture.config)
    with _NotDrawn():  # the file has all
        module = _build(architecture, spec.seed)
    state = fitted(held, module, f"weights file {file} does not fit model {architecture.name}")
    lacking = ""
    if has_texts(module.state_dict()) and not has_texts(state):
        module = alone.ImageAlone(module.visual)
        lacking = f"its weights file {file} holds the image tower alone"
    try:
        module.load_state_dict({name: state[name] for name in module.state_dict()}, strict=True)
    except RuntimeError as error:  # names and shapes agree: sparse or quantised values
        raise ModelError(
            f"weights {spec.pretrained} of model {architecture.name} are not plain numbers: "
            f"{_brief(error)}"
        ) from error
    if not hf_texts.encoder_of(architecture.config):
        return module, module.state_dict(), lacking
    # Its encoder may not be on this machine, and the weights are the same.
    return module, {**state, **module.state_dict()}, lacking


def digest_of(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 over the sorted names, shapes and float32 values of a state dict, as hex."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def built_parameters(architecture: Architecture) -> int:
    """Parameters of both towers; hardly any memory is taken for them."""
    with _NotDrawn():
        return sum(p.numel() for p in _build(architecture, 0).parameters())


class _NotDrawn(TorchFunctionMode):
    """Within it random weights keep what their memory held, which is not even touched.

    On the device ``meta`` there would be no memory at all, but torch brings in its compiler to
    multiply there: three seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        if func in (torch.randn, torch.rand):
            func = torch.empty
        return func(*args, **(kwargs or {}))


def _build(architecture: Architecture, seed: int) -> Any:
    config = hf_texts.on_this_machine(architecture.config, architecture.name)
    build = FAMILIES[architecture.family].build if config else alone.build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # A foreign encoder's configuration may ask for fewer bits than its weights have.
            return build(config or architecture.config).float()
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ModelError(
                f"open_clip {open_clip.__version__} cannot build model {architecture.name} from "
                f"its configuration: {_brief(error)}"
            ) from error


def _fetch(architecture: Architecture) -> Path:
    """The file of the checkpoint, before anything is built."""
    place: Path | dict[str, Any] | HubFile | None = architecture.checkpoint
    what = f"the weights file of {architecture.name}"
    if isinstance(place, dict):
        place = hub_file_of(place) or _download(architecture.name, place)
    if isinstance(place, HubFile):
        return hub.fetch(place, what)
    path = Path(str(place))
    return weights_in(path) if path.is_dir() else path


def _download(name: str, tag: dict[str, Any]) -> Path:
    """The file of a tag that is at a URL; torch's own cache may have it already."""
    kept = Path(torch.hub.get_dir()) / "checkpoints" / Path(tag.get("url", "")).name
    if kept.is_file():
        return kept
    try:
        return Path(open_clip.pretrained.download_pretrained(tag))
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"cannot fetch the weights of {name}: {error}. Without network, give a weights file "
            "instead of a tag."
        ) from error


def _brief(error: Exception) -> str:
    return str(error)[:400]
