"""A class of timm's as a family: in open_clip's models, or by itself.

What is told here of a configuration stands in a table; the module is known by a file beside this
one, which needs the libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .family import OtherTower, Sizes
from .timm_known import is_timm, known, trunk_name

if TYPE_CHECKING:
    from .loading import VisionModel
    from .tower import Tower


@dataclass(frozen=True)
class TimmFamily:
    """See `Family`."""

    name: str
    """Its row of `FAMILIES`."""
    module: str
    """Which has `prepare` and the tower."""
    kind: str
    """Of the tower: a class of the module."""

    def faults(self, config: dict[str, Any]) -> list[str]:
        """What keeps a model from being decomposed, in words; empty if nothing does."""
        if not is_timm(config):
            return [OtherTower("its image tower is none of timm's")]
        found = known(config)
        if found.family == self.name:
            return list(found.faults)
        return [OtherTower(f"its image tower is timm's {trunk_name(config)}, of another class")]

    def sizes(self, config: dict[str, Any]) -> Sizes:
        """Sizes of a model without faults."""
        found = known(config).sizes
        assert found is not None  # it has no faults
        return found

    def parameters(self, config: dict[str, Any]) -> int | None:
        """How many numbers both towers hold; None where a text tower is to be built for it."""
        return None if config.get("text_cfg") else known(config).parameters

    def build(self, config: dict[str, Any]) -> Any:
        """open_clip's model with a tower of timm's, or timm's alone; random weights."""
        from . import timm_trunk

        return timm_trunk.build(config)

    def prepare(self, module: Any) -> None:
        """Fold what can be folded exactly."""
        import_module(f".{self.module}", __package__).prepare(module)

    def tower(self, model: VisionModel) -> Tower:
        """The image tower of a loaded model."""
        made: Tower = getattr(import_module(f".{self.module}", __package__), self.kind)(model)
        return made
