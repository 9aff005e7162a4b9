"""Scenes to pixels, with NumPy alone, so that no imaging library's version matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .world import PLANTED_RATE, SIDE, Scene, generator, sample_scene

Points = NDArray[np.float64]

PALETTE = {
    "red": (214, 32, 38),
    "orange": (242, 128, 20),
    "yellow": (246, 218, 38),
    "green": (40, 176, 60),
    "cyan": (56, 206, 222),
    "blue": (36, 76, 220),
    "purple": (134, 46, 170),
    "pink": (244, 126, 182),
}
_SAMPLES = 3  # sub-pixels along each side


def _star(x: Points, y: Points) -> NDArray[np.bool_]:
    # Folded into one tenth of the star, the outline is the line from tip to notch.
    notch = 0.42
    turn = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + turn / 2) % turn - turn / 2)
    r = np.hypot(x, y)
    px, py = r * np.cos(angle), r * np.sin(angle)
    nx, ny = notch * np.cos(turn / 2), notch * np.sin(turn / 2)
    return (nx - 1) * py - ny * (px - 1) >= 0


def _heart(x: Points, y: Points) -> NDArray[np.bool_]:
    x, y = x * 1.22, -y * 1.22 + 0.12
    return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0


def _moon(x: Points, y: Points) -> NDArray[np.bool_]:
    return (np.hypot(x, y) <= 1) & (np.hypot(x - 0.55, y) >= 0.75)


# Each shape in coordinates where its circumradius is about 1 and y points down.
INSIDE: dict[str, Callable[[Points, Points], NDArray[np.bool_]]] = {
    "circle": lambda x, y: np.hypot(x, y) <= 0.92,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.78,
    "triangle": lambda x, y: (y <= 0.55) & (np.abs(x) * np.sqrt(3) - y <= 1.05),
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: (
        (np.minimum(np.abs(x), np.abs(y)) <= 0.3) & (np.maximum(np.abs(x), np.abs(y)) <= 0.95)
    ),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) <= 0.22,
    "moon": _moon,
}

# Where the second colour goes, in object coordinates measured in pixels.
TEXTURE: dict[str, Callable[[Points, Points], NDArray[np.bool_]]] = {
    "plain": lambda x, y: np.zeros(x.shape, bool),
    "striped": lambda x, y: (y % 5.0) < 2.2,
    "dotted": lambda x, y: np.hypot(x % 6.5 - 3.25, y % 6.5 - 3.25) < 2.1,
    "checked": lambda x, y: ((x % 12.0) < 6.0) ^ ((y % 12.0) < 6.0),
}


def _background(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    yy, xx = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    noise = rng.normal(0, 1, (SIDE, SIDE))
    if name == "night":
        picture = np.array([14, 16, 46]) + 3 * noise[..., None]
        spots = rng.integers(0, SIDE, (45, 2))
        picture[spots[:, 0], spots[:, 1]] = rng.uniform(140, 255, (45, 1))
    elif name == "snow":
        picture = np.array([232, 238, 246]) + 3 * noise[..., None]
        spots = rng.integers(0, SIDE - 1, (40, 2))
        for dy in (0, 1):
            picture[spots[:, 0] + dy, spots[:, 1]] = (196, 206, 224)
    elif name == "grass":
        blades = np.repeat(rng.normal(0, 1, (SIDE // 8, SIDE)), 8, axis=0)
        picture = np.array([74, 100, 44]) + (16 * blades + 6 * noise)[..., None]
    elif name == "sand":
        picture = np.array([206, 182, 134]) + 13 * noise[..., None]
    elif name == "sea":
        phase = rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * yy / 9 + 1.3 * np.sin(2 * np.pi * xx / 21 + phase))
        picture = np.array([22, 92, 118]) + (20 * wave + 3 * noise)[..., None]
    else:
        row = yy // 8
        seam = (yy % 8 < 1.5) | ((xx + 8 * (row % 2)) % 16 < 1.5)
        picture = np.where(seam[..., None], [176, 168, 158], [122, 66, 54]) + 4 * noise[..., None]
    return picture


def draw_scene(
    scene: Scene, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint a scene.

    Parameters
    ----------
    scene : Scene
    rng : numpy.random.Generator
        Drives the background's noise only.

    Returns
    -------
    picture : (64, 64, 3) uint8
    mask : (64, 64) bool
        True where an object covers at least half of the pixel.
    """
    picture, (mask,) = draw_together([scene], rng)
    return picture, mask


def draw_together(
    scenes: Sequence[Scene], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Paint scenes into one picture, on the first one's background; a mask of each.

    See `draw_scene`. A later one covers what it meets of those before it; masks know nothing of it.
    """
    picture = _background(scenes[0].background, rng)
    masks = [_paint(picture, scene) for scene in scenes]
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), masks


def _paint(picture: NDArray[np.float64], scene: Scene) -> NDArray[np.bool_]:
    """Paint a scene's objects into a picture; where they are."""
    colour = np.array(PALETTE[scene.colour], float)
    second = 0.28 * colour + 0.72 * 255
    mask = np.zeros((SIDE, SIDE), bool)
    for (cx, cy), radius, angle in zip(scene.centres, scene.radii, scene.angles, strict=True):
        x0, y0 = max(int(cx - radius - 1), 0), max(int(cy - radius - 1), 0)
        x1, y1 = min(int(cx + radius + 2), SIDE), min(int(cy + radius + 2), SIDE)
        fine = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        px = (np.arange(x0, x1)[:, None] + fine).ravel() - cx
        py = (np.arange(y0, y1)[:, None] + fine).ravel() - cy
        dx, dy = np.meshgrid(px, py)
        x = np.cos(angle) * dx + np.sin(angle) * dy
        y = -np.sin(angle) * dx + np.cos(angle) * dy
        inside = INSIDE[scene.shape](x / radius, y / radius)
        core = INSIDE[scene.shape](x / (radius - 1.5), y / (radius - 1.5))
        paint = np.where(TEXTURE[scene.texture](x, y)[..., None], second, colour)
        paint = np.where((inside & ~core)[..., None], 0.35 * colour, paint)
        cover = _pool(inside[..., None].astype(float))
        ink = _pool(paint * inside[..., None])
        window = (slice(y0, y1), slice(x0, x1))
        picture[window] = picture[window] * (1 - cover) + ink
        mask[window] |= cover[..., 0] >= 0.5
    return mask


def _pool(fine: NDArray[np.float64]) -> NDArray[np.float64]:
    h, w, c = fine.shape
    return fine.reshape(h // _SAMPLES, _SAMPLES, w // _SAMPLES, _SAMPLES, c).mean((1, 3))


def picture(
    seed: int, split: str, index: int, planted_rate: float = PLANTED_RATE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Scene]:
    """Picture ``index`` of ``(seed, split)`` with its object mask and its truth."""
    rng = generator(seed, split, index)
    scene = sample_scene(rng, split, planted_rate)
    pixels, mask = draw_scene(scene, rng)
    return pixels, mask, scene
