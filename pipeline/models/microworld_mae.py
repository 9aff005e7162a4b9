"""The embedded world's masked autoencoder: its encoder, a timm ViT without a class token.

Its representation is what its card's probes read, and what calling it gives: the mean of the patch
tokens, each normed for itself. What rebuilds pictures in training is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.microworld.world import SIDE

from .family import Sizes

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


def faults(config: dict[str, Any]) -> list[str]:
    """Empty: asked of the embedded world's own configuration alone."""
    return []


def sizes(config: dict[str, Any]) -> Sizes:
    """Sizes of the encoder."""
    width, heads, side = config["width"], config["heads"], SIDE // config["patch"]
    return Sizes(
        image_size=(SIDE, SIDE),
        grid=(side, side),
        prefix=0,
        layers=config["depth"],
        heads=heads,
        head_dim=width // heads,
        width=width,
        mlp_width=4 * width,
        embed_dim=width,
        activation="gelu",
        reading="mean-of-normed",
        varying_bias=True,
    )


def parameters(config: dict[str, Any]) -> int | None:
    """Of the encoder."""
    width, patches = config["width"], (SIDE // config["patch"]) ** 2
    block = 4 * width * (width + 1) + 8 * width * width + 5 * width + 4 * width
    return width * (3 * config["patch"] ** 2 + 1 + patches + 2) + config["depth"] * block


def build(config: dict[str, Any]) -> Any:
    """A `ImageAlone` of the encoder, random weights."""
    from pipeline.microworld.zoo import Encoder

    from .alone import ImageAlone

    return ImageAlone(Encoder(*(config[name] for name in ("patch", "width", "depth", "heads"))))


def prepare(module: Any) -> None:
    """Nothing is to be folded."""


def tower(model: VisionModel) -> Tower:
    """The encoder, block by block, as any of timm's ViTs."""
    from .timm_vit_tower import TimmVitTower

    return TimmVitTower(model)
