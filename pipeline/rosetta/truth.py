"""What shared concepts are about, against the embedded world's truth, beside random pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.images.micro import PREFIX, parse
from pipeline.microworld.draw import picture
from pipeline.microworld.world import ATTRIBUTES, Scene
from pipeline.neurons.truth import areas

from .answers import Concept
from .dictionary import unit_number
from .replay import Mined, replay

IMAGES, CONCEPTS, DRAWS, SEED = 256, 40, 4, 0
# A value that fewer images have is not scored.
LEAST = 5
VALUES = [(name, str(value)) for name, values in ATTRIBUTES.items() for value in values]


def known(found: Mined) -> bool:
    """Whether the images' truth is known."""
    return found.setup.generator is None and found.setup.source.startswith(PREFIX)


def truth_table(
    found: Mined, concepts: Sequence[Concept], images: int = IMAGES, draws: int = DRAWS
) -> pd.DataFrame:
    """Scores of concepts, and of as many tuples of random living units, ``draws`` times.

    Returns
    -------
    DataFrame
        ``pairing`` (shared, random), ``draw``, ``concept``, ``inside``, ``inside_gap``,
        ``attribute``, ``value``, ``auc``, ``agrees``: see ``SCHEMA.md``.
    """
    names = list(found.models)
    chosen = {
        name: np.array([
            unit_number(found.models[name].card, m.layer, m.unit)
            for c in concepts for m in c.members if m.model == name
        ])
        for name in names
    }  # fmt: skip
    random = random_units(found, len(concepts) * draws)
    scored = {n: np.concatenate([chosen[n], random[n]]) for n in names}
    inside_mn, auc_mvn = scores(found, scored, images)
    table = tuples(inside_mn, auc_mvn)
    count = len(concepts)
    table.insert(0, "pairing", ["shared"] * count + ["random"] * (count * draws))
    table.insert(1, "draw", [0] * count + np.repeat(np.arange(draws), count).tolist())
    table.insert(2, "concept", [c.number for c in concepts] * (1 + draws))
    return table


def random_units(found: Mined, count: int) -> dict[str, NDArray[np.int64]]:
    """Living units drawn at random from each model, from a seed."""
    rng = np.random.default_rng(SEED)
    units = found.result.table("units").to_pandas()
    drawn = {}
    for name, model in found.models.items():
        alive = units[(units["model"] == name) & (units["state"] == "alive")]
        rows = alive.iloc[rng.integers(len(alive), size=count)]
        drawn[name] = np.array(
            [unit_number(model.card, r.layer, int(r.unit)) for r in rows.itertuples()]
        )
    return drawn


def scores(
    found: Mined, units: dict[str, NDArray[np.int64]], images: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How well maps tell objects from background, and images with a value from the others.

    Returns
    -------
    inside_mn : (model, unit) float64
        Area under the ROC curve of a map's positions, inside objects against outside.
    auc_mvn : (model, value, unit) float64
        Of an image's mean or largest activation, whichever tells more; NaN where too few images
        have the value.
    """
    maps: dict[str, list[list[torch.Tensor]]] = {n: [[] for _ in units[n]] for n in units}
    masks, scenes = [], []
    for batch in replay(found.url, found.setup, found.models, images, found.changed):
        for row in batch.rows:
            _, seed, split = parse(row["uri"])
            _, mask, scene = picture(seed, split, row["offset"])
            masks.append(mask)
            scenes.append(scene)
        for name, model in found.models.items():
            assert model.preprocess is not None  # only a generator has none
            pixels = torch.as_tensor(batch.inputs[name])
            _, layers = model.maps(model.preprocess.to_tensor(pixels))
            at = [x.name for x in model.card.layers]
            for place, unit in enumerate(units[name]):
                layer, channel = model.card.locate(int(unit))
                maps[name][place].append(layers[at.index(layer)][..., channel].clone())
    holds_vb = holds(scenes)
    pairs = [
        [unit_scores(torch.cat(planes).numpy(), np.array(masks), holds_vb) for planes in of_model]
        for of_model in maps.values()
    ]
    inside = np.array([[inside for inside, _ in of_model] for of_model in pairs])
    return inside, np.array([[auc for _, auc in of_model] for of_model in pairs]).swapaxes(1, 2)


def unit_scores(
    maps_bhw: NDArray[np.float32], masks_byx: NDArray[np.bool_], holds_vb: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """One unit's area inside objects, and its areas for every attribute value."""
    covered = F.adaptive_avg_pool2d(torch.from_numpy(masks_byx).float(), maps_bhw.shape[1:])
    inside = (covered >= 0.5).numpy().reshape(1, -1)
    whole = areas(inside, maps_bhw.reshape(-1, 1))[0, 0]
    of_images = np.stack([maps_bhw.mean((1, 2)), maps_bhw.max((1, 2))], 1)
    found = areas(holds_vb, of_images).max(1)
    few = np.minimum(holds_vb.sum(1), (~holds_vb).sum(1)) < LEAST
    return float(whole), np.where(few, np.nan, found)


def holds(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Which images have each of ``VALUES``, (value, image)."""
    labels = [scene.labels() for scene in scenes]
    return np.array([[str(of[name]) == value for of in labels] for name, value in VALUES])


def tuples(inside_mn: NDArray[np.float64], auc_mvn: NDArray[np.float64]) -> pd.DataFrame:
    """What tuples of one unit a model are about: the value with the largest mean area.

    A tuple agrees if that value is the best of every one of its units.
    """
    scored = np.where(np.isnan(auc_mvn), -1.0, auc_mvn)
    mean_vn = scored.mean(0)
    role = mean_vn.argmax(0)
    return pd.DataFrame(
        {
            "inside": inside_mn.mean(0),
            "inside_gap": np.ptp(inside_mn, axis=0),
            "attribute": [VALUES[v][0] for v in role],
            "value": [VALUES[v][1] for v in role],
            "auc": mean_vn.max(0),
            "agrees": (scored.argmax(1) == role).all(0),
        }
    )


def truth_facts(table: pd.DataFrame) -> dict[str, str]:
    """Shared concepts beside random tuples, in words."""
    facts = {}
    for pairing, rows in table.groupby("pairing", sort=False):
        facts[f"{pairing} units"] = (
            f"all agree on one value {rows['agrees'].mean():.0%}; mean best AUC "
            f"{rows['auc'].mean():.3f}; gap between models inside objects "
            f"{rows['inside_gap'].mean():.3f} ({len(rows):,} tuples)"
        )
    return facts
