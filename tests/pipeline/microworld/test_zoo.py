"""The embedded zoo: every model is the one of its card and does what the card says."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from pipeline.microworld import zoo
from pipeline.microworld.cards import WEIGHTS, card_of
from pipeline.microworld.training.shared import half, render
from pipeline.microworld.training.zoo_figures import cnn_figures, generator_figures, mae_figures
from pipeline.microworld.world import SIDE, Scene
from pipeline.microworld.zoo import (
    ZOO,
    Generator,
    ZooError,
    load_zoo,
    logits_of,
    prepare,
    sample_latents,
)

PAGE = Path(__file__).parents[3] / "docs" / "microworld.md"


def weights_of(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


def card(name: str) -> dict:
    return json.loads(card_of(weights_of(name)).read_text())


@pytest.fixture(scope="module")
def unseen() -> tuple[torch.Tensor, list[Scene]]:
    pixels, scenes = render(2024, "test", 800)
    return prepare(pixels), scenes


@pytest.mark.parametrize("name", ZOO)
def test_the_shipped_weights_are_small_and_the_ones_of_the_card(name):
    content = weights_of(name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == card(name)["sha256"]
    assert len(content) <= 6e6


@pytest.mark.parametrize("name", ZOO)
def test_a_model_loads_in_float32_for_evaluation(name):
    model = load_zoo(name)
    assert not model.training
    parameters = list(model.parameters())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in parameters)
    # What was loaded is what the float16 file holds.
    again = {k: v.float() for k, v in half(model).items()}
    assert all(torch.equal(v.float(), again[k]) for k, v in model.state_dict().items())


def test_the_cnn_keeps_its_card(unseen):
    images, scenes = unseen
    figures, told = cnn_figures(load_zoo("cnn"), images, scenes), card("cnn")["figures"]
    assert figures.keys() == told.keys()
    assert figures == pytest.approx(told, abs=0.02)


def test_the_mae_keeps_its_card(unseen):
    images, scenes = unseen
    figures, told = mae_figures(load_zoo("mae"), images, scenes), card("mae")["figures"]
    assert figures.keys() == told.keys()
    for name in ("hidden_loss", "hidden_loss_of_patch_mean"):
        assert figures[name] == pytest.approx(told[name], abs=0.02)
    assert told["hidden_loss"] < 0.8 * told["hidden_loss_of_patch_mean"]


def test_the_generator_keeps_its_card(unseen):
    images, _ = unseen
    figures = generator_figures(load_zoo("generator"), load_zoo("cnn"), images)
    told = card("generator")["figures"]
    assert figures.keys() == told.keys()
    assert figures["psnr"] == pytest.approx(told["psnr"], abs=0.3)
    sure = [name for name in told if name.startswith("confidence")]
    assert {n: figures[n] for n in sure} == pytest.approx({n: told[n] for n in sure}, abs=0.02)
    assert told["frechet_of_halves"] < told["frechet"] < told["frechet_of_noise"]


def test_latents_depend_on_the_seed_alone_and_give_pictures():
    model = load_zoo("generator")
    assert isinstance(model, Generator)
    latents = sample_latents(6, 3, model.latent)
    assert torch.equal(latents, sample_latents(6, 3, model.latent))
    assert not torch.equal(latents, sample_latents(6, 4, model.latent))
    made = model(latents)
    assert made.shape == (6, 3, SIDE, SIDE)
    assert made.abs().max() <= 1
    assert made.amax() > 0.3
    assert made.amin() < -0.3
    assert made.var(0).mean() > 0.02  # other latents, other pictures
    assert model.encode(load_zoo("cnn"), made).shape == latents.shape
    codes = model.flow(latents)
    torch.testing.assert_close(model.latents_of(codes)[0], latents, rtol=0, atol=1e-4)


def maps_of(model: torch.nn.Module, layers: Iterable[str], x: torch.Tensor) -> dict:
    got: dict[str, torch.Tensor] = {}
    for layer in layers:
        model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, maps, layer=layer: got.update({layer: maps})
        )
    model(x)
    return got


def test_named_layers_give_maps(unseen):
    images = unseen[0][:2]
    generator = load_zoo("generator")
    for model, x, sides in (
        (load_zoo("cnn"), images, {"layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4}),
        (generator, sample_latents(2, 0, generator.latent),
         {"start": 4, "up1": 8, "up2": 16, "up3": 32}),
    ):  # fmt: skip
        got = maps_of(model, sides, x)
        assert {layer: maps.shape[-1] for layer, maps in got.items()} == sides
        assert all(maps.min() >= 0 for maps in got.values())
    tokens = maps_of(load_zoo("mae"), ["blocks.1"], images)["blocks.1"]
    assert tokens.shape == (2, 64, 128)


def test_the_cnns_output_splits_by_attribute():
    output = torch.arange(60.0).reshape(2, 30)
    parts = logits_of(output)
    assert [v.shape[1] for v in parts.values()] == [8, 8, 4, 6, 4]
    assert torch.equal(torch.cat(list(parts.values()), 1), output)


def test_a_wrong_name_is_told_what_there_is():
    with pytest.raises(ZooError, match="'resnet'.*cnn, mae, generator"):
        load_zoo("resnet")


def test_absent_and_altered_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    with pytest.raises(ZooError, match=r"cnn\.safetensors.*absent.*train_cnn\.py"):
        load_zoo("cnn")
    for path in WEIGHTS.glob("cnn.*"):
        shutil.copy(path, tmp_path)
    load_zoo("cnn")
    content = bytearray((tmp_path / "cnn.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "cnn.safetensors").write_bytes(content)
    with pytest.raises(ZooError, match="not the file of its card"):
        load_zoo("cnn")


@pytest.mark.parametrize("name", ZOO)
def test_the_page_gives_the_cards_figures(name):
    rows = re.findall(rf"^\| `{name}` \| `(\w+)` \| ([\d.]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {figure: float(value) for figure, value in rows} == card(name)["figures"]
