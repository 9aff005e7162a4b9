"""Small random models over pictures, in-process, against maps taken one by one."""

import platform

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.images.listing import list_images
from pipeline.models.errors import ModelError
from pipeline.rosetta.maps import MapError, MapReader, Tokens
from pipeline.rosetta.merging import correlate_tile, merge_spans
from pipeline.rosetta.mine import Miner
from pipeline.rosetta.models import UnitModel, latents, load_units, pictures, unit_maps
from pipeline.rosetta.pictures import load_pictures, read_pictures
from pipeline.rosetta.plan import Item
from storage.errors import FacetError, NotFinite
from storage.images import write_images
from storage.ledger import read_part
from storage.rosetta import create_correlations, done_spans, open_correlations, pair_of, tiles
from tests.pipeline.images.kit import encode, picture
from tests.pipeline.rosetta.kit import TOYS, direct

IMAGES = 20


def toy(name: str, *, generator: bool = False) -> UnitModel:
    return load_units(f"{TOYS}:{name}", generator=generator)


@pytest.fixture(scope="module")
def two() -> dict[str, UnitModel]:
    names = ("timm:test_resnet/none@layer3,layer4", "timm:test_vit/none:4@blocks.?.mlp.act")
    return {m.card.slug: m for m in map(load_units, names)}


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> str:
    url = str(tmp_path_factory.mktemp("mined"))
    write_images(url, list_images(f"microworld:n={IMAGES},seed=2"))
    return url


def all_maps(model: UnitModel, url: str) -> list[np.ndarray]:
    """Maps of all images, straight from the modules' outputs, one image at a time."""
    kept: dict[str, list[np.ndarray]] = {x.name: [] for x in model.card.layers}
    handles = [
        model.module.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, rows=rows: rows.append(output.numpy().copy())
        )
        for name, rows in kept.items()
    ]
    resize = model.preprocess.resize
    for i in range(IMAGES):
        pixels = load_pictures(url, i, i + 1, (resize,)).pixels[resize]
        with torch.no_grad():
            model.module(model.preprocess.to_tensor(torch.from_numpy(pixels)))
    for handle in handles:
        handle.remove()
    return [np.concatenate(rows) for rows in kept.values()]


def test_mined_correlations_are_those_of_the_models_own_maps(two, listed):
    a, b = pair_of(*(m.card for m in two.values()))
    assert b.slug == "timm-test_vit-none-4-blocks.-.mlp.act"
    assert [x.name for x in b.layers] == [f"blocks.{i}.mlp.act" for i in range(6)]
    (tile,) = tiles(a, b)
    miner = Miner(listed, two, "cpu", 1)
    sizes = tuple(m.preprocess.resize for m in two.values())
    for shard in range(2):
        batches = [read_pictures(listed, at, at + 5, sizes) for at in (shard * 10, shard * 10 + 5)]
        report = miner.do(Item(shard, (tile,)), batches)
        assert (report.images, report.facts) == (10, {"bad": {}})
        assert report.node == platform.node()  # the log says where
    assert miner.progress() == IMAGES
    assert read_part(listed, 1)["index"].to_pylist() == list(range(10, 20))
    merge_spans(listed, a, b, tile, [(0, 0), (1, 1)])
    assert done_spans(listed, tile) == {(0, 1)}
    merge_spans(listed, a, b, tile, [(0, 0), (1, 1)])  # as a retry after a death would
    assert done_spans(listed, tile) == {(0, 1)}
    create_correlations(listed, a, b)
    correlate_tile(listed, a, b, tile)
    found = open_correlations(listed, a.slug, b.slug)
    resnet = [m.transpose(0, 2, 3, 1) for m in all_maps(two[a.slug], listed)]
    # The class token (0) is left out; the patches are 10 rows of 10.
    vit = [m[:, 1:].reshape(IMAGES, 10, 10, -1) for m in all_maps(two[b.slug], listed)]
    for name, part in (("whole", slice(None)), ("even", slice(0, None, 2))):
        expected = direct([m[part] for m in resnet], [m[part] for m in vit])
        np.testing.assert_allclose(found[name].values, expected, atol=1e-6)
    turned = open_correlations(listed, b.slug, a.slug)
    np.testing.assert_array_equal(turned["whole"].values, found["whole"].values.T)
    np.testing.assert_array_equal(turned["a_mean"].values, found["b_mean"].values)


