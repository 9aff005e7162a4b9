"""The embedded world's CNN: a timm ResNet of basic blocks that tells classes of five attributes.

Its last stage is one block: relu(shortcut + branch), then the mean over positions and a classifier.
Which positions of which channel pass the ReLU is known once the block has run; given that, both
what comes by the shortcut and what the branch writes go linearly into the classes. There are no
heads; block 0 is the shortcut, block 1 the branch. A neuron is a channel that the branch writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.microworld.world import ATTRIBUTES, CLASSIFIED, SIDE

from .family import Sizes

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower

# The stem and the three last stages halve the side, each.
HALVED = 4


def faults(config: dict[str, Any]) -> list[str]:
    """Asked of the embedded world's own configuration alone. Of several blocks in the last stage,
    what one writes passes more than one ReLU."""
    blocks = config["layers"][-1]
    return [] if blocks == 1 else [f"its last stage has {blocks} blocks, not one"]


def sizes(config: dict[str, Any]) -> Sizes:
    """Sizes of its last stage."""
    channels, side = config["channels"][-1], SIDE >> HALVED
    return Sizes(
        image_size=(SIDE, SIDE),
        grid=(side, side),
        prefix=0,
        layers=1,
        heads=0,
        head_dim=0,
        width=channels,
        mlp_width=channels,
        embed_dim=sum(len(ATTRIBUTES[name]) for name in CLASSIFIED),
        activation="relu",
        reading="pixels",
    )


def parameters(config: dict[str, Any]) -> int | None:
    """None: only the built module tells."""
    return None


def build(config: dict[str, Any]) -> Any:
    """A `ImageAlone` of the zoo's CNN, random weights."""
    from . import microworld_cnn_tower

    return microworld_cnn_tower.build(config)


def prepare(module: Any) -> None:
    """Nothing is to be folded."""


def tower(model: VisionModel) -> Tower:
    """Its last stage."""
    from .microworld_cnn_tower import CnnTower

    return CnnTower(model)
