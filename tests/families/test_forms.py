"""Weights of every family in the forms that its library's users have them in."""

from pathlib import Path

import pytest
import torch

from pipeline.models import ModelSpec, load_model
from tests.families.zoo import ZOO, Member

TRUNK = "visual.trunk."


@pytest.fixture(params=ZOO)
def member(request: pytest.FixtureRequest) -> Member:
    return ZOO[request.param]


def saved(content: dict, folder: Path) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


def test_a_trainer_s_checkpoint_is_the_same_model(member: Member, tmp_path: Path):
    module = member.build(1)
    config, weights = member.write(tmp_path, module)
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    held = {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}
    if member.alone:  # timm's own has averaged weights, too, and means those
        held |= {"state_dict": other, "state_dict_ema": state}
    found = load_model(ModelSpec(config, saved(held, tmp_path)))
    assert found.weights_digest == load_model(ModelSpec(config, weights)).weights_digest
    assert found.has_texts == (not member.alone)


def test_an_image_tower_alone_gives_the_same_images(member: Member, tmp_path: Path):
    if member.alone:
        pytest.skip("it has no other tower")
    module = member.build(1)
    config, weights = member.write(tmp_path, module)
    images = {n: v for n, v in module.state_dict().items() if n.startswith("visual.")}
    bare = {name.removeprefix(TRUNK): value for name, value in images.items()}
    named = bare if all(name.startswith(TRUNK) for name in images) else images
    whole = load_model(ModelSpec(config, weights))
    found = load_model(ModelSpec(config, saved(named, tmp_path)))
    assert whole.has_texts
    assert not found.has_texts
    pixels = torch.randn(2, 3, *member.size)
    with torch.inference_mode():
        expected = whole.module.encode_image(pixels)
        assert torch.equal(found.module.encode_image(pixels), expected)
