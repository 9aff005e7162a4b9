"""Edits: their algebra against ablations and against a loop, and their files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.heads import ablation as ablate
from pipeline.heads.edits import (
    Edit,
    EditError,
    edit_at,
    edit_from,
    edited_embedding,
    read_edit,
    whole,
    write_edit,
)
from pipeline.models import ModelMaps
from pipeline.stats.reductions import reduce_store
from storage.errors import FacetError
from storage.images import read_images
from tests.pipeline.heads.direct import E, H, L, joint, make_maps, make_parts, reference_means

pytestmark = pytest.mark.usefixtures("here")


def by_loop(parts: ablate.StoredParts, edit: Edit, maps: ModelMaps) -> np.ndarray:
    """The formula, one part at a time."""
    own, norm = joint(parts, maps), np.linalg.norm(parts.embedding_be, axis=1)
    found = parts.embedding_be / norm[:, None] + edit.constant_e
    for at in np.ndindex(edit.heads_lh.shape):
        found -= (1 - edit.heads_lh[at]) * own["heads"][:, *at]
    for block, gain in enumerate(edit.blocks_s):
        found -= (1 - gain) * own["blocks"][:, block]
    for layer, gain in enumerate(edit.attention_bias_l):
        found -= (1 - gain) * own["attention_bias"][:, layer]
    return found


def gains_of(ablation: ablate.Ablation, means: ablate.Means, maps: ModelMaps) -> Edit:
    """An ablation by mean as an edit."""
    heads, blocks, bias = ~ablation.heads, ~ablation.blocks, ~ablation.attention_bias
    constant = np.einsum(
        "lh,lhk,lhke->e", ablation.heads.astype(float), means.heads_lhk, maps.head_map
    )
    constant += means.mlps_sd[ablation.blocks].sum(0) @ maps.mlp_map
    constant += means.inverse_scale * maps.attention_bias[ablation.attention_bias].sum(0)
    return Edit("x", "w", *(x.astype(float) for x in (heads, blocks, bias)), constant)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_an_edited_embedding_is_that_of_the_formula(seed: int, untouched: float) -> None:
    rng = np.random.default_rng(seed)
    maps = make_maps(rng)
    parts = make_parts(rng, maps, 7)
    gains = [
        np.where(rng.random(shape) < untouched, 1, rng.normal(size=shape))
        for shape in ((L, H), (L + 1,), (L,))
    ]
    edit = Edit("x", "w", *gains, rng.normal(size=E))
    np.testing.assert_allclose(
        edited_embedding(parts, edit, maps), by_loop(parts, edit, maps), atol=1e-12
    )


def test_to_ablate_by_mean_is_to_give_the_gain_0() -> None:
    rng = np.random.default_rng(3)
    maps = make_maps(rng)
    parts, means = make_parts(rng, maps, 9), reference_means(make_parts(rng, maps, 11))
    classes = rng.normal(size=(5, E))
    size = ablate.ModelSize(L, H)
    ablations = [
        size.ablation("heads", heads=[(0, 1), (2, 0)]),
        size.ablation("layers", layers=[1, 2]),
        size.ablation("all", layers=range(L), mlps=True, start=True),
        size.ablation("nothing"),
    ]
    _, *logits = ablate.logits(parts, means, ablate.Readout(maps, classes), ablations)
    for ablation, expected in zip(ablations, logits, strict=True):
        edited = edited_embedding(parts, gains_of(ablation, means, maps), maps)
        np.testing.assert_allclose(edited @ classes.T, expected, atol=1e-12, err_msg=ablation.name)
    assert not np.allclose(logits[0], logits[3])  # they differ


def test_an_edit_of_a_store_takes_its_means_from_a_subset(store) -> None:
    reductions = reduce_store(store, "colour == 'red'")
    edit = edit_from(store, reductions, "some", {(0, 1): 0.0, (1, 2): 0.25}, {1: 0.0}, {0: 0.0})
    maps = ModelMaps(*(np.asarray(store.model()[n].values, np.float64) for n in (
        "head_map", "mlp_map", "attention_bias", "bias")))  # fmt: skip
    data, images = store.contributions(), read_images(store.url)
    red = np.array(images["colour"].to_pylist()) == "red"
    rows = np.flatnonzero(red & np.isfinite(data["ln_std"].values))
    parts = ablate.StoredParts(*(
        np.asarray(data[name].values, np.float64)[rows]
        for name in ("heads", "mlps", "embedding", "ln_std")
    ))  # fmt: skip
    # Over the images of the means, what is taken away on average is what is put in its place.
    before = (parts.embedding_be / parts.norm_b[:, None]).mean(0)
    np.testing.assert_allclose(edited_embedding(parts, edit, maps).mean(0), before, atol=1e-6)
    assert edit.means == f"{len(rows)} images of {store.url} where colour == 'red'"
    assert edit.weights == store.meta.weights_digest
    with pytest.raises(EditError, match=r"part 0\.3 of an edit does not exist"):
        edit_from(store, reductions, "x", {(0, 3): 0.0})
    with pytest.raises(EditError, match="NaN or infinity"):
        edit_from(store, reductions, "x", {(0, 0): np.nan})


def an_edit(weights: str = "w") -> Edit:
    rng = np.random.default_rng(0)
    return Edit(
        "background heads, löst", weights, whole({(1, 2): 0.1 + 0.2, (0, 0): 0.0}, (2, 3)),
        whole({0: 0.0}, (3,)), whole({1: -1.5}, (2,)), rng.normal(size=5), "30 images",
    )  # fmt: skip


def test_a_file_gives_back_every_number(store, tmp_path) -> None:
    edit, file = an_edit(store.meta.weights_digest), tmp_path / "edit.json"
    file.write_bytes(write_edit(edit))
    found = read_edit(str(file), store)
    for name in ("heads_lh", "blocks_s", "attention_bias_l", "constant_e"):
        np.testing.assert_array_equal(getattr(found, name), getattr(edit, name))
    assert (found.name, found.means) == (edit.name, edit.means)
    kept = json.loads(file.read_text())
    assert kept["head_gains"] == {"0.0": 0.0, "1.2": 0.1 + 0.2}
    assert kept["block_gains"] == {"0": 0.0}
    assert kept["attention_bias_gains"] == {"1": -1.5}


def test_what_is_no_edit_of_this_store_is_refused(store, tmp_path) -> None:
    file = tmp_path / "edit.json"
    kept = json.loads(write_edit(an_edit()))

    def refused(message: str, **changes: object) -> None:
        file.write_text(json.dumps(kept | changes))
        with pytest.raises(EditError, match=message):
            edit_at(str(file))

    refused("is an edit of version 7; this Facet reads version 1", facet_edit=7)
    refused(r"part 2\.0 of an edit does not exist", head_gains={"2.0": 0.5})
    refused("does not exist", head_gains={"1": 0.5})
    refused("does not hold together", head_gains={"a": 0.5})
    refused("does not hold together", block_gains={"1": "much"})
    refused("does not hold together", constant="AAAA")
    refused("constant_e holds NaN", constant=[float("nan")] * 5)
    refused("constant_e has shape", constant=[[1.0] * 5])
    refused("blocks_s holds NaN", block_gains={"1": float("inf")})
    refused("does not hold together", head_gains=[1.0])
    refused("does not hold together", layers=10**9, heads=10**9)
    del kept["name"]
    file.write_text(json.dumps(kept))
    with pytest.raises(FacetError, match="lacks name"):
        edit_at(str(file))
    file.write_text("[1]")
    with pytest.raises(EditError, match="is no edit: it has no 'facet_edit'"):
        edit_at(str(file))
    file.write_bytes(b"\x89PNG\xff")
    with pytest.raises(EditError, match="cannot be read as JSON"):
        edit_at(str(file))
    with pytest.raises(EditError, match="there is no edit at"):
        edit_at(str(tmp_path / "none.json"))
    file.write_bytes(write_edit(an_edit("0123456789abcdef")))
    with pytest.raises(EditError, match="löst' is of weights 0123456789ab, and the store at"):
        read_edit(str(file), store)
    meta = store.meta
    fitting = an_edit(meta.weights_digest)
    for changes in (
        {"constant_e": np.zeros(1)},
        {"heads_lh": np.ones((meta.layers, meta.heads + 1))},
    ):
        file.write_bytes(write_edit(replace(fitting, **changes)))
        with pytest.raises(EditError, match="axes, and the store at"):
            read_edit(str(file), store)


def test_arrays_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(EditError, match=r"blocks_s has shape \(2,\), not \(3,\)"):
        replace(an_edit(), blocks_s=np.ones(2))
