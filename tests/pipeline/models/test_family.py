"""A family of its own, one file and one row, goes the whole way: see ``docs/add-a-family.md``."""

import json

import numpy as np
import pytest
import torch

from pipeline.cluster.work import Workers
from pipeline.extraction.decompose import Decomposer
from pipeline.extraction.finite import first_place
from pipeline.extraction.run import run
from pipeline.extraction.spec import StoreSpec
from pipeline.extraction.store import open_or_create
from pipeline.heads import ablation as ablate
from pipeline.heads.studies import maps_of
from pipeline.models import ModelSpec, UnsupportedModel, check_supported, load_model, model_maps
from pipeline.models.families import FAMILIES
from pipeline.neurons.effects import IndirectEffects
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from pipeline.published import head_contributions, mlp_contributions
from pipeline.stats.reductions import reduce_store
from storage import open_store
from tests.pipeline.images import kit
from tests.pipeline.models import toy_vit

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def spec(tmp_path, monkeypatch) -> ModelSpec:
    """The family's row stands for one test."""
    monkeypatch.setitem(FAMILIES, toy_vit.NAME, toy_vit)
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(toy_vit.CONFIG))
    return ModelSpec(str(path), "none", 3)


def own_forward(spec: ModelSpec, images: torch.Tensor) -> np.ndarray:
    """The model's own output, LayerScale as it was made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = toy_vit.build(toy_vit.CONFIG).double()
    assert not torch.equal(module.visual.layers[0].scale_1.gamma, torch.ones(16))
    with torch.no_grad():
        return module.encode_image(images).numpy()


def test_without_its_row_it_is_refused(spec, monkeypatch):
    assert check_supported(spec).family == toy_vit.NAME
    monkeypatch.delitem(FAMILIES, toy_vit.NAME)
    with pytest.raises(UnsupportedModel, match="its image tower is timm's toy-vit"):
        check_supported(spec)


def test_its_parts_sum_to_its_output(spec):
    model = load_model(spec, dtype=torch.float64)
    assert (model.grid, model.prefix, model.tokens) == ((2, 3), 3, 9)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 12, 18, generator=generator, dtype=torch.float64)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), range(3))(images)
    wanted, maps = own_forward(spec, images), model_maps(model)
    np.testing.assert_allclose(parts.embedding_be, wanted, **EXACT)
    std = parts.ln_std_b.numpy()
    heads = head_contributions(parts.heads_blhk, maps.head_map, std)
    constants = maps.attention_bias.sum(0) / std[:, None] + maps.bias
    total = heads.sum((1, 2)) + mlp_contributions(parts.mlps_bsd, maps.mlp_map, std).sum(1)
    np.testing.assert_allclose(total + constants, wanted, **EXACT)
    # Over tokens: the class token, what is written from registers, and the patches.
    tokens = parts.tokens_bte.numpy()
    registers = tokens[:, 1 : model.prefix].sum(1)
    assert (np.abs(registers).max(1) > 1e-3).all()
    split = tokens[:, 0] + registers + tokens[:, model.prefix :].sum(1)
    np.testing.assert_allclose(split, heads.sum((1, 2)), **EXACT)
    assert first_place(model, images) is None


def test_its_neurons_second_order_and_indirect_effects(spec):
    model = load_model(spec, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 3, 12, 18, generator=generator, dtype=torch.float64)
    run = NeuronPass(model, [0, 1], ("coefficients", "totals", "peaks"))
    parts = run(images)
    for layer in (0, 1):
        maps = second_order_maps(model, layer, torch.float64)
        total = maps.total(parts.coefficients[layer]) / parts.ln_std_b[:, None]
        np.testing.assert_allclose(total, parts.totals[layer], **EXACT)
        fires = run.token_maps(images, layer, range(model.mlp_width))
        np.testing.assert_array_equal(parts.peaks[layer], fires[:, model.prefix :].amax(1))
        assert (fires[:, : model.prefix].amax(1) > parts.peaks[layer]).any()  # registers fire, too
    none = torch.zeros(model.tokens, model.mlp_width, dtype=torch.float64)
    found = IndirectEffects(model, 1).ablate_all(images, none)
    with torch.no_grad():
        model.visual.layers[1].down.weight.zero_()
        np.testing.assert_allclose(found, model.module.encode_image(images), **EXACT)


@pytest.fixture
def store(spec, tmp_path, here):
    """Ten pictures, one of them none, extracted into a real store by a crew in this process."""
    model, url = load_model(spec), str(tmp_path / "store")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.png").write_bytes(kit.encode(kit.picture(i, 20, 30), "PNG"))
    (folder / "9.png").write_bytes(b"no picture")
    asked = StoreSpec(
        images=str(folder), model=spec, components=("heads", "mlps", "tokens"), layers="all",
        precision="fp32", store_dtype="float32", shard_size=4,
    )  # fmt: skip
    made, _ = open_or_create(url, asked, model, model)
    run(made, model, Workers("cpu", 1, 1, 4), max_bad=0.2)
    assert made.validate() == []
    return open_store(url)


def test_a_store_of_it_is_reduced_and_ablated(store):
    assert (store.meta.grid, store.meta.prefix) == ((2, 3), 3)
    data = store.contributions().load()
    assert float(data["residual"].max()) < 1e-5
    ok = np.isfinite(data["ln_std"].values)
    assert ok.sum() == 9
    found = reduce_store(store)
    norm = np.linalg.norm(data["embedding"].values[ok].astype(float), axis=1)
    tokens = data["tokens"].values[ok] / norm[:, None, None]
    assert found.count("patches") == 9 * 6
    np.testing.assert_allclose(found.array("patches_mean"), tokens[:, 3:].mean((0, 1)), atol=1e-7)
    np.testing.assert_allclose(found.array("tokens_mean"), tokens.mean(0), atol=1e-7)
    # All that is ablated by its mean leaves the mean embedding, whatever the image.
    generator = np.random.default_rng(0)
    classes = np.linalg.qr(generator.normal(size=(7, 4)))[0].T
    size = ablate.ModelSize(store.meta.layers, store.meta.heads)
    parts = ablate.StoredParts(
        *(data[n].values[ok] for n in ("heads", "mlps", "embedding", "ln_std")),
        class_token_be=data["tokens"].values[ok][:, 0],
    )
    readout, means = ablate.Readout(maps_of(store), classes), ablate.reduced_means(found)
    everything = size.ablation("all", layers=range(3), mlps=True, start=True)
    one = size.ablation("one head", heads=[(1, 2)])
    first = size.ablation("class token", class_token=True)
    base, after, single, without = ablate.logits(parts, means, readout, [everything, one, first])
    unit = data["embedding"].values[ok] / norm[:, None]
    np.testing.assert_allclose(base, unit @ classes.T, atol=1e-6)
    bias = store.model()["bias"].values / norm[:, None]
    constant = (unit - bias).mean(0) + bias
    np.testing.assert_allclose(after, constant @ classes.T, atol=1e-5)
    head = store.heads(1, 2).values[ok] / norm[:, None]
    np.testing.assert_allclose(base - single, (head - head.mean(0)) @ classes.T, atol=1e-6)
    written = tokens[:, 0] - tokens[:, 0].mean(0)
    np.testing.assert_allclose(base - without, written @ classes.T, atol=1e-6)
