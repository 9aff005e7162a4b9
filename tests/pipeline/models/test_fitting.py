"""Image towers alone, and timm's models in the layouts that others publish them in."""

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.models import ModelSpec, load_model
from pipeline.models.alone import ImageAlone
from pipeline.models.errors import ModelError
from pipeline.models.fitting import fitted, has_texts
from pipeline.models.loading import digest_of
from pipeline.models.weights import read_state
from tests.pipeline.models.kit import CONFIG, write_config

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def drawn(module):
    torch.manual_seed(1)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn_like(value) * 0.1)
    return module.eval()


def vit(**settings):
    return drawn(timm.models.vision_transformer.VisionTransformer(**VIT | settings))


def eva(**settings):
    return drawn(timm.models.eva.Eva(**VIT | settings))


def alone(trunk, state):
    """Bare names of a trunk, as another file has them, fitted to the model."""
    return fitted(dict(state), ImageAlone(trunk), "file F")


def agree(found, trunk):
    wanted = ImageAlone(trunk).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


# -- an image tower alone ------------------------------------------------------------------


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("custom", [False, True])
def test_an_image_tower_alone_gives_images_and_no_texts(bare, custom, tmp_path):
    path = write_config(tmp_path, custom_text=custom)
    whole = load_model(ModelSpec(path, "none", 3))
    images = {n: v for n, v in whole.module.state_dict().items() if n.startswith("visual.")}
    named = {n.removeprefix("visual.") if bare else n: v for n, v in images.items()}
    save_file(named, tmp_path / "images.safetensors")
    model = load_model(ModelSpec(path, str(tmp_path / "images.safetensors")))
    assert whole.has_texts
    assert not model.has_texts
    assert model.without_texts.endswith("images.safetensors holds the image tower alone")
    assert model.weights_digest == digest_of(images) != whole.weights_digest
    pixels = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = whole.module.encode_image(pixels)
        assert torch.equal(model.module.encode_image(pixels), expected)
    assert not hasattr(model.module, "encode_text")


def test_a_part_of_an_image_tower_is_none(tmp_path):
    path = write_config(tmp_path)
    state = load_model(ModelSpec(path, "none", 3)).module.state_dict()
    held = {n: v for n, v in state.items() if n.startswith("visual.") and n != "visual.proj"}
    save_file(held, tmp_path / "images.safetensors")
    with pytest.raises(ModelError, match=r"1 names are missing \(visual.proj\)"):
        load_model(ModelSpec(path, str(tmp_path / "images.safetensors")))


# -- timm ----------------------------------------------------------------------------------


def test_bare_names_are_the_trunk_s():
    trunk = vit(num_classes=5)
    agree(alone(trunk, trunk.state_dict()), trunk)


def test_a_classifier_that_is_not_asked_for_is_left_out():
    trunk, state = vit(num_classes=0), vit(num_classes=5).state_dict()
    trunk.pretrained_cfg = {"classifier": "head"}
    agree(alone(trunk, state), trunk)
    with pytest.raises(ModelError, match=r"2 names are missing \(visual.head.bias, "):
        alone(vit(num_classes=5), trunk.state_dict())


def test_a_trainer_s_averaged_weights_are_timm_s(tmp_path):
    last, averaged = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    for name in ("state_dict_ema", "model_ema"):
        torch.save({"state_dict": last, name: averaged, "epoch": 3}, tmp_path / "w.pt")
        assert read_state(tmp_path / "w.pt", averaged=True)["a"] == 1
        assert read_state(tmp_path / "w.pt")["a"] == 0


def test_dinov2_as_meta_publishes_it():
    trunk = vit(num_classes=0, init_values=1.0, reg_tokens=2, no_embed_class=True)
    state = trunk.state_dict()
    meta = {n: v for n, v in state.items() if n != "reg_token"}
    first = torch.randn(1, 1, 24)
    meta["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    meta |= {"cls_token": state["cls_token"] - first, "register_tokens": state["reg_token"],
             "mask_token": torch.zeros(1, 24)}  # fmt: skip
    found = alone(trunk, meta)
    torch.testing.assert_close(found.pop("visual.cls_token"), state["cls_token"])
    assert all(torch.equal(v, state[n.removeprefix("visual.")]) for n, v in found.items())
    plain = vit(num_classes=0, init_values=1.0)
    agree(alone(plain, {**plain.state_dict(), "mask_token": torch.zeros(1, 24)}), plain)


def test_dinov3_as_meta_publishes_it(capsys):
    trunk = eva(num_classes=0, use_rot_pos_emb=True, use_abs_pos_emb=False, num_reg_tokens=2,
                init_values=1.0, rope_type="dinov3", qkv_bias=False)  # fmt: skip
    meta = {}
    for name, value in trunk.state_dict().items():
        name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        meta[name.replace("reg_token", "storage_tokens")] = value
    meta |= {"mask_token": torch.zeros(1, 24), "rope_embed.periods": torch.ones(4)}
    meta |= {f"blocks.{i}.attn.qkv.bias": torch.zeros(72) for i in range(2)}
    meta |= {f"blocks.{i}.attn.qkv.bias_mask": torch.zeros(72) for i in range(2)}
    agree(alone(trunk, meta), trunk)
    assert capsys.readouterr().out == ""


def test_deit_iii_and_mae_as_meta_publishes_them():
    trunk = vit(num_classes=5, init_values=1.0, no_embed_class=True)
    state = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
             for n, v in trunk.state_dict().items()}  # fmt: skip
    agree(alone(trunk, state), trunk)
    mae = vit(num_classes=0)
    more = {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.zeros(16, 24),
            "decoder_blocks.0.norm1.weight": torch.ones(16)}  # fmt: skip
    agree(alone(mae, mae.state_dict() | more), mae)


