"""Every family goes the whole way, and is held to its library's own numbers on the way."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.heads import ablation as ablate
from pipeline.heads.describe import describe_heads
from pipeline.heads.parts import part_arrays
from pipeline.heads.studies import maps_of
from pipeline.heatmaps.asked import Asked
from pipeline.heatmaps.choices import refuse_reading
from pipeline.heatmaps.erasure import Erasure
from pipeline.heatmaps.gradients import GradientMaps
from pipeline.heatmaps.plain import PlainMaps
from pipeline.heatmaps.relevance import RelevanceMaps
from pipeline.heatmaps.tokens import TokenMaps
from pipeline.models import UnsupportedModel, load_model, model_maps
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from pipeline.search import build
from pipeline.search.choices import Space
from pipeline.search.coordinates import Coordinates
from pipeline.search.scan import Queries, nearest
from pipeline.search.vectors import image_vectors
from storage.errors import FacetError
from tests.families.conftest import BAD, PICTURES, Made
from tests.refusals import refused

EXACT = {"rtol": 1e-9, "atol": 1e-9}
# Of a store, which holds float32.
STORED = {"rtol": 1e-4, "atol": 2e-4}


def test_it_is_as_its_configuration_says(made: Made):
    model, member = made.model, made.member
    assert model.family == member.family
    assert (model.reading, model.grid, model.prefix) == (member.reading, member.grid, member.prefix)
    _, layers, heads, head_dim = made.golden.u_blhk.shape
    assert (model.layers, model.heads, model.head_dim if heads else 1) == (layers, heads, head_dim)
    assert (model.width, model.embed_dim) == made.golden.mlp_map_de.shape


def test_neurons_and_channels_of_a_pool_sum_to_what_they_tell_apart(made: Made):
    model, golden = made.model, made.golden
    parts = Decomposer(model, model.refined)(made.images)
    maps, (block, *_) = model_maps(model), model.tower().blocks
    if "channels" in model.refined:
        assert maps.channel_map is not None
        channels_bhk = torch.einsum(
            "bhc,hck->bhk", parts.channels_bhc, torch.from_numpy(maps.channel_map)
        )
        for head in range(model.heads):  # and the first row, which no pixel wrote
            wanted = golden.u_blhk[:, 0, head] - golden.values(0, head)[:, 0]
            torch.testing.assert_close(channels_bhk[:, head], wanted, **EXACT)
    if "pool_neurons" in model.refined:
        assert maps.pool_neuron_map is not None
        bias_e = torch.from_numpy(block.weights.down_bias_d @ maps.mlp_map)
        written_be = parts.pool_neurons_bn @ torch.from_numpy(maps.pool_neuron_map) + bias_e
        wanted = golden.mlps_bse[:, 1] * golden.std_b[:, None]
        torch.testing.assert_close(written_be, wanted, **EXACT)
    mlp = model.reading == "attention-pool" and bool(golden.rows_bsd[:, 1].any())
    told = {"channels": made.member.family == "clip-resnet", "pool_neurons": mlp}
    assert set(model.refined) == {name for name, there in told.items() if there}


def direct(made: Made) -> tuple[str, ...]:
    """The components that sum to the output."""
    return ("heads", "mlps") if made.model.heads else ("mlps",)


def test_its_parts_sum_to_the_librarys_output(made: Made):
    parts = Decomposer(made.model, direct(made))(made.images)
    np.testing.assert_allclose(parts.embedding_be, made.golden.output_be, **EXACT)
    assert float(parts.residual_b.max()) < 1e-10
    single = Decomposer(load_model(made.spec), direct(made))(made.images.float())
    assert float(single.residual_b.max()) < 1e-5
    np.testing.assert_allclose(single.embedding_be, made.golden.output_be, **STORED)


def test_every_head_and_mlp_is_that_of_the_hooks(made: Made):
    parts, wanted = Decomposer(made.model, direct(made))(made.images), made.golden
    np.testing.assert_allclose(parts.ln_std_b, wanted.std_b, **EXACT)
    np.testing.assert_allclose(parts.mlps_bsd, wanted.rows_bsd, **EXACT)
    maps = model_maps(made.model)
    np.testing.assert_allclose(maps.mlp_map, wanted.mlp_map_de, **EXACT)
    fixed = maps.attention_bias.sum(0)
    if made.model.varying_bias:
        np.testing.assert_allclose(parts.bias_weights_bl, wanted.weights_bl, **EXACT)
        np.testing.assert_allclose(maps.bias_map, wanted.constants_le, **EXACT)
        np.testing.assert_allclose(fixed, wanted.fixed_le.sum(0), **EXACT)
    else:
        assert parts.bias_weights_bl is None
        np.testing.assert_allclose(
            fixed, wanted.constants_le.sum(0) + wanted.fixed_le.sum(0), **EXACT
        )
    np.testing.assert_allclose(maps.bias, wanted.bias_e, **EXACT)
    if made.model.heads:
        np.testing.assert_allclose(parts.heads_blhk, wanted.u_blhk, **EXACT)
        np.testing.assert_allclose(maps.head_map, wanted.head_map_lhke, **EXACT)


def test_every_token_is_that_of_loops(made: Made):
    if not made.model.heads:
        pytest.skip("it has no heads")
    model, wanted = made.model, made.golden
    parts = Decomposer(model, ("tokens",), range(model.layers))(made.images)
    np.testing.assert_allclose(parts.tokens_bte, wanted.tokens_bte(), **EXACT)
    tower = model.tower()
    x_btd = tower.enter(made.images)
    for layer, block in enumerate(tower.blocks):
        attention = block.attention(x_btd)
        values = attention.weighted_values().unflatten(-1, (model.heads, model.head_dim))
        head = layer % model.heads
        np.testing.assert_allclose(values[:, :, head], wanted.values(layer, head), **EXACT)
        x_btd = block.rest(x_btd, attention)[0]


def test_a_store_of_it_holds_what_the_library_gives(made: Made):
    store, wanted = made.store, made.shown
    assert store.validate() == []
    assert (store.meta.reading, store.meta.prefix) == (made.member.reading, made.member.prefix)
    data = store.contributions().load()
    ok = np.isfinite(data["ln_std"].values)
    assert np.flatnonzero(~ok).tolist() == [BAD]
    assert float(data["residual"].max()) < 1e-5
    for name, values in (("embedding", wanted.output_be), ("mlps", wanted.rows_bsd)):
        np.testing.assert_allclose(data[name].values[ok], values, **STORED)
    if made.model.heads:
        np.testing.assert_allclose(data["heads"].values[ok], wanted.u_blhk, **STORED)


def of_unit(made: Made) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the store's pictures, one long, and their lengths."""
    embedding = made.shown.output_be.numpy()
    norm = np.linalg.norm(embedding, axis=1)
    return embedding / norm[:, None], norm


