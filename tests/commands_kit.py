"""Finds the commands that pages, docstrings and messages hold, and parses them as they stand.

A command is whole: all that its job needs is given. Where it holds …, the reader knows the rest:
then settings may be lacking, but those that are given must be the job's own. The name of a job
alone, such as `facet extract`, is a mention.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

import pytest
import tyro

from jobs import cli
from jobs.settings import flag

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [p for top in ("jobs", "pipeline", "storage", "benchmarks")
           for p in sorted((ROOT / top).rglob("*.py"))]  # fmt: skip
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md",
         ROOT / "storage/SCHEMA.md"]  # fmt: skip
OTHERS = [ROOT / "cluster.yaml", *sorted((ROOT / "docs").glob("*.yaml")), ROOT / "Makefile"]

_START = re.compile(r"(?:^|[\s/(])(?:facet [a-z]|python3? \S*(?:jobs|benchmarks|pipeline)[./]"
                    r"|python3? -m \w|ray submit )")  # fmt: skip
# A simple command of a line: up to where the shell pipes, redirects or chains.
_SIMPLE = re.compile(r"""((?:'[^']*'|"[^"]*"|[^'"])+?)(?:\s(?:\d?>>?|\|\|?|&&|;)\s?|$)""")
_FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"``([^`]+)``|`([^`]+)`")
# A job with settings that stands in running text, where nobody can tell where it ends.
_STRAY = re.compile(r"facet [a-z-]+ --\w")
ELIDED = "…"
# What stands for a value that only a run knows: a number and a text at once.
UNKNOWN = "90817"


@dataclasses.dataclass(frozen=True)
class Command:
    """What a page tells the reader to type.

    Attributes
    ----------
    kind : {"job", "module"}
    name : str
        As in ``facet NAME``; or the module's.
    words : tuple of str
        What follows.
    """

    kind: str
    name: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join([f"{'facet' if self.kind == 'job' else 'python -m'} {self.name}"[:40],
                           *self.words])  # fmt: skip


# -- finding -------------------------------------------------------------------------------


def of_lines(text: str) -> Iterator[Command]:
    """Commands of a script, a docstring's example or a configuration, one a line."""
    for line in re.sub(r"\\+\n\s*", " ", text).splitlines():
        if _START.search(line):
            for part in _SIMPLE.finditer(line.strip().lstrip("#-> ")):
                yield from _of_words(shlex.split(part[1], comments=True))


def _of_words(words: Sequence[str]) -> Iterator[Command]:
    for at, word in enumerate(words):
        rest = list(words[at + 1 :])
        if rest and (word == "facet" or word.endswith("/facet")):
            yield Command("job", rest[0], tuple(rest[1:]))
            return
        if script := re.fullmatch(r"(?:\S*/)?jobs/(\w+)\.py", word):
            rest = rest[1:] if rest[:1] == ["--"] else rest
            yield Command("job", script[1].replace("_", "-"), tuple(rest))
            return
        if word == "-m" and re.match(r"(jobs|benchmarks|pipeline)\.", rest[0]):
            yield Command("module", rest[0], tuple(rest[1:]))
            return
        assert not re.fullmatch(r"benchmarks/\w+\.py", word) or at == 0, f"{word}: run it by -m"


def of_spans(text: str) -> Iterator[Command]:
    """Commands between backticks."""
    for match in _SPAN.finditer(text):
        code = " ".join((match[1] or match[2]).split())
        if _START.search(code):
            yield from of_lines(code)


def of_page(text: str) -> Iterator[Command]:
    """Commands of a Markdown page."""
    for block in _FENCE.findall(text):
        yield from of_lines(block)
    yield from of_spans(_FENCE.sub("", text))


def of_source(text: str) -> Iterator[Command]:
    """Commands of a module's docstrings and messages."""
    calls: list[str] = []
    texts: list[str] = []
    for function in _scopes(ast.parse(text)):
        made: dict[str, str] = {}
        for node in _own(function):
            if _is_command(node):
                calls.append(_called(node))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "Remedy.first",
                "Remedy.anew",
            ):
                calls.append(_remedy(node))
            if isinstance(node, ast.Assign) and (line := _rendered(node.value, {})):
                made |= {t.id: line for t in node.targets if isinstance(t, ast.Name)}
        texts += _texts(function, made)
    for said in texts:
        yield from of_spans(said)
        left = _SPAN.sub("", said)
        examples = [line for line in re.sub(r"\\+\n\s*", " ", left).splitlines()
                    if _START.match(line.lstrip())]  # fmt: skip
        for line in examples:
            yield from of_lines(line)
        stray = [s for s in _STRAY.findall(left) if not any(s in line for line in examples)]
        assert not stray, f"put `…` around {stray[0]} in {said!r}"
    for line in calls:
        elided = any(f"{line} {ELIDED}" in said for said in texts)
        yield from of_lines(f"{line} {ELIDED}" if elided else line)


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    yield tree
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """All within, but not within a function inside."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, ast.FunctionDef):
            yield node
            yield from _own(node)


def _texts(scope: ast.AST, made: dict[str, str]) -> Iterator[str]:
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(_piece(value, made) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        else:
            yield from _texts(node, made)


def _piece(value: ast.expr, made: dict[str, str]) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    assert isinstance(value, ast.FormattedValue)
    return _rendered(value.value, made) or UNKNOWN


def _rendered(node: ast.expr, made: dict[str, str]) -> str:
    """The command that an expression stands for; empty if it is none."""
    if _is_command(node):
        return _called(node)
    return made.get(node.id, "") if isinstance(node, ast.Name) else ""


def _is_command(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether it is a call of ``jobs.settings.command`` whose settings stand there."""
    return (
        isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "command"
        and all(k.arg for k in node.keywords)
    )


