"""What families say of timm's models, by building every one of them without its weights.

    python -m pipeline.models.timm_table

writes ``timm_known.json``: after timm or open_clip is renewed, or a family takes more.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline.lean import open_clip, timm

from . import openclip_files, timm_names
from .timm_known import CLASSES, Known, key, trunk_name, write

# Of a tag's settings, what decides how pictures are prepared and how the model is built.
KEPT = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes")


def examined(config: dict[str, Any]) -> Known:
    """What the families say of a configuration's image tower, which is built for it.

    Raises
    ------
    Exception
        Whatever its library says of a configuration that it cannot build.
    """
    visual = _build(config)
    trunk = visual.trunk if "vision_cfg" in config else visual
    parameters = sum(p.numel() for p in visual.parameters())
    family, module = CLASSES.get(type(trunk).__name__, ("", ""))
    if not family or find_spec(f"{__package__}.{module}") is None:
        why = f"its image tower is timm's {trunk_name(config)}, of class {type(trunk).__name__}"
        return Known("", (why,), None, parameters)
    tower = import_module(f"{__package__}.{module}")
    faults = [*tower.examine(trunk), *_head_faults(visual)]
    if faults:
        return Known(family, tuple(faults), None, parameters)
    sizes = tower.measure(trunk)
    if (projection := _projection(visual)) is not None:
        sizes = replace(sizes, embed_dim=projection.out_features)
    return Known(family, (), sizes, parameters)


def _build(config: dict[str, Any]) -> Any:
    with torch.device("meta"), _NotDrawn():
        if "vision_cfg" in config:
            return open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
        from .timm_alone import build

        return build(config).visual


class _NotDrawn(TorchFunctionMode):
    """Random weights on the device ``meta`` are not even thought of: torch would bring in its
    compiler for what timm does with them."""

    drawn = frozenset(
        getattr(torch.Tensor, name)
        for name in ("normal_", "uniform_", "erfinv_", "clamp_", "mul_", "add_")
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self.drawn else func(*args, **(kwargs or {}))


def _projection(visual: Any) -> nn.Linear | None:
    """open_clip's own projection behind the trunk."""
    head = getattr(visual, "head", None) if hasattr(visual, "trunk") else None
    return getattr(head, "proj", None)


def _head_faults(visual: Any) -> list[str]:
    """What open_clip puts behind the trunk."""
    if not hasattr(visual, "trunk"):
        return []
    parts = dict(visual.head.named_children())
    if "mlp" in parts:
        return ["its projection is an MLP: what passes through that is no sum of parts"]
    if "pool" in parts:
        return ["it pools by an attention of open_clip's own (timm_pool)"]
    return []


def configurations() -> Iterable[dict[str, Any]]:
    """Every configuration that open_clip or a tag of timm's has of the table's models."""
    return _configurations(
        {
            name: [timm_names.settings(name, tag) for tag in model["tags"]]
            for name, model in timm_names.table()["models"].items()
        }
    )


def _configurations(settings: dict[str, list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    for name in openclip_files.list_models():
        config = openclip_files.get_model_config(name)
        if config["vision_cfg"].get("timm_model_name") in settings:
            yield config
    for name, all_settings in settings.items():
        for of in all_settings:
            yield timm_names.config(name, of)


def make() -> dict[str, Any]:
    """The table's content."""
    registry = import_module("timm.models._registry")
    presets: list[dict[str, Any]] = []
    models: dict[str, Any] = {}
    refused: dict[str, list[str]] = {}
    settings: dict[str, list[dict[str, Any]]] = {}
    for name in timm.list_models():
        file = registry._model_to_module[name]
        # An entry of a file can only build classes that the file knows by name.
        if CLASSES.keys().isdisjoint(vars(import_module(f"timm.models.{file}"))):
            refused.setdefault(file, []).append(name)
            continue
        with torch.device("meta"), _NotDrawn():
            model = timm.create_model(name)
        if type(model).__name__ not in CLASSES:
            refused.setdefault(file, []).append(name)
            continue
        tags = {}
        for full, given in registry.get_arch_pretrained_cfgs(name).items():
            of = {n: getattr(given, n) for n in KEPT}
            settings.setdefault(name, []).append(of)
            if of not in presets:
                presets.append(of)
            own = given.hf_hub_id == f"timm/{full}"
            hub = "timm/" if own else given.hf_hub_id
            url = given.url if isinstance(given.url, str) and not hub else None
            tags[full.partition(".")[2]] = [presets.index(of), hub, url]
        pool = getattr(model, "global_pool", None)
        models[name] = {"pool": pool if isinstance(pool, str) else None, "tags": tags}
    known = {}
    for config in _configurations(settings):
        word = key(config)
        if word not in known:
            known[word] = write(examined(config))
    return {
        "timm": timm.__version__,
        "open_clip": openclip_files.version(),
        "settings": presets,
        "models": models,
        "known": known,
        "refused": refused,
    }


def text(content: dict[str, Any]) -> str:
    """The table as JSON, a line a row, so that what changes shows."""
    parts = []
    for name, value in content.items():
        if isinstance(value, str):
            parts.append(f"{json.dumps(name)}:{json.dumps(value)}")
            continue
        rows = (
            (f"{json.dumps(n)}:{_compact(row)}" for n, row in value.items())
            if isinstance(value, dict)
            else map(_compact, value)
        )
        start, end = "{}" if isinstance(value, dict) else "[]"
        parts.append(f"{json.dumps(name)}:{start}\n" + ",\n".join(rows) + f"\n{end}")
    return "{" + ",\n".join(parts) + "}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def main() -> None:
    """Write the table."""
    logging.disable(logging.WARNING)
    made = text(make())
    timm_names.TABLE.write_text(made, encoding="utf-8")
    content = json.loads(made)
    good = sum(not faults for _, faults, _, _ in content["known"].values())
    print(
        f"{timm_names.TABLE}: {len(content['models'])} names, {len(content['known'])} "
        f"configurations, {good} of them taken",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
