"""Pools of candidate texts and sets of classes, by name or from files; needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.images.columns import is_text
from pipeline.images.lines import decode_text, lines
from pipeline.microworld.captions import GROUP, class_prompts, phrase
from pipeline.microworld.world import ATTRIBUTES

from .classes import Classes, PoolError, nearest

# Pairs of attributes that the microworld pool also names together.
_PAIRS = (
    ("colour", "shape"),
    ("texture", "shape"),
    ("size", "shape"),
    ("count", "shape"),
    ("texture", "colour"),
    ("colour", "background"),
    ("shape", "background"),
)


@dataclass(frozen=True)
class Pool:
    """Candidate texts, each once, and what was met on the way.

    Attributes
    ----------
    source : str
        Name or file that it came from.
    texts : tuple of str
        Trimmed, not empty, each once, in the order in which they came.
    blank, duplicates : int
        Entries left out because they were empty or had come before.
    """

    source: str
    texts: tuple[str, ...]
    blank: int
    duplicates: int

    @property
    def report(self) -> str:
        """One line that says what was read and what was left out."""
        return (
            f"pool {self.source}: {len(self.texts)} texts "
            f"({self.duplicates} duplicates and {self.blank} blank lines left out)"
        )


def load_pool(source: str | Path) -> Pool:
    """A pool by name, or from a file.

    Parameters
    ----------
    source : str or Path
        ``general``, ``microworld``, ``imagenet-classes``, ``common-words:N``, or a file: text
        (one description a line, see ``pipeline.images.lines``) or Parquet (column ``text``, or
        the only string column).
    """
    name = str(source)
    kind, _, count = name.partition(":")
    if kind == "common-words":
        return _clean(name, _common_words(name, count))
    if name in _NAMED:
        return _clean(name, _NAMED[name]())
    path = Path(source)
    if not path.is_file():
        near = nearest(name, [*_NAMED, "common-words:3500"])
        raise PoolError(
            f"no pool and no file is called {name!r}{near}: give a text or Parquet file, or one of "
            f"{', '.join(_NAMED)}, common-words:N"
        )
    return _clean(name, _file_texts(path))


def _clean(source: str, entries: Iterable[str | None]) -> Pool:
    trimmed = [" ".join((entry or "").split()) for entry in entries]
    filled = [text for text in trimmed if text]
    texts = tuple(dict.fromkeys(filled))
    if not texts:
        raise PoolError(f"pool {source} is empty: give it at least one text")
    return Pool(source, texts, len(trimmed) - len(filled), len(filled) - len(texts))


def _file_texts(path: Path) -> list[str | None]:
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise PoolError(f"{path} is not a Parquet file, or is cut: {error}") from error
        columns = [f.name for f in table.schema if is_text(f.type)]
        if "text" in columns:
            columns = ["text"]
        if len(columns) != 1:
            raise PoolError(
                f"{path} has string columns {columns}: give it one called 'text', or only one"
            )
        return table[columns[0]].to_pylist()
    text, undecodable = decode_text(path.read_bytes())
    if undecodable or "\0" in text:
        faulty = [i for i, line in enumerate(lines(text), 1) if {"\ufffd", "\0"} & set(line)]
        what = f"{undecodable:,} bytes" if undecodable else "NUL characters"
        raise PoolError(
            f"{path} is not UTF-8 text ({what}, the first in line {faulty[0]:,}): convert it, or "
            "give Parquet"
        )
    return list(lines(text))


def _common_words(name: str, count: str) -> list[str]:
    if not count.isdecimal() or int(count) < 1:
        raise PoolError(f"pool {name!r}: say how many words, for example common-words:3498")
    try:
        import wordfreq
    except ImportError as error:
        raise PoolError(
            f"pool {name!r} needs wordfreq: pip install 'facet-interp[words]'"
        ) from error
    words = wordfreq.top_n_list("en", int(count))
    if len(words) < int(count):
        raise PoolError(f"pool {name!r}: the word list ends after {len(words)} words; ask for less")
    return words


def _general() -> list[str]:
    return lines(decode_text((files(__package__) / "lists" / "general.txt").read_bytes())[0])


def _imagenet_texts() -> list[str]:
    from pipeline.lean import open_clip

    return [f"a photo of a {name}." for name in open_clip.IMAGENET_CLASSNAMES]


def _microworld() -> list[str]:
    single = [
        text for name in ATTRIBUTES for texts in class_prompts(name).values() for text in texts
    ]
    pairs = [
        phrase({"shape": "thing", "count": 1, a: value_a, b: value_b}, {a, b})
        for a, b in _PAIRS
        for value_a, value_b in itertools.product(ATTRIBUTES[a], ATTRIBUTES[b])
    ]
    return list(dict.fromkeys(single + pairs))


# Of WILDS' Waterbirds: see ``images.csvs``.
WATERBIRDS = ("landbird", "waterbird")

_NAMED: dict[str, Callable[[], list[str]]] = {
    "general": _general,
    "microworld": _microworld,
    "imagenet-classes": _imagenet_texts,
}


def load_classes(source: str | Path) -> Classes:
    """Classes by name, or from a text file.

    Parameters
    ----------
    source : str or Path
        ``imagenet`` (labels may be WordNet ids, unambiguous names or numbers 0 to 999),
        ``waterbirds`` (landbird and waterbird),
        ``microworld:<attribute>``, of some values alone ``microworld:<attribute>=<value>,<value>``,
        ``microworld:group`` (a shape on a background, such as ``star/snow``), or a text file with
        one class a line, optionally ``label<TAB>name`` where labels are not the names. ImageNet and
        files take OpenAI's 80 templates.
    """
    name = str(source)
    if name == "imagenet":
        return _imagenet_classes()
    if name == "waterbirds":
        birds = tuple((f"a photo of a {bird}.",) for bird in WATERBIRDS)
        return Classes(WATERBIRDS, birds, {bird: i for i, bird in enumerate(WATERBIRDS)})
    kind, _, rest = name.partition(":")
    if kind == "microworld":
        attribute, _, listed = rest.partition("=")
        known = [*ATTRIBUTES, GROUP]
        if attribute not in known:
            near = nearest(attribute, known)
            raise PoolError(
                f"the embedded world has no attribute {attribute!r}{near}: its attributes are "
                f"{', '.join(ATTRIBUTES)}; and {GROUP} is shape and background"
            )
        prompts = class_prompts(attribute)
        values = listed.split(",") if listed else list(prompts)
        if unknown := [value for value in values if value not in prompts]:
            raise PoolError(
                f"{attribute} of the embedded world is never {unknown[0]!r}"
                f"{nearest(unknown[0], prompts)}: it is {', '.join(prompts)}"
            )
        texts = tuple(tuple(prompts[value]) for value in values)
        return Classes(tuple(values), texts, {value: i for i, value in enumerate(values)})
    path = Path(source)
    if not path.is_file():
        known = ["imagenet", "waterbirds", *(f"microworld:{a}" for a in ATTRIBUTES)]
        raise PoolError(
            f"no classes and no file are called {name!r}{nearest(name, known)}: give a text file "
            f"with one class a line, or one of {', '.join(known)}"
        )
    return listed_classes(name, [line for line in _file_texts(path) if line])


def listed_classes(source: str, lines: Sequence[str]) -> Classes:
    """Classes from lines, one a line: a name, or ``label<TAB>name``; with OpenAI's 80 templates.

    Parameters
    ----------
    source : str
        What the lines are called in errors.
    lines : sequence of str
    """
    rows = [line.split("\t") for line in lines if line.strip()]
    labels = [row[0].strip() for row in rows]
    names = tuple(" ".join(row[-1].split()) for row in rows)
    whole = all(names) and all(labels) and all(len(row) <= 2 for row in rows)
    if not rows or len(set(labels)) < len(labels) or not whole:
        raise PoolError(
            f"{source} is empty, gives a label twice, a label without a name, or more than these: "
            "write one class a line, or label<TAB>name"
        )
    if len(rows) == 1:
        raise PoolError(f"{source} has one class: to classify, images need two at least")
    return Classes(names, _templated(names), {label: i for i, label in enumerate(labels)})


def _imagenet_classes() -> Classes:
    from pipeline.lean import open_clip, timm

    names = tuple(open_clip.IMAGENET_CLASSNAMES)
    # Two names stand for two classes each; as labels they would be ambiguous.
    index = {name: i for i, name in enumerate(names) if names.count(name) == 1}
    index |= {str(i): i for i in range(len(names))}
    index |= {wnid: i for i, wnid in enumerate(timm.data.ImageNetInfo("imagenet-1k").label_names())}
    return Classes(names, _templated(names), index)


def _templated(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(t(name) for t in _templates()) for name in names)


@cache
def _templates() -> Sequence[Callable[[str], str]]:
    """OpenAI's 80 templates, from the file that has them: open_clip itself brings torch."""
    package = find_spec("open_clip")
    assert package is not None  # it is installed with us
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = spec_from_file_location("_templates", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Sequence[Callable[[str], str]] = module.OPENAI_IMAGENET_TEMPLATES
    return found
