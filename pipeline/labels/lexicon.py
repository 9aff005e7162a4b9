"""Lists of properties with texts of each: what a part of a model can be about."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pipeline.images.lines import decode_text, lines
from pipeline.microworld.captions import class_prompts
from pipeline.microworld.world import ATTRIBUTES
from pipeline.texts.classes import PoolError, nearest, texts_digest

PHOTOGRAPHS, MICROWORLD = "photographs", "microworld"


@dataclass(frozen=True)
class Lexicon:
    """Properties, and the texts that stand for each.

    Attributes
    ----------
    source : str
        Name or file that it came from.
    properties : dict of str to tuple of str
    """

    source: str
    properties: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """The properties, in the list's order."""
        return tuple(self.properties)

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts, property by property."""
        return tuple(text for texts in self.properties.values() for text in texts)

    @property
    def digest(self) -> str:
        """By which it is known."""
        rows = [f"[{name}]\n" + "\n".join(texts) for name, texts in self.properties.items()]
        return texts_digest(rows)


def load_lexicon(source: str | Path) -> Lexicon:
    """A list of properties by name, or from a file.

    Parameters
    ----------
    source : str or Path
        ``photographs``, ``microworld`` (the attributes of the embedded world, in its own words), or
        a text file: a property's name in brackets on a line of its own, and under it its texts, one
        a line; lines that begin with # say nothing.

    Raises
    ------
    PoolError
        If there is no such list, or a line of it cannot be meant.
    """
    name = str(source)
    if name == MICROWORLD:
        prompts = {a: class_prompts(a).values() for a in ATTRIBUTES}
        return Lexicon(name, {a: tuple(t for p in of for t in p) for a, of in prompts.items()})
    if name == PHOTOGRAPHS:
        return _parse(name, (files(__package__) / "photographs.txt").read_bytes())
    path = Path(source)
    if not path.is_file():
        raise PoolError(
            f"no lexicon and no file is called {name!r}{nearest(name, [PHOTOGRAPHS, MICROWORLD])}: "
            f"give a text file, or one of {PHOTOGRAPHS}, {MICROWORLD}"
        )
    return _parse(name, path.read_bytes())


def _parse(source: str, data: bytes) -> Lexicon:
    found = sections(f"the lexicon {source}", data)
    if len(found) < 2:
        raise PoolError(
            f"the lexicon {source} has {len(found)} properties: there is nothing to choose from; "
            "give it 2 at least"
        )
    return Lexicon(source, found)


def sections(what: str, data: bytes) -> dict[str, tuple[str, ...]]:
    """A text file's names in brackets, and the lines under each.

    Parameters
    ----------
    what : str
        The file, for people.
    data : bytes
        What it holds.
    """
    text, undecodable = decode_text(data)
    if undecodable or "\0" in text:
        raise PoolError(f"{what} is not UTF-8 text: convert it")
    # Nothing separates a text from a value, and nothing in it stands for something else.
    parser = configparser.RawConfigParser(
        allow_no_value=True, delimiters=("\0",), comment_prefixes=("#",), default_section="\0"
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign] # capitals stay
    try:
        parser.read_string("\n".join(" ".join(line.split()) for line in lines(text)))
    except configparser.DuplicateOptionError as error:
        raise PoolError(
            f"{what}, line {error.lineno}: {error.option!r} stands twice under [{error.section}]; "
            "once is enough"
        ) from error
    except configparser.DuplicateSectionError as error:
        raise PoolError(
            f"{what}, line {error.lineno}: [{error.section}] was there before; put all texts under "
            "it once"
        ) from error
    except configparser.Error as error:
        raise PoolError(
            f"{what} has a text that stands under no name: put a property in brackets above it, "
            "such as [colours]"
        ) from error
    found = {name.strip(): tuple(parser[name]) for name in parser.sections()}
    if empty := [name for name, texts in found.items() if not texts or not name]:
        raise PoolError(f"{what}: [{empty[0]}] has no texts; give it some")
    return found


def lexicon_of(source: str) -> str:
    """The list to begin with, of a store of these images."""
    return MICROWORLD if source.startswith(MICROWORLD) else PHOTOGRAPHS