def _called(node: ast.Call) -> str:
    """A call of ``jobs.settings.command`` as what it makes."""
    return " ".join(["facet", *map(_value, node.args), *_settings(node)])


def _remedy(node: ast.Call) -> str:
    """A ``storage.errors.Remedy`` as the command that a job makes of it."""
    name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "second_order"
    place = "--out" if name == "rosetta" else "--store"
    job = str(name).replace("_", "-")
    return " ".join(["facet", job, place, UNKNOWN, *_settings(node), ELIDED])


def _value(given: ast.expr) -> str:
    if isinstance(given, ast.Constant):
        return str(given.value)
    return ELIDED if getattr(given, "id", "") == "ELIDED" else UNKNOWN


def _settings(node: ast.Call) -> list[str]:
    return [f"{flag(k.arg)} {_value(k.value)}" for k in node.keywords if k.arg]


# -- parsing -------------------------------------------------------------------------------


class Parsed(Exception):
    """Raised where a module's own work would begin."""


def parse(command: Command) -> Any:
    """What a command asks of its job; None if it is a mention, or asks for help.

    Fails with what the job itself would print.
    """
    if command.kind == "module":
        return _parse_module(command)
    name = command.name
    assert name in cli.JOBS or find_spec(f"jobs.{name}"), f"there is no job {name!r}"
    if not command.words:
        return None
    config = cli.config_of(name)
    try:
        return tyro.cli(config, prog=f"facet {name}", args=completed(command.words, config))
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"`{command}` cannot be parsed")
        return None


def understood(line: str) -> Any:
    """The configuration that a shell and the job make of a line."""
    facet, name, *words = shlex.split(line)
    assert facet == "facet"
    config = cli.config_of(name)
    return tyro.cli(config, args=completed(words, config))


def next_config(said: str) -> Any:
    """What a job's last lines tell the user to run next."""
    (line,) = re.findall(r"^next: (facet .+)$", said, re.MULTILINE)
    return understood(line)


def completed(words: Sequence[str], config: type[Any]) -> list[str]:
    """Words without …, and with all that the job cannot do without."""
    if ELIDED not in words:
        return list(words)
    kept = [
        UNKNOWN if word == ELIDED else word
        for at, word in enumerate(words)
        if word != ELIDED or (at and words[at - 1].startswith("--"))
    ]
    given = {word.partition("=")[0] for word in kept}
    for field in dataclasses.fields(config):
        option = flag(field.name)
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and option not in given and "Positional" not in str(field.type):
            kept += [option, UNKNOWN]
    return kept


def _parse_module(command: Command) -> None:
    spec = find_spec(command.name)
    assert spec is not None, f"there is no module {command.name}"
    if "tyro" not in Path(str(spec.origin)).read_text():
        assert not command.words, f"{command.name} takes no settings"
        return
    if command.name.startswith("jobs."):
        parse(Command("job", command.name.removeprefix("jobs.").replace("_", "-"), command.words))
        return
    words = list(command.words)
    for at, word in enumerate(words):
        if word == ELIDED:
            words[at] = UNKNOWN if words[at - 1].startswith("--") else ""
    real, real_of_dict = tyro.cli, tyro.extras.subcommand_cli_from_dict

    def parsed(*args: Any, **settings: Any) -> None:
        real(*args, **settings)
        raise Parsed

    def idle(function: Any) -> Any:
        @functools.wraps(function)
        def nothing(*args: Any, **settings: Any) -> None:
            raise Parsed

        return nothing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command.name, *filter(None, words)])
        patch.setattr("pipeline.cluster.machines.connect", lambda *_: None)
        patch.setattr(tyro, "cli", parsed)
        patch.setattr(
            tyro.extras,
            "subcommand_cli_from_dict",
            lambda of: real_of_dict({name: idle(function) for name, function in of.items()}),
        )
        # What tyro.extras itself calls.
        patch.setattr("tyro._cli.cli", real)
        try:
            runpy.run_module(command.name, run_name="__main__", alter_sys=True)
        except Parsed:
            return
        except SystemExit:
            pytest.fail(f"`{command}` cannot be parsed")
    pytest.fail(f"{command.name} parses nothing")
