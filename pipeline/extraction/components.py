"""Which parts a model can be taken into; light, as it is asked before a model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from storage.errors import FacetError


class Sized(Protocol):
    """What is asked of an architecture, or of a loaded model."""

    @property
    def heads(self) -> int: ...

    @property
    def prefix(self) -> int: ...

    @property
    def reading(self) -> str: ...

    @property
    def refined(self) -> tuple[str, ...]: ...


def component_faults(model: Sized, components: Collection[str]) -> list[str]:
    """Components that a model does not have, and why; empty if it has them all."""
    return list(_faults(model, components))


def refuse_absent(name: str, model: Sized, components: Collection[str]) -> None:
    """Refuse components that a model does not have.

    Raises
    ------
    FacetError
        With the reason for each.
    """
    if lacking := component_faults(model, components):
        raise FacetError(f"model {name}: {'; '.join(lacking)}")


def _faults(model: Sized, components: Collection[str]) -> Iterator[str]:
    of_heads = [name for name in ("heads", "tokens") if name in components]
    if of_heads and not model.heads:
        yield (
            f"it has no attention, so that there are no {' and no '.join(of_heads)}: give "
            "`components` mlps, which its blocks are kept as"
        )
    if "sources" in components:
        if model.reading != "class-token":
            yield (
                f"`components` sources tells what is written to the class token apart by where it "
                f"is from, and this model is read by {model.reading}"
            )
        elif model.prefix < 2:
            yield "it has no registers, which `components` sources tells from patches"
    if "pool_neurons" in components and "pool_neurons" not in model.refined:
        yield "it has no attention pool with an MLP, whose `components` pool_neurons are"
    if "channels" in components and "channels" not in model.refined:
        yield (
            "it is no convolutional network with an attention pool, whose `components` channels are"
        )
