"""Pictures from descriptions: each is kept as it comes, and what was kept is not drawn again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.language.threads import in_threads
from pipeline.telling import SILENT, Teller
from storage import urls

from .renderer import CannotDraw, render, shows
from .tables import PICTURES

# Of the place where they are drawn: the pictures, and what is known of them until all are there.
FOLDER, PARTS = "pictures", "drawn"


@dataclass(frozen=True, eq=False)
class Picture:
    """What a drawer made of a description.

    Attributes
    ----------
    image : PIL.Image.Image or None
        None where it refused.
    why : str
        Why it refused, or is not to be trusted.
    there : bool or None
        Whether the drawn class is there and the target is not, where the drawer knows.
    """

    image: Image.Image | None
    why: str = ""
    there: bool | None = None


# Takes a description and a seed.
Draw = Callable[[str, int], Picture]


Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Wanted:
    """Pictures of one description: their numbers are 0, 1, …"""

    source: str
    repeat: int
    description: int
    text: str
    seeds: tuple[int, ...]

    def named(self, *more: int) -> str:
        """What tells it from all others of a run."""
        return ".".join([self.source, *map(str, (self.repeat, self.description, *more))])


def by_renderer(drawn: str, target: str) -> Draw:
    """The embedded world's renderer, which knows whether the drawn class is there."""

    def draw(text: str, seed: int) -> Picture:
        try:
            pixels, scenes = render(text, seed)
        except CannotDraw as error:
            return Picture(None, str(error))
        return Picture(
            Image.fromarray(pixels), there=shows(scenes, drawn) and not shows(scenes, target)
        )

    return draw


def picture_seed(seed: int, source: str, repeat: int, description: int, number: int) -> int:
    """The seed of one picture and of no other, 0 … 2⁶³ − 1.

    Where two sources of cues lead to the same description, each has pictures of its own: rates of
    sources are compared as independent ones.
    """
    said = json.dumps([seed, source, repeat, description, number])
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big") >> 1


def draw_all(
    descriptions: pd.DataFrame,
    draw: Draw,
    each: int,
    seed: int,
    place: str,
    *,
    at_once: int = 1,
    teller: Teller = SILENT,
) -> pd.DataFrame:
    """Draw in this process: see ``pictures.draw_pictures``.

    Parameters
    ----------
    draw : callable
        Called from up to ``at_once`` threads.
    at_once : int
        Descriptions under way at a time.
    """
    todo = wanted(descriptions, each, seed)
    found: list[Rows] = []
    with teller.bar("pictures drawn", len(todo) * each, "pictures so far are kept") as move:
        for rows in in_threads(lambda asked: drawn(asked, draw, place), todo, at_once):
            found.append(rows)
            move(len(found) * each)
    return table(found)


def wanted(descriptions: pd.DataFrame, each: int, seed: int) -> list[Wanted]:
    """The pictures to be drawn, a description at a time."""
    chosen = descriptions[descriptions["chosen"].astype(bool)]
    columns = (chosen[name].tolist() for name in ("source", "repeat", "number", "text"))
    return [
        Wanted(source, repeat, at, text, tuple(
            picture_seed(seed, source, repeat, at, number) for number in range(each)
        ))
        for source, repeat, at, text in zip(*columns, strict=True)
    ]  # fmt: skip


def drawn(asked: Wanted, draw: Draw, place: str, report: Callable[[], None] = lambda: None) -> Rows:
    """The pictures of one description: those that are kept, and the rest, which are drawn.

    ``report`` is called after each.
    """
    part = urls.join(place, PARTS, f"{asked.named()}.json")
    (data,) = urls.read_each([part])
    rows: Rows = [] if data is None else json.loads(data)
    for number, seed in enumerate(asked.seeds):
        if number == len(rows):
            rows.append(_kept(asked, number, draw(asked.text, seed), place))
            urls.put_bytes(part, json.dumps(rows).encode())
        report()
    return rows


def _kept(asked: Wanted, number: int, picture: Picture, place: str) -> dict[str, object]:
    """The row of a picture, whose file is written."""
    image, became, why, file = picture.image, "refused", picture.why, ""
    if image is not None:
        colour = one_colour(image)
        became = "blank" if colour else "drawn"
        why = ", ".join(filter(None, [colour, why]))
        file = f"{FOLDER}/{asked.named(number)}.png"
        urls.put_bytes(urls.join(place, file), png(image))
    return {
        "source": asked.source,
        "repeat": asked.repeat,
        "description": asked.description,
        "number": number,
        "text": asked.text,
        "seed": asked.seeds[number],
        "file": file,
        "became": became,
        "why": why,
        "there": picture.there if became == "drawn" else None,
    }


def table(found: list[Rows]) -> pd.DataFrame:
    """Rows as the result keeps them."""
    names = PICTURES["pictures"].names
    frame = pd.DataFrame([row for rows in found for row in rows], columns=names)
    return frame.astype({"there": object})


def one_colour(image: Image.Image) -> str:
    """Says so where a picture has but one colour, as safety checkers leave it; else nothing."""
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    if (pixels != pixels[0]).any():
        return ""
    return "all black" if not pixels[0].any() else f"all of one colour, {tuple(pixels[0].tolist())}"


def png(image: Image.Image) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