def directions(made: Made, count: int) -> np.ndarray:
    """In place of texts, which not every model has."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(count, made.model.embed_dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_reductions_are_those_of_the_librarys_terms(made: Made):
    _, norm = of_unit(made)
    found = made.reductions
    assert found.count(direct(made)[0]) == PICTURES - 1
    if made.model.heads:
        u = (made.shown.u_blhk / made.shown.std_b[:, None, None, None]).numpy()
        u = u / norm[:, None, None, None]
        np.testing.assert_allclose(found.array("heads_mean"), u.mean(0), **STORED)
    rows = (made.shown.rows_bsd / made.shown.std_b[:, None, None]).numpy() / norm[:, None, None]
    np.testing.assert_allclose(found.array("mlps_mean"), rows.mean(0), **STORED)


def test_heads_are_described(made: Made):
    if not made.model.heads:
        pytest.skip("it has no heads")
    texts = directions(made, 30)
    last = made.model.layers - 1
    heads = [(last, head) for head in range(made.model.heads)]
    found = describe_heads(made.store, made.reductions, heads, texts, 2)
    _, norm = of_unit(made)
    written = made.shown.heads_blhe.numpy() / norm[:, None, None, None]
    for row, (layer, head) in enumerate(heads):
        # The first text: that along which, within its own span, the head varies most.
        own = written[:, layer, head] - written[:, layer, head].mean(0)
        axes = np.linalg.svd(own, full_matrices=False)[2][: min(len(own) - 1, made.model.head_dim)]
        variance = ((own @ axes.T) @ (texts @ axes.T).T).var(0)
        assert variance[found.picks[row, 0]] == pytest.approx(variance.max(), rel=1e-3)
        assert found.scores[row, 0] == pytest.approx(variance.max(), rel=1e-2)


def test_what_happens_without_a_head_and_without_an_mlp(made: Made):
    store, unit = made.store, of_unit(made)[0]
    data = store.contributions().load().isel(image=slice(0, PICTURES - 1))
    classes = directions(made, 4)
    size = ablate.ModelSize(store.meta.layers, store.meta.heads)
    arrays = {name: data[name].values for name in part_arrays(store.meta)}
    parts = ablate.StoredParts.of(arrays)
    readout, means = ablate.Readout(maps_of(store), classes), ablate.reduced_means(made.reductions)
    last = store.meta.layers - 1
    _, norm = of_unit(made)
    asked, wanted = [size.ablation("an MLP", mlps=True)], []
    mlps = made.shown.mlps_bse.numpy()[:, 1:] / norm[:, None, None]
    wanted.append((mlps - mlps.mean(0)).sum(1))
    if made.model.heads:
        asked.append(size.ablation("a head", heads=[(last, 0)]))
        head = made.shown.heads_blhe.numpy()[:, last, 0] / norm[:, None]
        wanted.append(head - head.mean(0))
        # An attention layer, with its constants, which may count differently for every image.
        asked.append(size.ablation("a layer", layers=[last]))
        shown = made.shown
        constants = shown.weights_bl[:, -1:] * shown.constants_le[-1] + shown.fixed_le[-1]
        written = shown.heads_blhe[:, last].sum(1) + constants / shown.std_b[:, None]
        layer = written.numpy() / norm[:, None]
        wanted.append(layer - layer.mean(0))
    base, *after = ablate.logits(parts, means, readout, asked)
    np.testing.assert_allclose(base, unit @ classes.T, **STORED)
    for logits, taken in zip(after, wanted, strict=True):
        np.testing.assert_allclose(base - logits, taken @ classes.T, **STORED)


def test_a_heat_map_is_what_a_head_writes_from_every_token(made: Made):
    if not made.model.heads:
        pytest.skip("it has no heads")
    model, wanted = made.model, made.golden
    last = model.layers - 1
    along = torch.from_numpy(directions(made, 2)).expand(2, -1, -1)
    found = TokenMaps(model, [last])(made.images, along)
    norm = wanted.output_be.norm(dim=1)
    for head in range(model.heads):
        written = wanted.values(last, head) @ wanted.head_map_lhke[last, head]
        written = written / (wanted.std_b * norm)[:, None, None]
        shares = torch.einsum("bte,bce->bct", written, along)
        np.testing.assert_allclose(found.maps_bclht[:, :, 0, head], shares, **EXACT)
    total = found.maps_bclht.sum((2, 3, 4)) + sum(found.rest.values())
    np.testing.assert_allclose(total, found.logit_bc, **EXACT)


# Whose blocks relevance has rules for: one LayerNorm, one attention, one activation.
PLAIN_BLOCKS = (
    "openclip", "openclip-layerscale", "coca-class-token", "timm-clip", "timm-clip-projection",
    "mobileclip-b", "eva01", "supervised", "deit3", "dino", "dinov2", "dinov2-registers",
)  # fmt: skip
# Whose attention has biases by place, or rotations, or norms of queries.
PLACED = (
    "openclip-custom", "relative-positions", "eva02", "dinov3", "dinov3-swiglu", "rope-mixed",
    "sapiens2",
)  # fmt: skip
GRADED, RELEVANT = ("gradcam", "gradient-attention", "legrad"), ("lrp", "partial-lrp")


def test_maps_that_follow_the_class_token_are_drawn_for_models_read_there_alone(made: Made):
    model, read_there = made.model, made.member.reading == "class-token"
    if not model.heads:
        with refused(FacetError, "maps of tokens, rollout come from attention.*no attention"):
            refuse_reading(made.store.meta, ["tokens", "rollout", "random"])
        return
    texts = torch.from_numpy(directions(made, 3))
    asked = Asked(torch.arange(2), texts, torch.arange(2))
    found = PlainMaps(model, ["raw-attention"])(made.images, asked)["raw-attention"]
    shown = made.golden.last_pattern_bht.mean(1)[:, model.prefix :].unflatten(1, model.grid)
    np.testing.assert_allclose(found, shown, **EXACT)
    makers: dict[tuple[str, ...], Any] = {
        ("rollout",): PlainMaps,
        GRADED: GradientMaps,
        RELEVANT: RelevanceMaps,
    }
    for methods, maker in makers.items():
        if not read_there:
            with refused(UnsupportedModel, r"class token.*, and .* read\b"):
                maker(model, methods)
        elif maker is not RelevanceMaps or made.name in PLAIN_BLOCKS:
            maps = maker(model, methods)(made.images, asked)
            assert set(maps) == set(methods)
            assert all(m.shape[1:] == model.grid and torch.isfinite(m).all() for m in maps.values())
        else:
            with refused(UnsupportedModel, "relevance is handed back through (plain|norms before)"):
                maker(model, methods)


def test_patches_are_left_out_where_attention_knows_nothing_of_places(made: Made):
    if made.member.reading != "class-token":
        with refused(UnsupportedModel, r"class token.*, and .* read\b"):
            Erasure(made.model, 2)
    elif made.name in PLACED:
        with refused(UnsupportedModel, "knows of each where it stands"):
            Erasure(made.model, 2)
    else:
        Erasure(made.model, 2)


def test_the_nearest_images_are_those_nearest_in_what_it_writes(made: Made):
    store, heads = made.store, ((made.model.layers - 1, 0),) if made.model.heads else ()
    space = Space(heads, () if heads else (1,), True)
    build.build(store, space)
    vectors = image_vectors(store, Coordinates.of(store, space), [2])
    found = nearest(
        store, space, Queries(vectors, np.array([False])), metric="cosine", top=4, centred=False
    )
    unit, norm = of_unit(made)
    part = made.shown.heads_blhe[:, -1, 0] if heads else made.shown.mlps_bse[:, 1]
    rows = np.concatenate([part.numpy() / norm[:, None], unit], 1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows[2]
    order = np.argsort(-scores)[:4]
    # Vectors are kept in float16, so what lies within that may change places.
    np.testing.assert_allclose(scores[found.rows_qk[0]], scores[order], atol=5e-3)
    np.testing.assert_allclose(found.scores_qk[0], scores[order], atol=5e-3)  # kept in float16


def test_second_order_effects_are_what_later_heads_make_of_neurons(made: Made):
    assert made.model.second_order_layers == made.golden.second_order_layers
    if made.golden.second_order is None:
        with pytest.raises(FacetError, match="this model has none|attention pool are convolutions"):
            NeuronPass(made.model, [0])
        return
    layers = range(made.model.second_order_layers)
    run = NeuronPass(made.model, list(layers), ("coefficients", "totals", "peaks"))
    parts, reads = run(made.images), run.tokens(made.images)
    torch.testing.assert_close(parts.embedding_be, made.golden.output_be, **EXACT)
    for layer in layers:
        torch.testing.assert_close(reads.coefficients(layer), parts.coefficients[layer], **EXACT)
        fires_btn = run.token_maps(made.images, layer, range(made.model.neurons))
        torch.testing.assert_close(reads.hidden[layer], fires_btn, **EXACT)
        peaks_bn = fires_btn[:, made.model.prefix :].amax(1)
        torch.testing.assert_close(parts.peaks[layer], peaks_bn, **EXACT)
        wanted = made.golden.second_order(layer)
        np.testing.assert_allclose(parts.totals[layer], wanted, **EXACT)
        maps = second_order_maps(made.model, layer, torch.float64)
        total = maps.total(parts.coefficients[layer]) / parts.ln_std_b[:, None]
        np.testing.assert_allclose(total, wanted, **EXACT)


def test_a_map_of_neurons_is_the_mean_of_those_that_point_most_along_a_text(made: Made):
    model, images = made.model, made.images
    layers = range(model.second_order_layers)
    if not layers:
        return
    rng = np.random.default_rng(2)
    rows = {at: rng.normal(size=(model.neurons, model.embed_dim)) for at in layers}
    texts = torch.from_numpy(directions(made, 2))
    asked = Asked(torch.arange(2), texts, torch.arange(2))
    found = PlainMaps(model, ["neurons", "raw-attention"], directions=rows)(images, asked)
    run = NeuronPass(model, [0])
    fires = [run.token_maps(images, at, range(model.neurons)) for at in layers]
    patches_bpn = torch.cat(fires, -1)[:, model.prefix :]
    along_bn = np.abs(texts.numpy() @ np.concatenate(list(rows.values())).T)
    for b, chosen in enumerate(np.argsort(-along_bn, axis=1)[:, :200]):
        wanted = patches_bpn[b, :, chosen.copy()].mean(-1).unflatten(0, model.grid)
        torch.testing.assert_close(found["neurons"][b], wanted, **EXACT)
    alone = PlainMaps(model, ["raw-attention"])(images, asked)["raw-attention"]
    torch.testing.assert_close(found["raw-attention"], alone, **EXACT)
