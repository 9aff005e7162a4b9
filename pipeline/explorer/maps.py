"""Heat maps of one picture: of texts that are typed, and of the texts that describe a head."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.explorer.errors import NotHere
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.model import NotYet
from pipeline.explorer.subject import stored_parts
from pipeline.explorer.words import directions, in_heads, tidied, tokenizer_for
from pipeline.extraction.plan import parse_layers
from pipeline.heads.choices import Head, parse_heads
from pipeline.heads.names import head_name
from pipeline.heatmaps.choices import layers_of
from pipeline.heatmaps.found import HeatMaps, of_texts
from pipeline.heatmaps.joint import of_heads, texts_of
from pipeline.heatmaps.seen import Seen
from pipeline.heatmaps.split import Split, is_stored, split_of, stored_split
from pipeline.neurons.choices import Convention
from pipeline.pages.heatmaps import Row, caption, head_of, heading, how, rows_of
from pipeline.pages.pictures import overlay
from storage.errors import FacetError

if TYPE_CHECKING:
    from pipeline.explorer.model import Loaded
    from pipeline.heatmaps.tokens import TokenMaps, TokenShares

# Texts, and heads that are shown by texts of their own, at once.
MOST = 8
# Pixels of a map's shorter side, at least: small pictures are enlarged, pixel by pixel.
SIDE = 256


@dataclass(frozen=True)
class Asked:
    """What maps are asked for.

    Attributes
    ----------
    texts : tuple of str
    against : str or None
        A text whose map is taken from each of theirs.
    layers : tuple of int
        Summed.
    heads : tuple of (layer, head)
        In place of layers; none: all of the layers.
    pool : str or None
        Of the run of TextSpan whose texts each head is shown by, in place of `texts`.
    convention : {"centred", "equal-share"}
    """

    texts: tuple[str, ...]
    against: str | None
    layers: tuple[int, ...]
    heads: tuple[Head, ...]
    pool: str | None
    convention: Convention

    @property
    def nothing(self) -> bool:
        return not self.texts and self.pool is None

    @property
    def heads_said(self) -> str:
        """The heads as they are typed."""
        return " ".join("{}.{}".format(*head) for head in self.heads)


@dataclass(frozen=True)
class MapShown:
    """One map.

    Attributes
    ----------
    picture : str
        Its address.
    heading, caption : str
        What it is of; what it shows and leaves out.
    """

    picture: str
    heading: str
    caption: str


@dataclass(frozen=True, eq=False)
class MapsView:
    """Heat maps of one picture.

    Attributes
    ----------
    place, name : str
        The picture's page and what it is called.
    image : int or None
        Its number, where the store holds it.
    asked : Asked
    layers : str
        As they were typed.
    pools : tuple of str
        Pools whose texts describe heads of this store.
    waiting : str
        Why there are no maps yet; empty where that is not so.
    found : HeatMaps or None
    maps : tuple of MapShown
    how : str
        Which maps they are, where they are from, and that they sum.
    wrote_lh : (layer, head) float64 or None
        What each head wrote, from all tokens, of the first text's logit (less that of `against`);
        None of maps of heads' own texts, and where a store keeps tokens alone.
    """

    place: str
    name: str
    image: int | None
    asked: Asked
    layers: str
    pools: tuple[str, ...]
    waiting: str = ""
    found: HeatMaps | None = None
    maps: tuple[MapShown, ...] = ()
    how: str = ""
    wrote_lh: NDArray[np.float64] | None = None

    @property
    def strongest_head(self) -> float:
        """The largest size of what any head wrote."""
        return 0.0 if self.wrote_lh is None else float(np.abs(self.wrote_lh).max())

    @property
    def texts_query(self) -> str:
        """An address's query that asks for the same texts, and leaves the heads open."""
        said = [pair for pair in query_of(self.asked) if pair[0] in ("text", "against")]
        return urlencode(said)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Maps with what each head wrote: see ``MapsView``."""

    found: HeatMaps
    wrote_lh: NDArray[np.float64] | None


def read_asked(
    here: Opened,
    texts: Sequence[str] = (),
    against: str = "",
    layers: str = "",
    heads: Sequence[str] = (),
    pool: str = "",
    convention: str = "",
) -> Asked:
    """What an address asks for; fields that were left empty count as not given.

    Raises
    ------
    FacetError
        If it makes no sense.
    """
    meta = here.meta
    wanted, taken = tidied(texts), tidied([against])
    named = [one for text in heads for one in text.replace(",", " ").split()]
    chosen = parse_heads(named, meta.layers, meta.heads)
    if convention not in ("", *get_args(Convention)):
        raise FacetError(f"`convention` {convention!r}: {' or '.join(get_args(Convention))}")
    if pool and wanted:
        raise FacetError("`pool` shows heads by texts of their own: give no other texts")
    if pool and not chosen:
        raise FacetError("`pool` shows what single heads write: name heads, such as 3.0")
    if taken and taken[0] in wanted:
        raise FacetError(f"`against` {taken[0]!r} is one of the texts: their difference is nothing")
    if max(len(wanted), len(chosen) if pool else 0) > MOST:
        raise FacetError(f"give {MOST} texts or heads at most at once")
    if chosen:
        numbers = tuple(sorted({layer for layer, _ in chosen}))
    else:
        numbers = parse_layers(layers.replace(" ", "") or layers_of(meta), meta.layers)
    return Asked(
        wanted, taken[0] if taken else None, numbers, chosen, pool or None,
        convention or "centred",  # type: ignore[arg-type]
    )  # fmt: skip


def maps_view(
    library: Library, here: Opened, place: str, seen: Seen, asked: Asked, layers: str = ""
) -> MapsView:
    """Maps, or why there are none yet.

    Parameters
    ----------
    place : str
        The picture's page.
    seen : Seen
    asked : Asked
    layers : str
        As they were typed.
    """
    pools = tuple(dict.fromkeys(str(run.config["pool"]) for run in here.results("textspan")))
    view = MapsView(place, seen.name, seen.image, asked, layers, pools)
    if asked.nothing:
        library.model.begin(here, prepare)  # while a text is typed
        return view
    try:
        drawn = draw(library, here, seen, asked)
    except NotYet as error:
        return MapsView(place, seen.name, seen.image, asked, layers, pools, str(error))
    query = urlencode(query_of(asked))
    shown = tuple(
        MapShown(f"{place}/maps/{number}.png?{query}", _heading(row), caption(row))
        for number, row in enumerate(rows_of(drawn.found))
    )
    return MapsView(
        place, seen.name, seen.image, asked, layers, pools, "",
        drawn.found, shown, how(drawn.found), drawn.wrote_lh,
    )  # fmt: skip


def _heading(row: Row) -> str:
    """What a map is of; a head that is shown by its own texts is named."""
    return f"{head_of(row)}: {heading(row)}" if row["head"] else heading(row)


def query_of(asked: Asked) -> list[tuple[str, str]]:
    """An address's query that asks for the same."""
    given = [("text", text) for text in asked.texts]
    given += [("against", asked.against)] if asked.against else []
    if asked.heads:
        given.append(("heads", asked.heads_said))
    else:
        given.append(("layers", ",".join(map(str, asked.layers))))
    given += [("pool", asked.pool)] if asked.pool else []
    return [*given, ("convention", asked.convention)]