def test_unit_maps_are_the_maps_at_the_largest_size(two, listed):
    model = next(iter(two.values()))
    pixels = load_pictures(listed, 0, 3, (model.preprocess.resize,)).pixels
    whole = [m.transpose(0, 2, 3, 1) for m in all_maps(model, listed)]
    units = [0, 3, 192 + 5]
    maps = unit_maps(model, pixels[model.preprocess.resize], units).numpy()
    assert maps.shape == (3, 3, 10, 10)
    np.testing.assert_allclose(maps[:, 1], whole[0][:3, ..., 3], atol=1e-5)
    wide = torch.nn.functional.interpolate(
        torch.from_numpy(whole[1][:3, None, ..., 5]), (10, 10), mode="bilinear"
    )
    np.testing.assert_allclose(maps[:, 2:], wide.numpy(), atol=1e-5)
    mean, std = np.full(model.card.units, 2.0), np.full(model.card.units, 4.0)
    scaled = unit_maps(model, pixels[model.preprocess.resize], units, (mean, std)).numpy()
    np.testing.assert_allclose(scaled, (maps - 2) / 4, atol=1e-6)


def test_a_generators_pictures_and_maps_are_of_one_pass(tmp_path):
    both = {m.card.slug: m for m in (toy("painter", generator=True), toy("plain"))}
    cards = {m.card.latent: m.card for m in both.values()}
    a, b = pair_of(*cards.values())
    (tile,) = tiles(a, b)
    url = str(tmp_path)
    report = Miner(url, both, "cpu", 1).do(Item(0, (tile,)), [range(8), range(8, 12)])
    assert report.images == 12
    create_correlations(url, a, b)
    correlate_tile(url, a, b, tile)
    found = open_correlations(url, cards[6].slug, cards[None].slug)["whole"].values
    generator, discriminator = both[cards[6].slug], both[cards[None].slug]
    with torch.no_grad():
        output, maps_g = generator.maps(latents(range(12), 6))
        prepared = discriminator.preprocess.to_tensor(torch.from_numpy(pictures(output)))
        _, maps_d = discriminator.maps(prepared)
    expected = direct([m.numpy() for m in maps_g], [m.numpy() for m in maps_d])
    alive = np.isfinite(found)
    assert alive.any()
    np.testing.assert_allclose(found[alive], expected[alive], atol=1e-6)
    assert read_part(url, 0)["width"].to_pylist() == [16] * 12


def test_latents_depend_on_their_seed_alone():
    torch.testing.assert_close(latents([5, 9], 4)[1:], latents([9], 4))


def test_maps_are_taken_before_they_change_in_place():
    model = toy("plain")
    assert [x.name for x in model.card.layers] == ["act1", "act2", "act3"]
    with torch.no_grad():
        x = torch.randn(2, 3, 16, 16)
        _, (first, second, _) = model.maps(x)
        own = model.module.conv1(x).relu().permute(0, 2, 3, 1)
    torch.testing.assert_close(first, own)
    torch.testing.assert_close(second, nn.functional.hardswish(own))


@pytest.mark.parametrize(
    ("name", "layers", "size", "kind"),
    [
        ("timm:test_resnet/none", 4, (40, 40), "first"),
        ("timm:test_convnext/none@stages.[0-2].*.act", 7, (40, 40), "last"),
        ("timm:test_efficientnet/none:3", 9, (80, 80), "first"),
        ("torchvision:resnet18/none", 4, (56, 56), "first"),
        ("open_clip:RN50/none", 4, (56, 56), "first"),
        ("microworld", 4, (8, 8), "tokens"),
    ],
)
def test_models_of_all_libraries_have_maps(name, layers, size, kind):
    model = load_units(name)
    assert len(model.card.layers) == layers
    assert model.card.layers[0].size == size
    assert {r.kind for r in model.readers.values()} == {kind}


def test_register_tokens_are_left_out():
    model = load_units("timm:vit_little_patch16_reg1_gap_256/none@blocks.0.mlp.act")
    (reader,) = model.readers.values()
    assert reader == MapReader("tokens", Tokens((16, 16), 1))
    tokens = torch.arange(2 * 257 * 3.0).view(2, 257, 3)
    maps = reader(tokens)
    assert maps.shape == (2, 16, 16, 3)
    torch.testing.assert_close(maps[1, 2, 5], tokens[1, 1 + 2 * 16 + 5])


