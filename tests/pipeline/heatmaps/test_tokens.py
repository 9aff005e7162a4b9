"""Maps over heads and tokens, against contributions written out one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.extraction.decompose import Decomposer
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.plain import PlainMaps
from pipeline.heatmaps.scores import relevance, score
from pipeline.heatmaps.tokens import TokenMaps, stored_shares
from pipeline.models import ModelSpec, load_model, mean_maps, model_maps
from pipeline.published import equal_share, head_contributions
from tests.pipeline.heatmaps.plain_kit import every_head, shapes, shares_of, unit_rows
from tests.pipeline.neurons.forward_kit import TINY, perturbed, random_images

EXACT = {"rtol": 1e-9, "atol": 1e-10}
CONVENTIONS = ["centred", "equal-share"]


@settings(max_examples=25)
@given(
    config=shapes(), seed=st.integers(0, 1000), convention=st.sampled_from(CONVENTIONS),
    data=st.data(),
)  # fmt: skip
def test_tokens_and_the_rest_are_the_logit(tmp_path_factory, config, seed, convention, data):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    layers = sorted(data.draw(st.sets(st.integers(0, model.layers - 1), min_size=1)))
    every = every_head(model, layers)
    heads = data.draw(st.none() | st.sets(st.sampled_from(every), min_size=1))
    images = random_images(model, seed, 2)
    directions = unit_rows(6, model.embed_dim, seed).reshape(2, 3, -1)
    found = TokenMaps(model, layers, heads, convention)(images, directions)
    with torch.inference_mode():
        embedding = model.module.encode_image(images)
    embedding = embedding / embedding.norm(dim=1, keepdim=True)
    logit = (directions @ embedding.unsqueeze(-1)).squeeze(-1)
    total = found.maps_bclht.sum((2, 3, 4)) + sum(found.rest.values())
    np.testing.assert_allclose(total, logit, **EXACT)
    np.testing.assert_allclose(found.logit_bc, logit, **EXACT)
    total = found.patches_bcyx.sum((2, 3)) + sum(found.left_out.values())
    np.testing.assert_allclose(total, logit, **EXACT)
    chosen = every if heads is None else heads
    assert ("heads not chosen" in found.rest) == (len(chosen) < len(every))
    assert ("other layers" in found.rest) == (len(layers) < model.layers)
    for b, image in enumerate(images):
        shares = shares_of(model, image, convention) @ directions[b].T
        for at, layer in enumerate(layers):
            for head in range(model.heads):
                wanted = shares[layer, head].T if (layer, head) in chosen else 0
                np.testing.assert_allclose(found.maps_bclht[b, :, at, head], wanted, **EXACT)
        wanted = sum(shares[layer, head] for layer, head in chosen)[model.prefix :]
        wanted = wanted.T.reshape(3, *model.grid)
        np.testing.assert_allclose(found.patches_bcyx[b], wanted, **EXACT)


@settings(max_examples=10)
@given(config=shapes(), seed=st.integers(0, 1000))
def test_maps_of_a_head_are_its_contribution(tmp_path_factory, config, seed):
    """Joint maps of head and token, against what the store's readers make of a head, an MLP."""
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    images, layers = random_images(model, seed, 2), range(model.layers)
    directions = unit_rows(2, model.embed_dim, seed)[:, None]
    parts, maps = Decomposer(model)(images), model_maps(model)
    u, mlps, std = (t.numpy() for t in (parts.heads_blhk, parts.mlps_bsd, parts.ln_std_b))
    norm = parts.embedding_be.norm(dim=1).numpy()

    def along(contributions):
        rows = contributions.reshape(2, -1, model.embed_dim) @ directions.numpy().mT
        return rows.reshape(contributions.shape[:-1]) / norm.reshape(2, *(1,) * (u.ndim - 3))

    centred = TokenMaps(model, layers)(images, directions)
    heads = along(head_contributions(u, maps.head_map, std).sum(1))
    np.testing.assert_allclose(centred.maps_bclht[:, 0].sum((1, 3)), heads, **EXACT)
    heads, blocks = equal_share(u, mlps, std, maps, mean_maps(model))
    shared = TokenMaps(model, layers, None, "equal-share")(images, directions)
    np.testing.assert_allclose(shared.maps_bclht[:, 0].sum((1, 3)), along(heads.sum(1)), **EXACT)
    blocks = along(blocks)
    np.testing.assert_allclose(shared.rest["start"][:, 0], blocks[:, 0], **EXACT)
    np.testing.assert_allclose(shared.rest["MLPs"][:, 0], blocks[:, 1:].sum(1), **EXACT)


