"""ConvNeXt's last stage: in open_clip's models, and by itself."""

import pytest
import torch

from pipeline.extraction.decompose import Decomposer
from pipeline.models import ModelSpec, UnsupportedModel, check_supported, load_model, model_maps
from pipeline.models.families import faults
from tests.families.zoo import ZOO, Member, alone

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SMALL = {"depths": [1, 1, 1, 3], "dims": [8, 12, 16, 24], "size": 64}
MEMBERS = {
    "open_clip": ZOO["convnext"],
    "alone": ZOO["convnext-alone"],
    "second version": Member(
        "convnext", alone("convnextv2_tiny", "avg", 5, **SMALL), "pixels", (2, 2), 0
    ),
    "convolutions as MLP": Member(
        "convnext", alone("convnext_atto", "avg", **SMALL, conv_mlp=True), "pixels", (2, 2), 0
    ),
    "root mean square": Member(
        "convnext", alone("convnext_atto_rms", "avg", 4, **SMALL), "pixels", (2, 2), 0
    ),
    "no LayerScale": Member(
        "convnext",
        alone("convnext_tiny", "avg", 4, **SMALL, ls_init_value=None, conv_bias=False),
        "pixels",
        (2, 2),
        0,
    ),
}


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
@torch.no_grad()
def test_its_parts_sum_to_its_output(tmp_path, member):
    own = member.build()
    asked = ModelSpec(*member.write(tmp_path, own))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 64, 64, generator=generator, dtype=torch.float64)
    model, own = load_model(asked, dtype=torch.float64), own.double()
    assert (model.heads, model.reading, model.grid, model.tokens) == (0, "pixels", (2, 2), 4)
    visual = member.visual(own)
    wanted, trunk = visual(images), getattr(visual, "trunk", visual)
    parts = Decomposer(model, ("mlps",))(images)
    torch.testing.assert_close(parts.embedding_be, wanted, **EXACT)
    torch.testing.assert_close(model.module.encode_image(images), wanted, **EXACT)
    assert float(parts.residual_b.max()) < 1e-11
    assert parts.heads_blhk is None
    maps = model_maps(model)
    total = parts.mlps_bsd.sum(1) @ torch.from_numpy(maps.mlp_map) / parts.ln_std_b[:, None]
    torch.testing.assert_close(total + torch.from_numpy(maps.bias), wanted, **EXACT)
    # One block's row, from what the library's own block made of its input, position by position.
    x = trunk.stem(images)
    for stage in trunk.stages[:-1]:
        x = stage(x)
    x = trunk.stages[-1].downsample(x)
    for at, block in enumerate(trunk.stages[-1].blocks):
        y = block(x)
        for image in range(3):
            row = torch.zeros(model.width, dtype=torch.float64)
            for i in range(2):
                for j in range(2):
                    row += (y[image, :, i, j] - x[image, :, i, j]) / 4
            torch.testing.assert_close(parts.mlps_bsd[image, at + 1], row, **EXACT)
        x = y
    single = Decomposer(load_model(asked), ("mlps",))(images.float())
    assert float(single.residual_b.max()) < 1e-5


@torch.no_grad()
def test_neurons_write_what_its_blocks_write(tmp_path):
    member = MEMBERS["second version"]
    model = load_model(ModelSpec(*member.write(tmp_path, member.build())), dtype=torch.float64)
    tower = model.tower()
    x_btd = tower.enter(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    for block in tower.blocks:
        hidden_btn, written_btd = block.mlp(x_btd)
        weight, bias = block.down
        torch.testing.assert_close(hidden_btn @ weight.T + bias, written_btd, **EXACT)
        x_btd = block.rest(x_btd, block.attention(x_btd)).stream_btd


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (alone("convnext_tiny_hnf", "avg", 4, **SMALL), "norms every position"),
        (alone("convnext_tiny", "avg", 4, **SMALL, head_hidden_size=9), "has a hidden layer"),
        (alone("convnext_tiny", "max", 4, **SMALL), "pools by 'max'"),
    ],
)
def test_what_is_no_sum_is_refused(config, words):
    assert words in faults(config)[0]


def test_open_clips_names_are_taken_or_refused_with_the_reason():
    found = check_supported(ModelSpec("convnext_base_w_320", "none"))
    assert (found.family, found.layers, found.heads) == ("convnext", 3, 0)
    assert (found.grid, found.tokens, found.width, found.embed_dim) == ((10, 10), 100, 1024, 640)
    for name, words in (
        ("convnext_large_d", "its projection is an MLP"),
        ("swin_base_patch4_window7_224", r"timm's swin_.* in windows"),
        ("MobileCLIP-S1", "final_conv"),
    ):
        with pytest.raises(UnsupportedModel, match=words):
            check_supported(ModelSpec(name, "none"))