def draw(library: Library, here: Opened, seen: Seen, asked: Asked) -> Drawn:
    """The maps that are asked for; made once.

    Raises
    ------
    NotYet
        If the model is needed, and is still being loaded.
    FacetError
        If they cannot be had.
    """
    picture = hashlib.sha256(seen.pixels.tobytes()).hexdigest()
    return here.cached(
        ("maps", seen.image, picture, asked), lambda: _draw(library, here, seen, asked)
    )


def _draw(library: Library, here: Opened, seen: Seen, asked: Asked) -> Drawn:
    stored = (
        is_stored(here.meta, asked.layers)
        and seen.finished
        and not asked.heads
        and asked.convention == "centred"
    )
    if seen.unreadable is not None and not stored:
        raise FacetError(
            f"{seen.name} is not to be had as it was ({seen.unreadable}), and the store does not "
            "keep what is asked for: the model would have to see it"
        )
    own = None if asked.pool is None else own_texts(here, asked.pool, asked.heads)
    texts, less = list(asked.texts), [asked.against] if asked.against else []
    if own is not None:
        texts = list(dict.fromkeys(text for of_head in own.values() for text in of_head))
    if not texts:
        raise NotHere("a map is of a `text`: none is given")
    vectors = directions(library, here, [*texts, *less])
    wrote_lh = None
    if stored:
        assert seen.image is not None
        splits = [stored_split(here.store, seen.image, vectors)]
        if {"heads", "mlps"} <= set(here.meta.components):
            wrote_lh = _wrote(here, seen.image, vectors[0] - (vectors[-1] if less else 0))
    else:
        chosen = asked.heads if own is None else ()
        single = asked.heads if own is not None else ()
        splits, wrote_mlh = library.model.ask(
            here, pass_of, seen.pixels, vectors, asked.layers, asked.convention, chosen, single
        )
        wrote_lh = wrote_mlh[0] - (wrote_mlh[-1] if less else 0) if own is None else None
    if own is None:
        maps, table = of_texts(splits[0], texts, asked.against or "")
    else:
        maps, table = of_heads(dict(zip(asked.heads, splits, strict=True)), texts, own)
    found = HeatMaps(
        picture=seen.name,
        image=seen.image,
        unreadable=seen.unreadable,
        layers=list(asked.layers),
        heads=["{}.{}".format(*at) for at in asked.heads],
        convention=asked.convention,
        less=None,
        stored=stored,
        maps=maps,
        table=table,
        pixels=seen.pixels,
    )
    return Drawn(found, wrote_lh)


