"""What open_clip says of its models, read from its files: importing it takes seconds.

Names, configurations, pretrained tags and the defaults of configurations are plain Python and JSON
in its folder. Of a file only what is asked for is run, and what that refers to; a test holds what
comes out against open_clip itself.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any


@cache
def definitions(file: str, *names: str) -> dict[str, Any]:
    """What some names of one of open_clip's files stand for, by name.

    Parameters
    ----------
    file : str
        Such as ``pretrained.py``.
    *names : str
        Of its own functions, classes and values, which need no library but Python's own.
    """
    path = _folder() / file
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defining: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _defines(statement):
            defining.setdefault(name, []).append(statement)
    needed, open_names = set(), list(names)
    while open_names:
        for statement in defining.pop(open_names.pop(), []):
            needed.add(statement)
            open_names += _mentions(statement)
    found: dict[str, Any] = {"__name__": __name__, "__file__": str(path)}
    for statement in tree.body:
        if statement not in needed:
            continue
        if isinstance(statement, ast.ImportFrom) and statement.level:
            if statement.module in ("constants", "version"):  # the others import torch
                ours = (alias.name for alias in statement.names)
                found |= definitions(f"{statement.module}.py", *ours)
        else:
            exec(compile(ast.Module([statement], []), str(path), "exec"), found)
    return {name: found[name] for name in names}


def _defines(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement of a file gives a meaning."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        case ast.For() | ast.Expr():  # tables are filled by these
            yield from _mentions(statement)
        case ast.ImportFrom(level=level, module=module, names=names):
            if level or str(module).partition(".")[0] in sys.stdlib_module_names:
                yield from (alias.asname or alias.name for alias in names)
        case ast.Import(names=names):
            if all(a.name.partition(".")[0] in sys.stdlib_module_names for a in names):
                yield from (a.asname or a.name for a in names)


def _mentions(statement: ast.stmt) -> list[str]:
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _folder() -> Path:
    found = importlib.util.find_spec("open_clip")  # finds it, and imports nothing
    assert found is not None, "open_clip_torch is a dependency"
    return Path(str(found.origin)).parent


def version() -> str:
    """open_clip's version."""
    return str(definitions("version.py", "__version__")["__version__"])


@cache
def _configs() -> dict[str, dict[str, Any]]:
    found = definitions("factory.py", "_MODEL_CONFIGS", "_rescan_model_configs")
    configs: dict[str, dict[str, Any]] = found["_MODEL_CONFIGS"]
    return configs


def list_models() -> list[str]:
    """Names of models, as ``open_clip.list_models`` gives them."""
    return list(_configs())


def get_model_config(name: str) -> dict[str, Any]:
    """A model's configuration, to be changed at will."""
    return deepcopy(_configs()[name])


def get_pretrained_cfg(name: str, tag: str) -> dict[str, Any]:
    """Where a tag's weights are and how its pictures are prepared; empty where it is none."""
    found: dict[str, Any] = _pretrained("get_pretrained_cfg")(name, tag)
    return found


def list_pretrained_tags_by_model(name: str) -> list[str]:
    """Tags of a model's weights."""
    tags: list[str] = _pretrained("list_pretrained_tags_by_model")(name)
    return tags


def _pretrained(name: str) -> Any:
    names = ("get_pretrained_cfg", "list_pretrained_tags_by_model")
    return definitions("pretrained.py", *names)[name]


def vision_config(**settings: Any) -> Any:
    """An image tower's configuration, with open_clip's defaults."""
    return definitions("model.py", "CLIPVisionCfg")["CLIPVisionCfg"](**settings)


def text_config(**settings: Any) -> Any:
    """A text tower's configuration, with open_clip's defaults."""
    return definitions("model.py", "CLIPTextCfg")["CLIPTextCfg"](**settings)


def merge_preprocessing(overlay: dict[str, Any]) -> dict[str, Any]:
    """open_clip's defaults of preparing pictures, overlaid by settings of a tag or a file."""
    of = definitions("transform.py", "PreprocessCfg", "merge_preprocess_dict")
    merged: dict[str, Any] = of["merge_preprocess_dict"](of["PreprocessCfg"](), overlay)
    return merged
