"""Neurons by what the whole network makes of them: the baseline of indirect effects.

The indirect effect of a neuron is what the embedding loses when its activations become their means
(Gandelsman 2025, section 3.3). Its direction is the first principal component over a sample of
images; a code over the same pool then says it in words, as with second-order effects.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.cluster import machines
from pipeline.cluster.tasks import each
from pipeline.cluster.work import Needs
from pipeline.extraction.finite import finite_rows, refuse_pass
from pipeline.extraction.run import seconds_here
from pipeline.heatmaps.seen import resize_of
from pipeline.images.again import load_again
from pipeline.images.errors import BadImage, SourceUnavailable
from pipeline.models import VisionModel
from pipeline.models.arithmetic import placed
from pipeline.neurons.choices import Method
from pipeline.neurons.codes import code_table
from pipeline.neurons.coding import code
from pipeline.neurons.directions import first_directions
from pipeline.neurons.effects import IndirectEffects
from pipeline.neurons.found_directions import FoundDirections
from pipeline.neurons.tables import CODES
from pipeline.telling import SILENT, Teller, several
from storage import ledger, urls
from storage.errors import FacetError
from storage.store import Store

JOB = "indirect"
INDIRECT = {
    "neurons": pa.schema({"layer": pa.int64(), "neuron": pa.int64(), "explained": pa.float64()}),
    "codes": CODES["codes"],
}
# Images of the sample: every neuron is set to its means in each of them.
IMAGES = 100
# Neurons of a task, images of a pass; and where finished tasks are kept until all are done.
BLOCK, BATCH, PARTS = 64, 25, "parts"


@dataclass(frozen=True, eq=False)
class Sample:
    """Pictures as the model takes them.

    Attributes
    ----------
    images : tuple of int
    pixels_bhwc : (B, height, width, 3) uint8
    """

    images: tuple[int, ...]
    pixels_bhwc: NDArray[np.uint8]


def sample_numbers(store: Store, count: int = IMAGES) -> list[int]:
    """Images that are ok, spread evenly over the store."""
    ok: list[int] = []
    for shard in sorted(store.done_shards()):
        known = ledger.read_part(store.data, shard)
        ok += np.asarray(known["index"])[np.asarray(known["ok"])].tolist()
    return [ok[i] for i in np.unique(np.linspace(0, len(ok) - 1, count).astype(int))] if ok else []


def load_sample(store: Store, numbers: Sequence[int], teller: Teller = SILENT) -> Sample:
    """The pictures of a sample; those that are not to be had any more are left out, and said.

    Raises
    ------
    FacetError
        If fewer than two are left.
    """
    resize = resize_of(store.meta)
    found: dict[int, NDArray[np.uint8]] = {}
    gone: list[str] = []
    with teller.bar("pictures of the sample", len(numbers)) as move:
        for done, number in enumerate(numbers, 1):
            try:
                found[number] = resize(load_again(store, number))
            except (BadImage, SourceUnavailable) as error:
                gone.append(f"image {number}: {error}")
            move(done)
    if gone:
        teller.say(
            f"{several(len(gone), 'image')} of {len(numbers)} not to be had as they were, and left "
            f"out: {gone[0]}"
        )
    if len(found) < 2:
        raise FacetError(
            "indirect effects are found by passing images through the model, and those of the store"
            f" are not to be had: {gone[0] if gone else 'it has none that are ok'}"
        )
    return Sample(tuple(found), np.stack(list(found.values())))


def find_directions(
    store: Store,
    model: VisionModel,
    mlp_layers: Sequence[int],
    sample: Sample,
    place: str,
    teller: Teller = SILENT,
) -> tuple[FoundDirections, pd.DataFrame]:
    """Directions of the indirect effects of all neurons of some layers.

    Parameters
    ----------
    store : Store
    model : VisionModel
        The store's own, on the CPU.
    mlp_layers : sequence of int
    sample : Sample
    place : str
        Where finished blocks of neurons are kept, below ``PARTS``; they are not done again.
    teller : Teller

    Returns
    -------
    FoundDirections
    DataFrame
        ``INDIRECT["neurons"]``; ``explained`` is the share of the effects' variance along them.
    """
    width, depth = model.neurons, model.trunk_layers + model.layers
    share = sum((depth - 1 - at) / depth for at in mlp_layers)
    passes = len(sample.images) * width * share  # whole ones, of parts of the model
    machines.settle(
        seconds_here(store.meta, model, int(passes), "auto"),
        f"{len(mlp_layers) * width:,} neurons over {several(len(sample.images), 'image')}",
        teller.say,
    )
    needs = Needs(1, int(machines.resources()["GPU"] >= 1))
    found: dict[int, NDArray[np.float32]] = {}
    tables = []
    for layer in mlp_layers:
        blocks = [(layer, first, min(first + BLOCK, width)) for first in range(0, width, BLOCK)]
        parts = [_part(place, *block) for block in blocks]
        kept = dict(zip(blocks, urls.read_each(parts), strict=True))
        todo = [block for block, data in kept.items() if data is None]
        with teller.bar(
            f"indirect effects of layer {layer}: neurons", width, "finished neurons are kept"
        ) as move:
            done = width - sum(stop - first for _, first, stop in todo)
            move(done)
            if todo:
                (means_tn,) = each(token_means, [layer], model, sample, needs=needs)
                new = each(block_directions, todo, model, sample, means_tn, needs=needs)
                for block, data in zip(todo, new, strict=True):
                    urls.put_bytes(_part(place, *block), data)
                    kept[block] = data
                    done += block[2] - block[1]
                    move(done)
        values = [_unpacked(data) for data in kept.values() if data is not None]
        found[layer] = np.concatenate([part["directions"] for part in values])
        explained = np.concatenate([part["explained"] for part in values])
        tables.append(
            pd.DataFrame({"layer": layer, "neuron": np.arange(width), "explained": explained})
        )
    return FoundDirections(found), pd.concat(tables, ignore_index=True)


def code_directions(
    directions: FoundDirections,
    texts_me: NDArray[np.float32],
    texts: Sequence[str],
    how: Mapping[int, tuple[Method, int]],
    teller: Teller = SILENT,
) -> pd.DataFrame:
    """Codes of every layer's neurons over a pool: ``INDIRECT["codes"]``.

    Parameters
    ----------
    texts_me : (M, E) float32
    texts : sequence of str
    how : mapping of int to (method, terms)
        Of each layer, as its codes of second-order effects were found.
    """
    tables = []
    for layer, (method, terms) in how.items():
        one = FoundDirections({layer: directions.by_layer[layer]})
        found = code(one, texts_me, method, terms, written=False, teller=teller)
        tables.append(code_table(found, one.alive, texts))
    return pd.concat(tables, ignore_index=True)


def token_means(model: VisionModel, sample: Sample, mlp_layer: int) -> NDArray[np.float64]:
    """Mean activation of every neuron at every token over the sample, (token, neuron)."""
    on = _placed(model)
    effects = IndirectEffects(on, mlp_layer)
    sums = [
        effects.activations(images_bchw).double().sum(0).cpu().numpy()
        for _, images_bchw in _batches(on, sample)
    ]
    return np.sum(sums, axis=0) / len(sample.images)


def block_directions(
    model: VisionModel,
    sample: Sample,
    means_tn: NDArray[np.float64],
    block: tuple[int, int, int],
) -> bytes:
    """Directions and explained shares of the neurons ``first … stop-1`` of a layer, packed.

    Effects are on the published scale, divided by the embedding's length, and less their mean.
    """
    layer, first, stop = block
    on = _placed(model)
    effects = IndirectEffects(on, layer)
    means = torch.from_numpy(np.array(means_tn)).to(on.device, torch.float32)
    parts = []
    for numbers_b, images_bchw in _batches(on, sample):
        found_bne, embedding_be = effects(images_bchw, means, range(first, stop))
        finite = finite_rows(found_bne) & finite_rows(embedding_be)
        refuse_pass(on, "indirect effects", images_bchw, numbers_b, finite)
        parts.append((found_bne / embedding_be.norm(dim=1)[:, None, None]).cpu())
    rows_nbe = torch.cat(parts).movedim(1, 0)
    found = first_directions(rows_nbe - rows_nbe.mean(1, keepdim=True))
    packed = io.BytesIO()
    np.savez(
        packed,
        directions=found.directions.numpy().astype(np.float32),
        explained=found.explained.numpy(),
    )
    return packed.getvalue()


def _placed(model: VisionModel) -> VisionModel:
    # No GPU is used that a task was not given: Ray hides it.
    return placed(model, "cuda" if torch.cuda.is_available() else "cpu", "fp32")


def _batches(model: VisionModel, sample: Sample) -> Any:
    for first in range(0, len(sample.images), BATCH):
        some = slice(first, first + BATCH)
        pixels = torch.from_numpy(np.array(sample.pixels_bhwc[some])).to(model.device)
        yield torch.tensor(sample.images[some]), model.preprocess.to_tensor(pixels)


def _part(place: str, layer: int, first: int, stop: int) -> str:
    return urls.join(place, PARTS, f"{layer}.{first}.{stop}.npz")


def _unpacked(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)