def _wrote(here: Opened, image: int, text_e: NDArray[np.floating]) -> NDArray[np.float64]:
    """What every head wrote of a text, from the rows of an image that the store keeps."""
    parts = stored_parts(here, image).parts
    heads_lhk = np.asarray(parts.heads_blhk[0], np.float64)
    return np.einsum("lhk,lhk->lh", heads_lhk, in_heads(here, text_e)) / parts.scale_b[0]


def own_texts(here: Opened, pool: str, heads: Sequence[Head]) -> dict[Head, list[str]]:
    """The texts of a pool that TextSpan found for heads, by the run that was asked for last.

    Raises
    ------
    NotHere
        If there is no such run, or it describes other heads.
    """
    runs = [run for run in here.results("textspan") if run.config["pool"] == pool]
    if not runs:
        raise NotHere(f"no heads of {here.name} are described by {pool!r}")
    texts = here.cached(("texts of heads", runs[0].url), lambda: texts_of(runs[0]))
    if lacking := [at for at in heads if at not in texts]:
        raise NotHere(f"{head_name(*lacking[0])} has no texts of {pool} in {here.name}")
    return {at: texts[at] for at in heads}


def picture_of(drawn: Drawn, number: int) -> bytes:
    """One map over the picture as the model saw it, as PNG; all have one scale.

    Raises
    ------
    NotHere
        If there are not so many.
    """
    found = drawn.found
    if not 0 <= number < len(found.maps):
        raise NotHere(f"there is no map {number}: they are 0–{len(found.maps) - 1}")
    image = Image.fromarray(found.pixels)
    times = -(-SIDE // min(image.size))
    image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    overlay(image, found.maps[number] / (found.strongest or 1.0)).save(buffer, format="png")
    return buffer.getvalue()


# -- in the model's process ----------------------------------------------------------------


def prepare(loaded: Loaded) -> None:
    """What the first maps would have to wait for."""
    tokenizer_for(loaded)
    _token_maps(loaded, "centred")


def pass_of(
    loaded: Loaded,
    pixels_hwc: NDArray[np.uint8],
    texts_me: NDArray[np.float32],
    layers: tuple[int, ...],
    convention: Convention,
    heads: tuple[Head, ...],
    single: tuple[Head, ...],
) -> tuple[list[Split], NDArray[np.float64]]:
    """What a picture's embedding has of texts, from one pass that tells all heads apart.

    Other layers or heads of the same picture and texts take no other pass.

    Parameters
    ----------
    pixels_hwc : (height, width, 3) uint8
        As the model sees it.
    texts_me : (text, embed) float32
    layers : tuple of int
        Summed, unless there are heads.
    heads : tuple of (layer, head)
        Summed.
    single : tuple of (layer, head)
        In their place, a split for each.

    Returns
    -------
    splits : list of Split
    wrote_mlh : (text, layer, head) float64
        What each head wrote from all tokens.
    """
    shares = _shares(loaded, convention, pixels_hwc.tobytes(), pixels_hwc.shape, texts_me.tobytes())
    every = range(loaded.model.layers)
    summed = heads or [(layer, head) for layer in layers for head in range(loaded.model.heads)]
    splits = [split_of(shares, every, chosen) for chosen in ([at] for at in single)]
    wrote_mlh = shares.maps_bclht[0].double().sum(-1).cpu().numpy()
    return splits or [split_of(shares, every, summed)], wrote_mlh


@lru_cache(maxsize=8)
def _shares(
    loaded: Loaded, convention: Convention, pixels: bytes, shape: tuple[int, ...], texts: bytes
) -> TokenShares:
    from pipeline.heatmaps.split import shares_by

    pixels_hwc = np.frombuffer(pixels, np.uint8).reshape(shape)
    texts_me = np.frombuffer(texts, np.float32).reshape(-1, loaded.model.embed_dim)
    return shares_by(_token_maps(loaded, convention), pixels_hwc, texts_me.copy())


@lru_cache(maxsize=4)
def _token_maps(loaded: Loaded, convention: Convention) -> TokenMaps:
    from pipeline.heatmaps.tokens import TokenMaps

    return TokenMaps(loaded.model, range(loaded.model.layers), convention)
