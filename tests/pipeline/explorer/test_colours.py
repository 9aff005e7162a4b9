"""Colours are told apart by everybody, and a page's text reads on them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.explorer.colours import (
    CATEGORIES,
    DIVERGING,
    FAINT,
    OTHER,
    SEQUENTIAL,
    as_hex,
    looked_up,
    tint,
)
from pipeline.pages.pictures import MINUS, PLUS

# What those see who lack one kind of cone, in linear RGB (Machado 2009, Table 1, severity 1).
SEEN = {
    "all": np.eye(3),
    "no red": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# Ground and luminance of the text, of ``explorer.css``.
PAGES = {"light": (np.array([246, 247, 249]), 0.018), "dark": (np.array([27, 33, 42]), 0.807)}


def linear(colours: np.ndarray) -> np.ndarray:
    share = np.asarray(colours, float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(colours: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """CIELAB of colours as they are seen, under D65."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = np.clip(linear(colours) @ seen.T, 0, 1) @ to_xyz.T / to_xyz.sum(1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize("seen", SEEN)
def test_more_is_lighter_whoever_looks(seen: str) -> None:
    lightness = lab(SEQUENTIAL[::16], SEEN[seen])[:, 0]
    assert (np.diff(lightness) > 1.5).all(), lightness


@pytest.mark.parametrize("seen", SEEN)
def test_plus_and_minus_are_told_apart_whoever_looks(seen: str) -> None:
    ends = lab(DIVERGING[[0, 127, 255]], SEEN[seen])
    apart = np.linalg.norm(ends[:, None] - ends, axis=-1)[np.triu_indices(3, 1)]
    assert apart.min() > 40, apart


def test_categories_are_told_apart() -> None:
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CATEGORIES])
    for seen in SEEN.values():
        found = lab(colours, seen)
        apart = np.linalg.norm(found[:, None] - found, axis=-1)[np.triu_indices(len(found), 1)]
        assert apart.min() > 10, apart.min()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("value", [-1.0, -0.5, 0.3, 1.0])
def test_text_reads_on_a_tint(page: str, value: float) -> None:
    assert contrast(*tint(value, 1.0), *PAGES[page]) >= 4.5


@pytest.mark.parametrize("page", PAGES)
def test_text_reads_on_categories(page: str) -> None:
    for colour in (*CATEGORIES, OTHER):
        assert contrast(colour, FAINT, *PAGES[page]) >= 4.5, colour


def contrast(fill: str, opacity: float, ground: np.ndarray, ink: float) -> float:
    colour = np.array([int(fill[i : i + 2], 16) for i in (1, 3, 5)])
    under = linear(opacity * colour + (1 - opacity) * ground) @ [0.2126, 0.7152, 0.0722]
    return (max(ink, under) + 0.05) / (min(ink, under) + 0.05)


def test_a_tint_has_the_sign_and_the_size() -> None:
    assert tint(2.0, 4.0) == (as_hex(PLUS), 0.275)
    assert tint(-9.0, 4.0) == (as_hex(MINUS), 0.55)
    assert tint(0.0, 4.0).opacity == tint(float("nan"), 4.0).opacity == tint(0.0, 0.0).opacity == 0


def test_numbers_as_colours_of_a_picture() -> None:
    values = np.array([[-8.0, 0.0, np.nan], [1.0, 2.0, 8.0]])
    assert (looked_up(values, 2.0) == SEQUENTIAL[[[0, 0, 0], [128, 255, 255]]]).all()
    signed = looked_up(values, 2.0, signed=True)
    assert (signed == DIVERGING[[[0, 128, 128], [191, 255, 255]]]).all()
    assert (looked_up(np.zeros(2), 0.0) == SEQUENTIAL[0]).all()
