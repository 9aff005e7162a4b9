"""What is told of an embedding sums to it whatever a tail reads, and goes the whole way."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from jobs import second_order, show
from pipeline.cluster.work import Workers
from pipeline.extraction.decompose import Decomposer
from pipeline.extraction.plan import parse_layers
from pipeline.extraction.run import run
from pipeline.extraction.spec import StoreSpec
from pipeline.extraction.store import open_or_create
from pipeline.heads import ablation as ablate
from pipeline.heads.choices import refuse_studies
from pipeline.heads.edited import EditedModel
from pipeline.heads.edits import edit_from, edited_embedding, edited_logits, edited_mean
from pipeline.heads.parts import StoredParts, part_arrays
from pipeline.heads.shares import shares
from pipeline.heads.studies import maps_of
from pipeline.heatmaps.choices import METHODS, refuse_reading
from pipeline.heatmaps.erasure import Erasure
from pipeline.heatmaps.gradients import GradientMaps
from pipeline.heatmaps.plain import PlainMaps
from pipeline.heatmaps.split import shares_of, split_of, stored_split
from pipeline.heatmaps.tokens import TokenMaps
from pipeline.models import ModelSpec, UnsupportedModel, VisionModel, load_model
from pipeline.models.families import FAMILIES
from pipeline.neurons.choices import refuse_no_paths
from pipeline.repair.gains import Components
from pipeline.repair.scores import Scorer
from pipeline.stats.choices import refuse_components
from pipeline.stats.reductions import reduce_store
from storage import open_store
from storage.errors import FacetError, StoreError
from storage.store import Store
from tests.pipeline.images import kit
from tests.pipeline.models import toy_vit

EXACT = {"rtol": 1e-9, "atol": 1e-9}
POOLS = tuple(toy_vit.READINGS)
pytestmark = pytest.mark.usefixtures("here")


def config_of(pool: str) -> dict:
    vision = toy_vit.CONFIG["vision_cfg"] | ({"timm_pool": pool} if pool else {})
    return {**toy_vit.CONFIG, "vision_cfg": vision}


@pytest.fixture(scope="module", params=POOLS, ids=lambda pool: toy_vit.READINGS[pool])
def made(request, tmp_path_factory):
    """A model of a reading in float64, and a store of nine pictures of it."""
    from pipeline.cluster import machines

    machines.work("here")
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(FAMILIES, toy_vit.NAME, toy_vit)
        (folder / "toy.json").write_text(json.dumps(config_of(request.param)))
        spec = ModelSpec(str(folder / "toy.json"), "none", 3)
        pictures = folder / "pictures"
        pictures.mkdir()
        for i in range(9):
            (pictures / f"{i}.png").write_bytes(kit.encode(kit.picture(i, 20, 30), "PNG"))
        further = {"": ("sources",), "map": ("pool_neurons", "channels")}.get(request.param, ())
        asked = StoreSpec(
            images=str(pictures), model=spec, layers="all",
            components=("heads", "mlps", "tokens", *further),
            precision="fp32", store_dtype="float32", shard_size=4,
        )  # fmt: skip
        model = load_model(spec)
        store, _ = open_or_create(str(folder / "store"), asked, model, model)
        run(store, model, Workers("cpu", 1, 1, 4), max_bad=0.2)
        assert store.validate() == []
        yield load_model(spec, dtype=torch.float64), open_store(store.url)
    machines.work("ray")


@pytest.fixture
def model(made) -> VisionModel:
    return made[0]


@pytest.fixture
def store(made) -> Store:
    return made[1]


def pictures(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 12, 18, generator=generator, dtype=torch.float64)


def directions(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 7))


def rows_of(store: Store) -> StoredParts:
    data = store.contributions().load()
    return StoredParts.of({name: data[name].values for name in part_arrays(store.meta)})


def test_parts_sum_to_the_output(model):
    images = pictures(3)
    parts = Decomposer(model)(images)
    with torch.no_grad():
        wanted = model.module.encode_image(images)
    torch.testing.assert_close(parts.embedding_be, wanted, rtol=1e-10, atol=1e-10)
    assert float(parts.residual_b.max()) < 1e-10
    assert (parts.bias_weights_bl is not None) == model.varying_bias
    # Tokens are told apart by what is read of attention, in a pass of their own where that is late.
    tokens = Decomposer(model, ("heads", "tokens"), range(model.layers))(images)
    torch.testing.assert_close(tokens.heads_blhk, parts.heads_blhk, **EXACT)


def test_a_store_has_all_that_sums_to_the_embedding(store):
    total = store.constants()
    for layer, head in np.ndindex(store.meta.layers, store.meta.heads):
        total = total + store.heads(layer, head)
    for block in range(store.meta.layers + 1):
        total = total + store.mlps(block)
    np.testing.assert_allclose(total, store.embeddings(), rtol=1e-4, atol=1e-5)
    found = shares(store, 100)
    assert found.images == 9
    assert found.heads.sum() + found.mlps.sum() + found.constants == pytest.approx(1, abs=1e-5)


def test_a_map_and_what_it_leaves_out_are_the_logit(model, store):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 18, 3), np.uint8)
    texts = directions(3)
    chosen = [model.layers - 1]
    shown = split_of(shares_of(model, pixels, texts, chosen), chosen)
    np.testing.assert_allclose(shown.residual_m, 0, atol=1e-9)
    kept = stored_split(store, 2, texts)
    np.testing.assert_allclose(kept.residual_m, 0, atol=1e-4)
    assert kept.patches_mrc.shape == (3, 2, 3)


def test_all_that_is_ablated_by_its_mean_leaves_the_mean(store):
    found = reduce_store(store)
    parts, size = rows_of(store), ablate.ModelSize(store.meta.layers, store.meta.heads)
    readout, means = ablate.Readout(maps_of(store), directions(4)), ablate.reduced_means(found)
    everything = size.ablation("all", layers=range(size.layers), mlps=True, start=True)
    base, after = ablate.logits(parts, means, readout, [everything])
    last = store.model()["bias"].values / parts.norm_b[:, None]
    unit = parts.embedding_be / parts.norm_b[:, None]
    wanted = ((unit - last).mean(0) + last) @ readout.classes.T
    np.testing.assert_allclose(base, unit @ readout.classes.T, atol=1e-6)
    np.testing.assert_allclose(after, wanted, atol=1e-5)
    # The same one part after the other.
    components = Components(size.layers, size.heads)
    scorer = Scorer(components, means, readout)
    scores = scorer.scores(parts, np.ones(components.count, bool))
    np.testing.assert_allclose(base - scores.sum(0), wanted, atol=1e-5)
    (numbers,) = scorer.parts(store, 0, np.array([True, False, True, True]))
    np.testing.assert_allclose(scorer.logits(numbers), base[[0, 2, 3]], atol=1e-6)


def test_edits_are_of_biases_too(model, store):
    found = reduce_store(store)
    gains = {layer: 0.3 + layer for layer in range(store.meta.layers)}
    edit = edit_from(store, found, "some", {(0, 1): 0.2}, {0: 0.5, 1: 2.0}, gains)
    parts, maps = rows_of(store), maps_of(store)
    whole = edited_embedding(parts, edit, maps)
    np.testing.assert_allclose(whole.mean(0), edited_mean(store, found, edit), atol=1e-5)
    classes = directions(4)
    logits = edited_logits(parts, edit, ablate.Readout(maps, classes))
    np.testing.assert_allclose(logits, whole @ classes.T, atol=1e-5)
    # New pictures in one pass, and their maps, are those of what a store would keep.
    images = pictures(3)
    passed = StoredParts.passed(Decomposer(model)(images))
    wanted = edited_embedding(passed, edit, maps)
    np.testing.assert_allclose(EditedModel(model, edit)(images), wanted, atol=1e-5)
    along = torch.from_numpy(np.tile(classes, (3, 1, 1)))
    shown = TokenMaps(model, [0], edit=edit)(images, along)
    total = shown.maps_bclht.sum((2, 3, 4)) + sum(shown.rest.values())
    np.testing.assert_allclose(total, shown.logit_bc, atol=1e-9)
    np.testing.assert_allclose(shown.logit_bc, wanted @ classes.T, atol=1e-5)


def test_a_mean_of_bias_weights_is_kept_where_they_vary(store):
    found = reduce_store(store).data
    assert ("bias_weights_mean" in found) == store.meta.varying_bias
    if store.meta.varying_bias:
        parts = rows_of(store)
        wanted = (parts.bias_weights_bl / parts.scale_b[:, None]).mean(0)
        np.testing.assert_allclose(found["bias_weights_mean"], wanted, rtol=1e-6)
        fewer = replace(parts, bias_weights_bl=parts.bias_weights_bl * 0)
        everything = np.ones(store.meta.layers)
        maps = (np.zeros((3, 7)), store.model()["bias_map"].values)
        assert np.abs(parts.biases(everything, *maps)).max() > 1e-3
        assert not fewer.biases(everything, *maps).any()


def test_sources_are_the_tokens_that_heads_gather_from(model, store):
    if model.reading != "class-token":
        with pytest.raises(ValueError, match="sources .* this model is read by"):
            Decomposer(model, ("sources",))
        return
    images = pictures(3)
    parts = Decomposer(model, ("heads", "sources"))(images)
    tower = model.tower()
    x = tower.enter(images)
    for layer, each in enumerate(tower.blocks):
        attention = each.attention(x)
        pattern = attention.patterns()[:, :, 0]
        for source, tokens in enumerate(([0], [1, 2])):
            wanted = sum(pattern[:, :, i, None] * attention.values[:, :, i] for i in tokens)
            torch.testing.assert_close(parts.sources_blshk[:, layer, source], wanted, **EXACT)
        x = each.rest(x, attention).stream_btd
    # In the joint space, and as the store's tokens sum them over all heads.
    maps, kept = store.model()["head_map"], store.contributions().load()
    found = kept["sources"] @ maps / kept["ln_std"]
    rest = kept["heads"] @ maps / kept["ln_std"] - found.sum("source")
    found = found.transpose("image", "source", "embed")
    tokens = store.tokens()
    np.testing.assert_allclose(found[:, 0], tokens[:, 0], atol=1e-4)
    np.testing.assert_allclose(found[:, 1], tokens[:, 1:3].sum("token"), atol=1e-4)
    np.testing.assert_allclose(rest, tokens[:, 3:].sum("token"), atol=1e-4)
    sums = shares(store, 100)
    assert sums.sources.shape == (3, 3, store.meta.heads)
    np.testing.assert_allclose(sums.sources.sum(1), sums.heads, atol=1e-9)
    three = store.sources(1, 2)
    np.testing.assert_allclose(three.sum("source"), store.heads(1, 2), atol=1e-5)
    one = three.sel(source="registers").values
    e = store.embeddings().values.astype(float)
    wanted = ((one * e).sum(1) / (e * e).sum(1)).mean()
    assert sums.sources[1, 1, 2] == pytest.approx(wanted, rel=1e-3)


def test_what_a_pool_is_made_of_sums_to_it(model, store):
    if model.reading != "attention-pool":
        for name in ("pool_neurons", "channels"):
            with pytest.raises(ValueError, match=f"`components` {name} are"):
                Decomposer(model, (name,))
        return
    bias_d = model.visual.pool.layer.down.bias
    mlp_bias = (bias_d @ model.visual.head.weight.T).detach().numpy()
    written = sum(store.pool_neuron(n) for n in range(store.meta.mlp_width))
    np.testing.assert_allclose(written + mlp_bias, store.mlps(1), atol=1e-4)
    width = store.meta.heads * store.meta.head_dim
    value_bias = model.visual.pool.layer.qkv.bias[2 * width :].view(store.meta.heads, -1)
    maps = store.model()["head_map"].values[0]
    for head in range(store.meta.heads):
        bias = value_bias[head].detach().numpy() @ maps[head]
        of_channels = store.channels(head).sum("channel")
        np.testing.assert_allclose(of_channels + bias, store.heads(0, head), atol=1e-4)
    found = reduce_store(store)
    parts = rows_of(store)
    for name in ("pool_neurons", "channels"):
        rows = store.contributions()[name].values / parts.scale_b.reshape(
            -1, *(1,) * (store.contributions()[name].ndim - 1)
        )
        np.testing.assert_allclose(found.array(f"{name}_mean"), rows.mean(0), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(found.array(f"{name}_variance"), rows.var(0), rtol=1e-4)


def test_what_heads_gather_from_is_shown(store, capsys):
    if store.meta.reading != "class-token":
        with pytest.raises(FacetError, match="keeps no sources"):
            show.main(show.ShowConfig("sources", store.url))
        return
    show.main(show.ShowConfig("sources", store.url, format="csv"))
    rows = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(rows) == 3 * 4 * 3
    kept = shares(store, 100)
    registers = rows[rows["source"] == "registers"]["share"].sum()
    assert registers == pytest.approx(kept.sources[:, 1].sum())
    show.main(show.ShowConfig("sources", store.url))
    assert f"{registers:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize("made_by", [GradientMaps, lambda m: PlainMaps(m, ["rollout"]), Erasure])
def test_maps_of_a_class_token_need_one(model, made_by):
    if model.reading == "class-token":
        return
    with pytest.raises(UnsupportedModel, match=f"class token.* read by {model.reading}"):
        made_by(model) if made_by is not Erasure else Erasure(model, 3)


def test_jobs_refuse_what_a_reading_does_not_have(store):
    meta = store.meta
    if meta.reading == "class-token":
        refuse_reading(meta, tuple(METHODS), "equal-share", curves=True)
        refuse_studies(store.url, meta, ["class-token"])
        return
    with pytest.raises(FacetError, match=f"maps of rollout .* read by {meta.reading}"):
        refuse_reading(meta, ["tokens", "rollout"])
    with pytest.raises(FacetError, match="a class token is left alone"):
        refuse_reading(meta, ["tokens"], curves=True)
    refuse_reading(meta, ["tokens", "neurons", "raw-attention", "random"])
    if meta.reading != "mean":
        with pytest.raises(FacetError, match="equal-share"):
            refuse_reading(meta, ["tokens"], "equal-share")
    if not meta.prefix:
        with pytest.raises(StoreError, match="has no class token"):
            refuse_studies(store.url, meta, ["class-token"])
    if meta.reading == "attention-pool":
        asked = second_order.SecondOrderConfig(store=store.url, mlp_layers="3")
        with pytest.raises(FacetError, match=r"layers 0 to 2 .* \(those before the attention pool"):
            second_order.check(asked)
    bare = replace(meta, heads=0, reading="pixels", components=("mlps",), prefix=0, tokens=6)
    for refuse in (
        lambda: refuse_components(store.url, bare, ("heads",)),
        lambda: refuse_studies(store.url, bare, ["heads"]),
        lambda: refuse_reading(bare, ["raw-attention"]),
        lambda: refuse_no_paths(bare),
    ):
        with pytest.raises(FacetError, match="attention"):
            refuse()
    refuse_studies(store.url, bare, ["mlps"])


def test_the_last_layers_are_all_where_there_are_fewer():
    assert parse_layers("last:4", 1) == (0,)
