"""Every family once, with random weights: ``python -m benchmarks.families``.

For a real-sized name of each, on one core: how its tail reads, the largest residual in float32, the
largest error of the sum of all contributions in float64 (every bias, norm and scale drawn anew),
how fast the decomposition runs beside the model's own forward pass, and what an image takes. The
two are timed in turn on the same images; what counts is the median over rounds of the ratio within
the round, so that a busy machine slows both; seconds are the processor's. The bar: ratio ≥ 0.9.
"""

from __future__ import annotations

import gc
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from torch import nn

from benchmarks.clock import seconds
from pipeline.extraction.decompose import Decomposer
from pipeline.extraction.spec import StoreSpec
from pipeline.models import (
    Architecture,
    ModelError,
    ModelSpec,
    VisionModel,
    check_supported,
    load_model,
)
from storage.layout import bytes_per_image

TABLE = Path(__file__).with_suffix(".json")
NAMES = (
    "ViT-B-32", "ViT-L-14-CLIPA", "coca_ViT-B-32", "RN50", "convnext_base", "MobileCLIP-B",
    "ViTamin-S", "ViT-B-16-SigLIP", "EVA01-g-14", "EVA02-B-16", "timm:vit_base_patch16_224",
    "timm:deit3_small_patch16_224", "timm:vit_small_patch16_224",
    "timm:vit_small_patch14_dinov2", "timm:vit_small_patch14_reg4_dinov2",
    "timm:vit_base_patch16_siglip_gap_224", "timm:vit_base_patch16_rpn_224",
    "timm:aimv2_large_patch14_224", "timm:eva02_tiny_patch14_224",
    "timm:vit_small_patch16_dinov3", "timm:vit_pe_core_tiny_patch16_384",
    "timm:beit_base_patch16_224", "microworld:mae", "microworld:cnn",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """A table of families."""

    models: tuple[str, ...] = NAMES
    """Names, as ``--model`` takes them; those that are not supported are left out, and told."""
    batch: int = 2
    """Images a batch."""
    repeats: int = 5
    """Rounds; each way runs one batch a round."""
    wide: bool = True
    """Whether the sum is taken in float64, too."""
    out: Path = TABLE
    """Where the table is kept as JSON; names that it has from before stay, unless measured anew."""


@dataclass(frozen=True)
class Row:
    """What was measured of one name.

    Attributes
    ----------
    name, family, reading : str
    residual : float
        The largest over the batch, in float32.
    error : float or None
        The same in float64; None where it was not taken.
    ratio : float
        Images a second of the decomposition over those of the model's own forward pass.
    milliseconds : float
        Of the forward pass, an image, one core.
    bytes : int
        Of an image in a store, before compression.
    """

    name: str
    family: str
    reading: str
    residual: float
    error: float | None
    ratio: float
    milliseconds: float
    bytes: int


def measured(name: str, settings: Settings) -> Row:
    """One row."""
    spec = ModelSpec(name, "none")
    model = load_model(spec)
    drawn(model)
    images = torch.randn(
        settings.batch, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(0)
    )
    residual, rounds = timed(model, images, settings.repeats)
    family, reading, error = model.family, model.reading, None
    if settings.wide:
        del model  # before there are two
        model = load_model(spec, dtype=torch.float64)
        drawn(model)
        error = distance(model, Decomposer(model, kept(model)), images.double())
    return Row(
        name, family, reading, residual, error, median(own / taken for own, taken in rounds),
        1000 * median(own for own, _ in rounds) / settings.batch, image_bytes(spec),
    )  # fmt: skip


def timed(
    model: VisionModel, images: torch.Tensor, repeats: int
) -> tuple[float, list[tuple[float, float]]]:
    """The largest residual; seconds of the forward pass and of the decomposition, by round."""
    parts, plain = Decomposer(model, kept(model)), torch.inference_mode()(model.module.encode_image)
    residual = distance(model, parts, images)  # both are warm
    rounds = [
        (seconds(lambda: plain(images)), seconds(lambda: parts(images))) for _ in range(repeats)
    ]
    return residual, rounds


@torch.inference_mode()
def distance(model: VisionModel, parts: Decomposer, images: torch.Tensor) -> float:
    """How far the sum of all contributions is from what the model itself gives, at most: from the
    embedding that was met on the way, and that from the library's own."""
    own_be, found = model.module.encode_image(images), parts(images)
    apart_b = (found.embedding_be - own_be).norm(dim=1) / own_be.norm(dim=1)
    return float((found.residual_b + apart_b).max())


def kept(model: Architecture) -> tuple[str, ...]:
    """The usual components of a store."""
    return ("heads", "mlps") if model.heads else ("mlps",)


@torch.no_grad()
def drawn(model: VisionModel) -> None:
    """Give every vector of the image tower values that are at work: biases start at zero, scales at
    one, and what BatchNorm keeps at none."""
    generator = torch.Generator().manual_seed(1)
    for module in model.visual.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                about = 1.0 if name == "weight" or name.startswith("gamma") else 0.0
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.copy_(about + 0.2 * noise)
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            noise = torch.randn(module.running_mean.shape, generator=generator)
            module.running_mean.copy_(0.2 * noise)


def image_bytes(spec: ModelSpec) -> int:
    """Of an image in a store of usual settings, before compression."""
    found = check_supported(spec)
    asked = StoreSpec(
        images="", model=spec, components=kept(found), layers="last:4", precision="fp32",
        store_dtype="float16", shard_size=1024,
    )  # fmt: skip
    return bytes_per_image(asked.metadata(found, images=1024))


def cells(row: Row) -> list[str]:
    """A row of the table in words."""
    error = "" if row.error is None else f"{row.error:.0e}"
    return [
        row.name, row.family, row.reading, f"{row.residual:.1e}", error, f"{row.ratio:.2f}",
        f"{row.milliseconds:.0f}", f"{row.bytes / 1000:.1f}",
    ]  # fmt: skip


def main(settings: Settings) -> None:
    """Print a Markdown table, a row a name, and keep it."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(
        f"cpu, float32, 1 thread, batch {settings.batch}, medians of {settings.repeats}; load "
        f"{load:.1f} on {os.cpu_count()} cores\n"
    )
    columns = ("model", "family", "reads", "residual", "float64", "ratio", "ms", "kB an image")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    held = json.loads(settings.out.read_text()) if settings.out.exists() else {}
    left_out = {}
    for name in settings.models:
        try:
            row = measured(name, settings)
        except ModelError as error:
            left_out[name] = str(error).partition(". ")[0]
            continue
        held[name] = asdict(row)
        print(f"| {' | '.join(cells(row))} |", flush=True)
        settings.out.write_text(json.dumps(held, indent=1) + "\n")
        gc.collect()
    for name, why in left_out.items():
        print(f"\n{name}: {why}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