def test_maps_from_what_a_store_keeps(tmp_path):
    model = perturbed(TINY, tmp_path, 3)
    images = random_images(model, 3, 3)
    directions = unit_rows(6, model.embed_dim, 3).reshape(3, 2, -1)
    parts = Decomposer(model, ("tokens",), (1, 3))(images)
    kept = stored_shares(
        parts.tokens_bte.numpy(), parts.embedding_be.numpy(), directions, model.prefix, model.grid
    )
    run = TokenMaps(model, (1, 3))(images, directions)
    np.testing.assert_allclose(kept.patches_bcyx, run.patches_bcyx, **EXACT)
    np.testing.assert_allclose(kept.logit_bc, run.logit_bc, **EXACT)
    classes = (found.left_out["class token"] for found in (kept, run))
    np.testing.assert_allclose(*classes, **EXACT)
    total = kept.patches_bcyx.sum((2, 3)) + sum(kept.left_out.values())
    np.testing.assert_allclose(total, run.logit_bc, **EXACT)


def test_registers_are_no_part_of_the_picture():
    tokens = np.arange(1.0, 9.0).reshape(1, 8, 1)
    found = stored_shares(tokens, [[2.0]], torch.ones(1, 1, 1), 2, (2, 3))
    assert found.patches_bcyx.tolist() == [[[[1.5, 2.0, 2.5], [3.0, 3.5, 4.0]]]]
    assert {name: share.item() for name, share in found.left_out.items()} == {
        "class token": 0.5, "registers": 1.0, "other layers, MLPs and constants": 1.0 - 18.0
    }  # fmt: skip


def test_the_published_heat(shared, tmp_path):
    """golden/segmentation.npz: outputs of the published protocol on 6 images, from the model on."""
    golden = np.load(shared / "golden" / "segmentation.npz")
    state = np.load(shared / "golden" / "small_state.npz")
    save_file({k: torch.from_numpy(v.copy()) for k, v in state.items()}, tmp_path / "w.safetensors")
    (tmp_path / "small.json").write_text((shared / "golden" / "small_config.json").read_text())
    spec = ModelSpec(str(tmp_path / "small.json"), str(tmp_path / "w.safetensors"))
    model = load_model(spec, dtype=torch.float64)
    images = torch.from_numpy(np.load(shared / "golden" / "images24.npz")["images"][:6]).double()
    texts_ce = torch.from_numpy(golden["classifier"]).T
    with torch.inference_mode():
        chosen = (model.module.encode_image(images) @ texts_ce.T).argmax(1)
    assert chosen.tolist() == golden["chosen"].tolist()
    heads = {"all": every_head(model)}
    run = PlainMaps(model, ["tokens"], heads, convention="equal-share")
    found = run(images, Asked(chosen, texts_ce, torch.arange(6)))
    np.testing.assert_allclose(found["tokens all"], golden["heat"], rtol=1e-6, atol=1e-9)
    shown = relevance(found["tokens all"], golden["masks"].shape[1:], clipped=True)
    np.testing.assert_allclose(shown, golden["relevance"], atol=1e-6)
    scored = score(shown, torch.from_numpy(golden["masks"]))
    iou = (scored.intersection_bc.sum(0) / scored.union_bc.sum(0)).numpy()
    accuracy = float(scored.correct_b.sum() / scored.counted_b.sum())
    assert accuracy == pytest.approx(float(golden["pixel_accuracy"]), abs=1e-6)
    np.testing.assert_allclose([*iou, iou.mean()], [*golden["iou"], golden["miou"]], atol=1e-6)
    # Rounding alone tells pixels at a picture's border from each other, here otherwise than there.
    assert float(scored.average_precision_b.mean()) == pytest.approx(float(golden["map"]), abs=5e-4)
    maps = [
        score(r.float(), torch.from_numpy(golden["masks"])).average_precision_b.mean()
        for r in (shown, torch.from_numpy(golden["relevance"]))
    ]
    assert float(maps[0]) == pytest.approx(float(maps[1]), abs=1e-6)


def test_heads_that_are_not_there_are_refused(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    with pytest.raises(ValueError, match=r"head 4\.0 does not exist: .* layers 0 to 3 with heads"):
        TokenMaps(model, [4])
    with pytest.raises(ValueError, match=r"heads \[\(2, 0\)\] are of none of the layers \[1\]"):
        TokenMaps(model, [1], [(1, 0), (2, 0)])
    with pytest.raises(ValueError, match="no heads chosen"):
        TokenMaps(model, [])
