"""A picture: what wrote its embedding, in numbers and in words, and what else is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.explorer import image_heads, subject
from pipeline.explorer.firing import FiringLayer, firing
from pipeline.explorer.image_heads import SpeaksFor, StrongHead
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.model import NotYet
from pipeline.explorer.spaces import (
    Choice,
    Nearest,
    choices,
    image_query,
    nearest,
    parse_space,
    parts_query,
)
from pipeline.explorer.subject import Subject
from pipeline.explorer.written import TokenShares, Written, token_shares, written
from pipeline.search.choices import Metric
from storage.errors import FacetError

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class ImageView:
    """A picture, and what is known of it.

    Attributes
    ----------
    subject : Subject
    before, after : int or None
        The images of the store beside it.
    elsewhere : dict of str to str
        Pages of the same image in other stores, by their names.
    written : Written or None
    tokens : TokenShares or None
    heads : tuple of StrongHead
    speaks : SpeaksFor or None
        What speaks for the text that was asked about.
    neurons : list of FiringLayer
    spaces : tuple of Choice
        In which images that are alike can be looked for.
    asked : dict of str to str
        The texts that were typed, as they were.
    lacking : dict of str to str
        Why each of the parts above is not there; empty where there is no more to be said.
    """

    subject: Subject
    before: int | None
    after: int | None
    elsewhere: dict[str, str]
    written: Written | None
    tokens: TokenShares | None
    heads: tuple[StrongHead, ...]
    speaks: SpeaksFor | None
    neurons: list[FiringLayer]
    spaces: tuple[Choice, ...]
    asked: dict[str, str]
    lacking: dict[str, str]


def image_view(
    library: Library,
    here: Opened,
    shown: Subject,
    text: str = "",
    against: str = "",
    model: bool = False,
) -> ImageView:
    """All that is known of a picture.

    Parameters
    ----------
    library : Library
    here : Opened
    shown : Subject
    text, against : str
        What is asked about, if anything is.
    model : bool
        Whether the model may be asked for what the store does not keep: tokens, and signs of
        neurons. Of a picture that the store does not hold it always is.

    Raises
    ------
    NotYet
        If the model is needed, and is being loaded.
    """
    lacking = dict.fromkeys(("written", "tokens", "heads", "speaks", "neurons"), "")

    def attempt(name: str, make: Callable[[], Part], otherwise: Part) -> Part:
        try:
            return make()
        except NotYet:
            raise  # all of it a little later
        except FacetError as error:
            lacking[name] = str(error)
            return otherwise

    ask = model or shown.index is None
    # Without its parts there is nothing to be said of a picture that the store does not hold.
    found = (
        subject.decomposed(library, here, shown)
        if shown.index is None
        else attempt("written", lambda: subject.decomposed(library, here, shown), None)
    )
    wrote, tokens, speaks = None, None, None
    heads: tuple[StrongHead, ...] = ()
    if found is not None:
        wrote = written(here, found)
        shares_lh = wrote.heads
        heads = attempt(
            "heads", lambda: image_heads.strong_heads(library, here, found, shares_lh), heads
        )
        tokens = token_shares(here.meta, found)
        if tokens is None and ask:
            passed = attempt("tokens", lambda: subject.passed(library, here, shown), None)
            tokens = None if passed is None else token_shares(here.meta, passed)
        if text.strip():
            speaks = attempt(
                "speaks",
                lambda: image_heads.speaks_for(library, here, found, text, against),
                None,
            )
    neurons: list[FiringLayer] = []
    if found is not None:
        neurons = attempt("neurons", lambda: firing(library, here, shown, ask), neurons)
    index, last = shown.index, here.meta.images - 1
    return ImageView(
        subject=shown,
        before=None if index in (None, 0) else index - 1,
        after=None if index in (None, last) else index + 1,
        elsewhere=elsewhere(library, here, shown),
        written=wrote,
        tokens=tokens,
        heads=heads,
        speaks=speaks,
        neurons=neurons,
        spaces=choices(here),
        asked={"text": text, "against": against},
        lacking=lacking,
    )


def elsewhere(library: Library, here: Opened, shown: Subject) -> dict[str, str]:
    """Pages of the same image in other stores of the same images."""
    if shown.index is None:
        return {
            name: shown.address.replace(f"/s/{here.name}/", f"/s/{name}/", 1)
            for name in library.stores
            if name != here.name
        }
    same = here.meta.image_list_digest
    return {
        name: f"/s/{name}/image/{shown.index}"
        for name, other in library.stores.items()
        if name != here.name and other.meta.image_list_digest == same
    }


@dataclass(frozen=True, eq=False)
class AlikeView:
    """The images that are most like a picture.

    Attributes
    ----------
    subject : Subject
    asked : str
        The space, as it was asked for.
    metric : {"cosine", "dot"}
    where : str
    spaces : tuple of Choice
    found : Nearest or None
    lacking : str
        Why nothing was found.
    """

    subject: Subject
    asked: str
    metric: Metric
    where: str
    spaces: tuple[Choice, ...]
    found: Nearest | None
    lacking: str


def alike_view(
    library: Library,
    here: Opened,
    shown: Subject,
    asked: str = "whole",
    metric: Metric = "cosine",
    where: str = "",
    top: int = 24,
) -> AlikeView:
    """The images of a store that are most like a picture in a space.

    Raises
    ------
    NotYet
        If the picture is not of the store, and the model is being loaded.
    FacetError
        If there is no such space, or the condition cannot be read.
    """
    space = parse_space(here, asked)
    if shown.index is None:
        query = parts_query(here, space, subject.decomposed(library, here, shown).parts)
    else:
        subject.refuse_nothing(shown)
        query = image_query(here, space, shown.index)
    found, lacking = None, ""
    try:
        condition = where.strip() or None
        found = nearest(here, space, query, metric=metric, where=condition, top=top)
    except FacetError as error:
        if error.remedy is None:
            raise
        lacking = str(error)
    return AlikeView(shown, space.address, metric, where, choices(here), found, lacking)