def test_random_weights_follow_their_seed():
    digests = {
        load_units(f"timm:test_vit/none{seed}@blocks.0.mlp.act").card.weights_digest
        for seed in ("", ":0", ":1", ":1")
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tim:resnet50", ModelError, "begins with one of .*did you mean timm"),
        ("timm:resnet5/none", ModelError, "no model 'resnet5'; near names: resnet50"),
        ("timm:test_vit/none@blocks.0.mlp.atc", ModelError, "near names: blocks.0.mlp.act"),
        ("timm:test_vit/none:x", ModelError, "none:SEED"),
        ("torchvision:resnet18/IMAGENET", ModelError, "IMAGENET1K_V1"),
        ("torchvision:resnet18/none@layer1.0.relu", MapError, "runs 2 times"),
        ("timm:test_resnet/none@global_pool", MapError, "no positions"),
        (
            "timm:test_maxvit/none@stages.0.blocks.0.attn_block.attn.proj",
            MapError,
            "parts of images",
        ),
        ("open_clip:ViT-B-32/opena", ModelError, "its tags: openai"),
        ("timm:test_vit/gone.safetensors", ModelError, "gone.safetensors cannot be read"),
        (f"{TOYS}:nothing", ModelError, "import:package.module:function"),
        (f"{TOYS}:painter", ModelError, "give it to `generator`"),
    ],
)
def test_what_cannot_be_loaded_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        load_units(name)


def test_a_latent_of_the_wrong_size_is_refused():
    with pytest.raises(ModelError, match=r"inputs of shape \('n', 7\) \(batch, latent\)"):
        toy("wrong_latent", generator=True)


def test_values_that_are_not_finite_are_refused(listed):
    with pytest.raises(ModelError, match=r"hold NaN.*: conv2.weight \(216 of 216\)"):
        toy("broken")
    model = toy("plain")
    model.module.conv2.weight.data[:] = 3e38  # finite, and what it gives is not
    (tile,) = tiles(model.card, model.card)
    batch = read_pictures(listed, 0, 2, (model.preprocess.resize,))
    with pytest.raises(NotFinite, match="layer act3 is the first of those read that holds NaN"):
        Miner(listed, {model.card.slug: model}, "cpu", 1).do(Item(0, (tile,)), [batch])


def mine_folder(folder, url, names, shard=0):
    """One shard of a folder through some toys, summed for their pair."""
    both = {m.card.slug: m for m in map(toy, names)}
    a, b = pair_of(*(m.card for m in both.values()))
    if not (folder.parent / "mined" / "images").exists():
        write_images(url, list_images(str(folder)))
    sizes = tuple(dict.fromkeys(m.preprocess.resize for m in both.values()))
    batches = [read_pictures(url, at, at + 3, sizes) for at in (0, 3)]
    return Miner(url, both, "cpu", 1).do(Item(shard, tuple(tiles(a, b))), batches)


def test_models_that_are_added_see_the_pictures_of_the_first(tmp_path):
    folder, url = tmp_path / "f", str(tmp_path / "mined")
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.bmp").write_bytes(encode(picture(i, 20, 20), "BMP"))
    whole = (folder / "5.bmp").read_bytes()
    (folder / "5.bmp").write_bytes(b"?" * len(whole))
    first = mine_folder(folder, url, ("plain", "other"))
    kept = read_part(url, 0)
    # What was bad stays left out, though it could be read now.
    (folder / "5.bmp").write_bytes(whole)
    again = mine_folder(folder, url, ("plain", "dead"))
    assert again.facts == first.facts
    assert kept["ok"].to_pylist() == [True] * 5 + [False]
    assert read_part(url, 0).equals(kept)
    (folder / "4.bmp").write_bytes(encode(picture(40, 20, 20), "BMP"))
    with pytest.raises(FacetError, match=r"image 4 \(4.bmp\) is not what it was when the first"):
        mine_folder(folder, url, ("dead", "other"))
    (folder / "4.bmp").unlink()
    with pytest.raises(FacetError, match=r"does not exist: .*4.bmp"):
        mine_folder(folder, url, ("dead", "other"))
