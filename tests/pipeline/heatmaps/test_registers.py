"""Registers are no patches: they are neither ranked nor removed, and no mean is taken of them."""

import json

import pytest
import torch

from pipeline.heatmaps.erasure import Erasure
from pipeline.heatmaps.gradients import GRADIENT_METHODS, GradientMaps
from pipeline.models import ModelSpec, load_model
from pipeline.models.families import FAMILIES
from tests.pipeline.heatmaps.asked_kit import asked_of
from tests.pipeline.models import toy_vit
from tests.pipeline.neurons.forward_kit import TEXT, random_images

VISION = {
    "timm_model_name": toy_vit.NAME, "image_size": [12, 8], "patch_size": 4, "width": 16,
    "layers": 3, "head_width": 8,
}  # fmt: skip
PREFIX = 1 + toy_vit.REGISTERS


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, toy_vit.NAME, toy_vit)
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}))
    return load_model(ModelSpec(str(path), "none", 1), dtype=torch.float64)


def start(visual, image):
    """The stream before layer 0, (1, token, width)."""
    patches = visual.patch(image[None]).flatten(2).mT
    return torch.cat([visual.first.expand(1, -1, -1), patches], 1) + visual.positions


def behind(visual, x, layers):
    for layer in layers:
        x = layer(x)
    return visual.head(visual.after(x[:, 0]))[0]


def test_gradcam_weighs_heads_by_their_patches(model):
    visual, last = model.visual, model.visual.layers[-1]
    images, asked = random_images(model, 0, 2), asked_of(model, 0, 2)
    found = GradientMaps(model)(images, asked)
    assert {found[name].shape for name in GRADIENT_METHODS} == {(2, 3, 2)}
    for b, image in enumerate(images):
        x = start(visual, image)
        for layer in visual.layers[:-1]:
            x = layer(x)
        q, k, v = last.qkv(last.before(x))[0].chunk(3, -1)
        heads = torch.arange(16).chunk(2)
        alphas = [(q[0, at] @ k[:, at].T / 8**0.5).softmax(-1).requires_grad_() for at in heads]
        mixed = torch.cat([alpha @ v[:, at] for alpha, at in zip(alphas, heads, strict=True)])
        class_token = x[0, 0] + last.out(mixed)
        class_token = class_token + last.down(
            torch.nn.functional.gelu(last.up(last.between(class_token)))
        )
        embedding = behind(visual, class_token[None, None], [])
        y = embedding @ asked.texts_be[b] / embedding.norm()
        slopes = torch.autograd.grad(y, alphas)
        weighed = [
            slope[PREFIX:].mean() * alpha.detach()[PREFIX:]
            for slope, alpha in zip(slopes, alphas, strict=True)
        ]
        wanted = (sum(weighed) / 2).clamp(min=0).view(3, 2)
        torch.testing.assert_close(found["gradcam"][b], wanted, rtol=1e-8, atol=1e-10)


def test_what_is_left_when_all_patches_are_gone_are_class_token_and_registers(model):
    model.module.logit_scale = torch.tensor(2.0)
    images, asked = random_images(model, 1, 2), asked_of(model, 1, 2)
    map_brc = torch.arange(12.0).view(2, 3, 2)
    deletion_bs, insertion_bs = Erasure(model, 2).curves(images, asked, {"m": map_brc})["m"]
    for b, image in enumerate(images):
        x = start(model.visual, image)
        registers = list(range(PREFIX))
        for found, kept in [
            (deletion_bs[b, 1], [*registers, *range(PREFIX, PREFIX + 3)]),
            (insertion_bs[b, 1], [*registers, *range(PREFIX + 3, PREFIX + 6)]),
            (insertion_bs[b, 2], registers),
        ]:
            embedding = behind(model.visual, x[:, kept], model.visual.layers)
            cosines = asked.texts_ce @ embedding / embedding.norm()
            wanted = (model.module.logit_scale.exp() * cosines).softmax(0)[asked.classes_b[b]]
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)
