"""The arithmetic of scale against hand-computed numbers, real files and a real server."""

from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.extraction.cost import (
    Assumptions,
    count_objects,
    count_requests,
    forward_flops,
    scale,
)
from pipeline.models import ModelSpec, check_supported, count_parameters, load_model
from pipeline.models.loading import built_parameters
from storage.images import read_rows
from tests import s3_kit
from tests.storage import stores
from tests.tiny import FEW_WORDS, tiny, write_config

LARGE = stores.metadata(
    components=("heads", "mlps"), store_dtype="float16", images=400_000_000, shard_size=4096,
    precision="bf16", layers=24, heads=16, head_dim=64, width=1024, mlp_width=4096, embed=768,
    tokens=257,
    grid=(16, 16),
)  # fmt: skip
ASSUMED = Assumptions(
    tflops=100, decodes_per_second=100, gpu_hour=2, gb_month=0.02, thousand_puts=0.005,
    thousand_gets=0.0004,
)  # fmt: skip


@pytest.fixture(scope="module")
def plan():
    return scale(
        LARGE, ASSUMED, patch_values=3 * 14 * 14, image_side=224, parameters=427_616_513,
        batch_size=256,
    )  # fmt: skip


def test_four_hundred_million_images_by_hand(plan):
    heads = 24 * 16 * 64 * 2
    assert heads == 49_152
    assert plan.heads_bytes == 400_000_000 * heads  # 20 TB
    # heads, MLPs, embedding, ln_std, residual, rounding, and key and label at 16 bytes each
    assert plan.bytes_per_image == heads + 25 * 1024 * 2 + 768 * 4 + 3 * 4 + 2 * 16
    assert plan.store_bytes == 400_000_000 * plan.bytes_per_image
    assert plan.objects["ledger"] == 97_657
    assert plan.objects["images"] == 6_104
    assert plan.objects["contributions.zarr"] == 8 * 97_657 + 8 + 1 + 3 * 2


def test_registers_are_no_patches():
    more = replace(LARGE, tokens=261, prefix=5)
    assert forward_flops(more, 588) - forward_flops(more, 0) == 2 * 256 * 588 * 1024


def test_hours_and_dollars_by_hand(plan):
    t, d = 257, 1024
    layer = 4 * t * d * d + 2 * t * t * d + 2 * t * d * 4096
    flops = 2 * (256 * 588 * d + 24 * layer + d * 768)
    assert plan.gigaflops == pytest.approx(flops / 1e9)
    assert plan.images_per_second == pytest.approx(100e12 / flops)
    assert plan.decoding_cores == pytest.approx(plan.images_per_second / 100)
    assert plan.gpu_hours == pytest.approx(400e6 * flops / 100e12 / 3600)
    assert plan.gpu_dollars == pytest.approx(2 * plan.gpu_hours)
    assert plan.month_dollars == pytest.approx(plan.store_bytes / 1e9 * 0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ModelSpec:
    config = tiny({"mlp_ratio": 2.0}, FEW_WORDS)
    return ModelSpec(write_config(tmp_path_factory.mktemp("model"), config), "none")


def test_flops_are_those_that_torch_counts(model):
    loaded = load_model(model)
    meta = stores.metadata(
        layers=3,
        heads=3,
        head_dim=16,
        width=48,
        mlp_width=96,
        embed=24,
        tokens=17,
        grid=(4, 4),
    )
    # In training mode torch takes no fused path, which its counter does not see into.
    tower = loaded.module.visual.train()
    with FlopCounterMode(display=False) as counter:
        tower(torch.zeros(1, 3, 32, 32))
    assert forward_flops(meta, 3 * 8 * 8) == counter.get_total_flops()


def test_flops_of_a_pool_are_those_of_the_blocks_before_it_too():
    sizes = {"depth": 3, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 3.0}
    tower = timm.models.VisionTransformer(
        32, 8, class_token=False, num_classes=10, global_pool="map", **sizes
    )
    meta = stores.metadata(
        layers=1, heads=4, head_dim=12, width=48, mlp_width=tower.attn_pool.mlp.fc1.out_features,
        embed=10, tokens=16, prefix=0, grid=(4, 4), reading="attention-pool", trunk_layers=3,
        trunk_mlp_width=144,
    )  # fmt: skip
    # The counter does not see into fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tower(torch.zeros(1, 3, 32, 32))
    assert forward_flops(meta, 3 * 8 * 8) == counter.get_total_flops()


def test_parameters_are_counted_without_making_them(model):
    loaded = load_model(model)
    assert count_parameters(check_supported(model)) == sum(
        p.numel() for p in loaded.module.parameters()
    )
    module = open_clip.create_model("ViT-B-32")
    counted = count_parameters(check_supported(ModelSpec("ViT-B-32", "none")))
    assert counted == sum(p.numel() for p in module.parameters())


ODD = {"norm_kwargs": {"bias": False}, "ls_init_value": 0.1, "mlp_ratio": 3.0}


@pytest.mark.parametrize(
    ("config", "vision", "text"),
    [
        ({}, {"no_ln_pre": True, "image_size": [16, 24]}, {"embed_cls": True}),
        ({"init_logit_bias": -10.0}, ODD, {"proj_bias": True}),
        ({"custom_text": True}, {"norm_kwargs": {"elementwise_affine": False}}, ODD),
        ({"custom_text": True}, {}, {"embed_cls": True}),
        ({}, {"pos_embed_type": "sin_cos_2d"}, {"proj_type": "none", "width": 24}),
        ({}, {}, {"scale_attn": True}),
    ],
)
def test_parameters_are_those_of_what_is_built(config, vision, text, tmp_path):
    path = write_config(tmp_path, tiny(vision, FEW_WORDS | text, **config))
    architecture = check_supported(ModelSpec(path, "none"))
    assert count_parameters(architecture) == built_parameters(architecture)


def test_objects_are_the_files_of_a_real_store(tmp_path):
    for components in (("heads", "mlps", "tokens"), ("mlps",)):
        url = tmp_path / "-".join(components)
        store = stores.fill(stores.new_store(str(url), images=11, components=components))
        assert count_objects(store.meta) == {name: n for name, (n, _) in store.size().items()}


def test_requests_are_those_that_a_server_sees():
    with (
        s3_kit.serve() as server,
        s3_kit.proxy(server) as proxy,
        s3_kit.used(proxy.endpoint) as bucket,
    ):
        store = stores.new_store(f"{bucket}/s", images=12)
        stores.fill(store, [0])  # the first opens the arrays
        proxy.clear()
        stores.fill(store, [1])
        writing, target = proxy.seen.copy(), proxy.targets
        proxy.clear()
        read_rows(store.url, 4, 8)
        reading = proxy.seen.copy()
    one = replace(store.meta, images=4, shard_size=4)
    puts, _, gets = count_requests(one, batch_size=4)
    assert puts - 1 == writing["PUT"], target  # the image table was put before
    assert writing["LIST"] == 0, target
    assert gets == sum((writing + reading)[kind] for kind in ("GET", "HEAD")), target


def test_the_ledger_is_listed_by_pages():
    puts, lists, gets = count_requests(LARGE, batch_size=256)
    more = count_requests(replace(LARGE, images=2 * LARGE.images), batch_size=256)
    assert [b / a for a, b in zip((puts, lists, gets), more, strict=True)] == pytest.approx(
        [2, 2, 2], rel=1e-2
    )
    assert lists < 1500