def test_a_whole_clip_gives_timm_its_image_tower():
    trunk = vit(num_classes=0)
    state = {f"visual.trunk.{n}": v for n, v in trunk.state_dict().items()}
    texts = {"text.ln_final.weight": torch.ones(3), "logit_scale": torch.ones(())}
    found = alone(trunk, state | texts)
    assert set(found) - texts.keys() == {f"visual.{n}" for n in trunk.state_dict()}
    torch.manual_seed(0)
    clip = open_clip.CLIP(**CONFIG).state_dict()  # open_clip's own ViT in timm's names
    trunk = vit(num_classes=12, pre_norm=True, patch_size=CONFIG["vision_cfg"]["patch_size"])
    found = alone(trunk, clip)
    assert torch.equal(found["visual.blocks.1.attn.qkv.weight"],
                       clip["visual.transformer.resblocks.1.attn.in_proj_weight"])  # fmt: skip


def test_aimv2_as_apple_publishes_it():
    trunk = drawn(timm.create_model("aimv2_large_patch14_224", img_size=28, embed_dim=48, depth=2,
                                    num_heads=3))  # fmt: skip
    swaps = {"patch_embed.": "preprocessor.patchifier.", "pos_embed": "preprocessor.pos_embed",
             "blocks.": "trunk.blocks.", "norm1": "norm_1", "norm2": "norm_2",
             "fc1_g": "fc1", "fc1_x": "fc3"}  # fmt: skip
    apple = {}
    for name, value in trunk.state_dict().items():
        name = "trunk.post_trunk_norm.weight" if name == "norm.weight" else name
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        apple[name] = value
    agree(alone(trunk, apple), trunk)


@pytest.fixture(scope="module")
def perception():
    """A whole PE of open_clip's: timm's image tower, open_clip's text tower."""
    vision = {"timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map",
              "timm_proj": None, "image_size": 32}  # fmt: skip
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    return drawn(open_clip.CustomTextCLIP(embed_dim=512, vision_cfg=vision, text_cfg=text))


def test_pe_as_meta_publishes_it(perception):
    state = perception.state_dict()
    swaps = {"patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm1": "ln_1", "norm2": "ln_2",
             "qkv.": "in_proj_", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    meta = {}
    for name, value in state.items():
        if not name.startswith("visual."):
            meta[name.removeprefix("text.")] = value
            continue
        name = name.removeprefix("visual.trunk.")
        if name.startswith("blocks."):
            name = name.replace("attn.proj", "attn.out_proj")
            name = f"transformer.res{name}"
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        meta[f"visual.{name}"] = value
    images = {n.removeprefix("visual."): v for n, v in meta.items() if n.startswith("visual.")}
    images.pop("head.bias")
    meta = {n: v for n, v in meta.items() if not n.startswith("visual.")}
    images["proj"] = images.pop("head.weight").T
    images["class_embedding"] = images.pop("cls_token")[0, 0]
    images["positional_embedding"] = images.pop("pos_embed")[0]
    images |= {"ln_post.weight": images.pop("norm.weight"), "ln_post.bias": images.pop("norm.bias")}
    pool = {n: images.pop(n) for n in list(images) if n.startswith("attn_pool.")}
    for kind in ("weight", "bias"):
        both = [pool.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
        pool[f"attn_pool.attn.in_proj_{kind}"] = torch.cat(both)
        pool[f"attn_pool.attn.out_proj.{kind}"] = pool.pop(f"attn_pool.proj.{kind}")
        pool[f"attn_pool.layernorm.{kind}"] = pool.pop(f"attn_pool.norm.{kind}")
    pool["attn_pool.probe"] = pool.pop("attn_pool.latent")
    meta |= {f"visual.{n}": v for n, v in (images | pool).items()}
    found = fitted(meta, perception, "file F")
    wanted = state | {"visual.trunk.head.bias": torch.zeros(512)}  # which Meta's has not
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_trunk_s_own_names_are_a_clip_s_image_tower(perception):
    found = fitted(perception.visual.trunk.state_dict(), perception, "file F")
    wanted = {n: v for n, v in perception.state_dict().items() if n.startswith("visual.")}
    assert found.keys() == wanted.keys()
    assert not has_texts(found)


@pytest.mark.parametrize("more", [{}, {"mask_token": torch.zeros(1, 24)}])
def test_nothing_is_interpolated(more):
    state = vit(num_classes=0, img_size=32).state_dict() | more
    words = r"positions are not interpolated: take the config of the size"
    with pytest.raises(ModelError, match=words):
        alone(vit(num_classes=0), state)
    odd = {n.replace("mlp.fc1", "mlp.w12"): v for n, v in state.items()}
    odd["mask_token"] = torch.zeros(1, 24)
    with pytest.raises(ModelError, match="not interpolated"):
        alone(vit(num_classes=0), odd)
    with pytest.raises(ModelError, match="not interpolated|have another shape"):
        alone(vit(num_classes=0), vit(num_classes=0, patch_size=4).state_dict())


@pytest.mark.parametrize(
    "name", ["embeddings.cls_token", "vision_model.x", "encoder.layer.0.attention.key.weight"]
)
def test_transformers_own_names_are_refused(name):
    with pytest.raises(ModelError, match="key names of Hugging Face's transformers"):
        alone(vit(), {name: torch.zeros(1)})
