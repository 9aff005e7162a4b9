"""Maps over heads and tokens, against contributions written out one by one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.extraction.decompose import Decomposer
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.parts import picture_rows, write_part
from pipeline.heatmaps.plain import PlainMaps
from pipeline.heatmaps.scores import relevance, score
from pipeline.heatmaps.split import split_of
from pipeline.heatmaps.summary import summary
from pipeline.heatmaps.tokens import TokenMaps
from pipeline.models import ModelSpec, load_model, mean_maps, model_maps
from pipeline.published import equal_share, head_contributions
from tests.pipeline.heatmaps.plain_kit import every_head, shapes, shares_of, unit_rows
from tests.pipeline.heatmaps.plain_protocol import plain_figures, plain_relevance, plain_score
from tests.pipeline.heatmaps.plain_vit import embed, forward
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
    images = random_images(model, seed, 2)
    directions = unit_rows(6, model.embed_dim, seed).reshape(2, 3, -1)
    found = TokenMaps(model, layers, convention)(images, directions)
    with torch.inference_mode():
        embedding = model.module.encode_image(images)
    embedding = embedding / embedding.norm(dim=1, keepdim=True)
    logit = (directions @ embedding.unsqueeze(-1)).squeeze(-1)
    total = found.maps_bclht.sum((2, 3, 4)) + sum(found.rest.values())
    np.testing.assert_allclose(total, logit, **EXACT)
    np.testing.assert_allclose(found.logit_bc, logit, **EXACT)
    assert ("other layers" in found.rest) == (len(layers) < model.layers)
    for b, image in enumerate(images):
        shares = shares_of(model, image, convention) @ directions[b].T
        wanted = shares[layers].permute(3, 0, 1, 2)
        np.testing.assert_allclose(found.maps_bclht[b], wanted, **EXACT)


@settings(max_examples=15)
@given(
    config=shapes(), seed=st.integers(0, 1000), convention=st.sampled_from(CONVENTIONS),
    registers=st.booleans(), data=st.data(),
)  # fmt: skip
def test_any_heads_and_what_they_leave_out(
    tmp_path_factory, config, seed, convention, registers, data
):
    model = perturbed(config, tmp_path_factory.mktemp("model"), seed)
    rows, columns = model.grid
    if registers and rows > 1:  # were the first row of patches none of the picture
        model = replace(model, prefix=1 + columns, grid=(rows - 1, columns))
    layers = sorted(data.draw(st.sets(st.integers(0, model.layers - 1), min_size=1)))
    heads = data.draw(st.sets(st.sampled_from(every_head(model, layers)), min_size=1))
    (image,) = images = random_images(model, seed, 1)
    directions = unit_rows(2, model.embed_dim, seed)
    found = TokenMaps(model, layers, convention)(images, directions[None])
    split = split_of(found, layers, heads)
    shares = shares_of(model, image, convention) @ directions.T
    tokens = sum(shares[at] for at in heads).numpy()
    patches = tokens[model.prefix :].T.reshape(2, *model.grid)
    np.testing.assert_allclose(split.patches_mrc, patches, **EXACT)
    np.testing.assert_allclose(split.rest["class_token"], tokens[0], **EXACT)
    np.testing.assert_allclose(split.rest["registers"], tokens[1 : model.prefix].sum(0), **EXACT)
    np.testing.assert_allclose(split.residual_m, 0, atol=1e-10)


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
    shared = TokenMaps(model, layers, "equal-share")(images, directions)
    np.testing.assert_allclose(shared.maps_bclht[:, 0].sum((1, 3)), along(heads.sum(1)), **EXACT)
    blocks = along(blocks)
    np.testing.assert_allclose(shared.rest["start"][:, 0], blocks[:, 0], **EXACT)
    np.testing.assert_allclose(shared.rest["MLPs"][:, 0], blocks[:, 1:].sum(1), **EXACT)


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


@pytest.mark.parametrize("quick", [True, False])
def test_the_published_protocol_from_the_model_to_its_figures(tmp_path, quick):
    """What the numbers above are, where they are not to be had: loops all the way, side by side."""
    model = perturbed({**TINY, "quick_gelu": quick}, tmp_path, 1)
    images, texts_ce, size = random_images(model, 1, 5), unit_rows(4, model.embed_dim, 1), (18, 18)
    masks = np.random.default_rng(1).choice(np.array([0, 0, 1, 255], np.uint8), (5, *size))
    chosen, plain = [], []
    for image, mask in zip(images, masks, strict=True):
        own = embed(model.visual, forward(model, image).streams[-1][0])
        chosen.append(int((texts_ce @ own).argmax()))
        wrote_te = shares_of(model, image, "equal-share").sum((0, 1))[model.prefix :]
        along_ct = [wrote_te @ text for text in texts_ce]
        heat = along_ct[chosen[-1]] - sum(along_ct) / len(along_ct)
        shown = plain_relevance(heat.reshape(model.grid).numpy(), size, True)
        # In float32 equal pixels beyond the outermost patches are equal: rounding orders nothing.
        plain.append(plain_score(shown.astype(np.float32), mask, None))
    run = PlainMaps(model, ["tokens"], {"all": every_head(model)}, convention="equal-share")
    found = run(images, Asked(torch.tensor(chosen), texts_ce, torch.arange(5)))["tokens all"]
    scored = score(relevance(found, size, True).float(), torch.from_numpy(masks))
    names, part = [str(i) for i in range(5)], str(tmp_path / "part.parquet")
    write_part(part, [picture_rows(np.arange(5), names, names, "tokens all", "published", scored)])
    (row,) = summary([part], ["tokens all"], ["published"], 2)["methods"].to_dict("records")
    wanted = plain_figures(plain)
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_layers_that_are_not_there_are_refused(tmp_path):
    model = perturbed(TINY, tmp_path, 0, torch.float32)
    with pytest.raises(ValueError, match=r"layers \[4\] do not exist: .* has layers 0 to 3"):
        TokenMaps(model, [1, 4])
    with pytest.raises(ValueError, match="no layers chosen"):
        TokenMaps(model, [])
