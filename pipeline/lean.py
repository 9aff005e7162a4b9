"""open_clip, timm and torchvision without what hardly anything here uses.

Importing open_clip takes 4.5 CPU seconds. 2.1 are torch's own; 1.9 are torch's compiler, timm (of
whose models one class of open_clip makes its towers), and torchvision's models and data sets, which
are left out here, in every worker, too. While open_clip is imported, stand-ins answer what is asked
of them; anything else asked of one brings in the real module. Afterwards they are out of the way:
``torch.compile``, and models of timm and torchvision, work as always. Whoever needs one of the
three libraries gets it from here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401 - stand-ins must not be there while torch itself is imported

if TYPE_CHECKING:
    import timm

COMPILER, TIMM_TOWER = "torch._dynamo", "open_clip.timm_model"


class _StandIn(ModuleType):
    """A module that has what it was given; for anything else it makes way for the real one."""

    def __init__(self, name: str, **contents: Any) -> None:
        super().__init__(name)
        self.__dict__.update(contents, __path__=[])

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked of every module there is, by `inspect`
            raise AttributeError(attribute)
        _remove()
        return getattr(importlib.import_module(self.__name__), attribute)


def _remove() -> None:
    # By its type alone: asked for its class, another library's lazy module imports further ones.
    for name in [n for n, module in sys.modules.items() if type(module) is _StandIn]:
        del sys.modules[name]


def _disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """What is not compiled needs no protection from it."""
    return (lambda f: f) if fn is None else fn


@contextmanager
def _without(*stand_ins: _StandIn) -> Iterator[None]:
    compiler = _StandIn(COMPILER, disable=_disable)
    utils = _StandIn(f"{COMPILER}.utils", is_compile_supported=lambda device_type: False)
    for module in (compiler, utils, *stand_ins):
        sys.modules.setdefault(module.__name__, module)
    try:
        yield
    finally:
        _remove()


def _timm_tower(*given: Any, **settings: Any) -> Any:
    """A tower of timm's, as open_clip has it."""
    with _without():
        tower = importlib.import_module(TIMM_TOWER).TimmModel
    return tower(*given, **settings)


with _without(
    _StandIn(TIMM_TOWER, TimmModel=_timm_tower),
    _StandIn("torchvision.models"),
    _StandIn("torchvision.datasets"),
):
    import open_clip
    import torchvision


def __getattr__(name: str) -> Any:
    if name != "timm":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _without():
        return importlib.import_module(name)


__all__ = ["open_clip", "timm", "torchvision"]
