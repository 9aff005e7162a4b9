"""open_clip, timm and torchvision without torch's compiler, which nothing here uses.

It is over a third of the time and a seventh of the memory that importing an extractor takes (12 s
and 545 MB with it, 7.6 s and 468 MB without), in every actor. While they are imported, a stand-in
answers what they ask of ``torch._dynamo``; anything else asked of it brings in the real one.
Afterwards the stand-in is gone and ``torch.compile`` works as always.
Whoever needs one of the three gets it from here.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch  # noqa: F401 - the stand-in must not be there while torch itself is imported

NAME = "torch._dynamo"


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
    for name in [n for n, module in sys.modules.items() if isinstance(module, _StandIn)]:
        del sys.modules[name]


def _disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """What is not compiled needs no protection from it."""
    return (lambda f: f) if fn is None else fn


if NAME not in sys.modules:
    sys.modules[NAME] = _StandIn(NAME, disable=_disable)
    sys.modules[f"{NAME}.utils"] = _StandIn(
        f"{NAME}.utils", is_compile_supported=lambda device_type: False
    )
try:
    import open_clip
    import timm
    import torchvision
finally:
    _remove()

__all__ = ["open_clip", "timm", "torchvision"]
