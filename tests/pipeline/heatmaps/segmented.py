"""Methods held to masks on made-up pictures: the tables, and a sheet."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.heatmaps.choices import METHODS, method_of
from pipeline.heatmaps.parts import picture_rows, write_part
from pipeline.heatmaps.scores import relevance, score
from pipeline.heatmaps.sheet import Sheet
from pipeline.heatmaps.summary import cases, summary

SHOWN = ["tokens all", "tokens last:4", *(m for m in METHODS if m != "tokens")]
PROTOCOLS = ["aligned", "published"]
CLASSES = ("star", "heart", "ring")
SIDE, GRID = 32, 8


def segmented(
    folder: Path, images: int = 30, erased: bool = True
) -> tuple[dict[str, pd.DataFrame], Sheet]:
    """Discs in noise; every method sees them less well than the one before."""
    rng = np.random.default_rng(4)
    centre_n2, radius_n = rng.uniform(0.3, 0.7, (images, 2)), rng.uniform(0.15, 0.3, images)

    def distance(side: int) -> np.ndarray:
        places = (np.arange(side) + 0.5) / side
        y, x = (centre_n2[:, at, None] - places for at in (0, 1))
        return np.hypot(y[:, :, None], x[:, None, :]) / radius_n[:, None, None]

    masks = (distance(SIDE) < 1).astype(np.uint8)
    masks[:, :2] = 255
    heat = np.exp(-(distance(GRID) ** 2) / 2)
    maps = {
        method: (heat + rng.normal(size=heat.shape) * (0.1 + 0.06 * i)).astype(np.float32)
        for i, method in enumerate(SHOWN)
    }
    maps["random"] = rng.normal(size=heat.shape).astype(np.float32)
    classes = [CLASSES[i % len(CLASSES)] for i in range(images)]
    keys = [f"{i}.png" for i in range(images)]
    areas = rng.uniform(0.1, 0.3, images) if erased else None
    rows = []
    for method in SHOWN:
        facts = METHODS[method_of(method)]
        shown = relevance(torch.from_numpy(maps[method]), (SIDE, SIDE), facts.clipped)
        for protocol, shift in zip(PROTOCOLS, (0, 3), strict=True):
            scored = score(shown, torch.from_numpy(np.roll(masks, shift, 1)), facts.threshold)
            rows.append(
                picture_rows(
                    np.arange(images), keys, classes, method, protocol, scored, areas, areas
                )
            )
    part = str(folder / "part.parquet")
    write_part(part, rows)
    chosen = cases([part], SHOWN[0], PROTOCOLS[0], each=2)
    at = [case.image for case in chosen]
    blocks = rng.integers(0, 255, (len(at), 4, 4, 3), np.uint8)
    sheet = Sheet(
        PROTOCOLS[0],
        SHOWN,
        chosen,
        [keys[i] for i in at],
        [classes[i] for i in at],
        blocks.repeat(SIDE // 4, 1).repeat(SIDE // 4, 2),
        masks[at],
        np.stack([maps[method][at] for method in SHOWN], 1),
    )
    return summary([part], SHOWN, PROTOCOLS, resamples=100), sheet
