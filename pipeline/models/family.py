"""What a family of models offers, as far as a configuration tells; light, as it is asked first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a configuration says of its image tower."""

    image_size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    prefix: int
    """Tokens before the patches: the class token, which is the first, and registers; 0 where there
    are none."""
    layers: int
    heads: int
    """Of a layer; 0 where there is no attention."""
    head_dim: int
    width: int
    """Of the residual stream."""
    mlp_width: int
    """Neurons of a layer."""
    embed_dim: int
    activation: str
    """Of the image tower, for example ``gelu`` or ``quickgelu``."""
    reading: str = "class-token"
    """What the tail reads: one of `storage.metadata.READINGS`."""
    varying_bias: bool = False
    """Whether what the attention's biases write is another multiple for every image and layer."""
    trunk_layers: int = 0
    """Blocks before an attention pool; 0 where there are none."""
    trunk_mlp_width: int = 0
    """Neurons of each of them."""
    refined: tuple[str, ...] = ()
    """Further components that only an attention pool has: `pool_neurons` where it has an MLP,
    `channels` where a convolutional network comes before it (`Attention.channels_btc`)."""


class OtherTower(str):
    """A fault of a model that is built in another way, so that another family has to say more."""


class Family(Protocol):
    """A way of building models: a module of this folder, and a row of `FAMILIES`."""

    def faults(self, config: dict[str, Any]) -> list[str]:
        """What keeps this family from taking a model configuration, in words; else empty. An
        `OtherTower` of a model that is none of this family's."""

    def sizes(self, config: dict[str, Any]) -> Sizes:
        """Sizes of a model without faults."""

    def parameters(self, config: dict[str, Any]) -> int | None:
        """How many numbers both towers hold; None where only the built module tells."""

    def build(self, config: dict[str, Any]) -> Any:
        """The module with random weights; its image tower is `module.visual`. Without a text tower
        where the configuration has none."""

    def prepare(self, module: Any) -> None:
        """Make a module with its final weights ready: fold what can be folded exactly."""

    def tower(self, model: VisionModel) -> Tower:
        """The image tower of a loaded model; cheap, nothing is copied yet."""
