"""Models: what is refused and how, loading, preprocessing."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file

from pipeline.extraction.decompose import Decomposer
from pipeline.models import (
    ModelSpec,
    Preprocess,
    UnsupportedModel,
    check_supported,
    load_model,
    model_maps,
    supported_models,
)
from pipeline.models.errors import ModelError
from pipeline.models.loading import digest_of
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import second_order_maps
from tests.pipeline.models.kit import CONFIG, write_config


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MobileCLIP-S1", "timm's fastvit_mci1"),
        ("swin_base_patch4_window7_224", "timm's swin_base_patch4_window7_224"),
        ("timm:resnet50", "timm's resnet50"),
    ],
)
def test_refuses_what_cannot_be_decomposed(name, words):
    with pytest.raises(UnsupportedModel, match="Supported are .* of timm's") as error:
        check_supported(ModelSpec(name, "a tag that is never looked at"))
    assert words in str(error.value)
    assert f"model {name} cannot be decomposed" in str(error.value)


@pytest.mark.parametrize(
    ("vision", "text", "words"),
    [
        ({"scale_attn": True}, {}, "norm what their attention writes"),
        ({"pool_type": "none"}, {}, "does not pool"),
        ({"layers": [1, 1, 1, 1], "head_width": 50}, {}, "768 channels do not divide"),
        ({"width": 100, "head_width": 32}, {}, "width 100 does not divide into heads"),
        ({"patch_size": 32}, {}, "image_size 16 is below its patch_size 32"),
    ],
)
def test_refuses_such_a_config_file(tmp_path, vision, text, words):
    with pytest.raises(UnsupportedModel, match=words):
        check_supported(ModelSpec(write_config(tmp_path, vision, text), "none"))


def test_unknown_names_list_near_ones():
    with pytest.raises(ValueError, match=r"unknown model 'ViT-B-23'; near names: .*ViT-B-32"):
        check_supported(ModelSpec("ViT-B-23", "none"))


def test_unknown_tags_list_those_of_the_model():
    with pytest.raises(ValueError, match="neither a tag nor a file; its tags: .*laion2b_s34b_b79k"):
        check_supported(ModelSpec("ViT-B-32", "laion3b"))


def test_weights_trained_with_another_activation_are_refused():
    with pytest.raises(ValueError, match=r"'openai' were trained with QuickGELU, but model "
                       r"ViT-B-32 runs GELU: use model ViT-B-32-quickgelu"):  # fmt: skip
        check_supported(ModelSpec("ViT-B-32", "openai"))
    architecture = check_supported(ModelSpec("ViT-B-32-quickgelu", "openai"))
    assert architecture.activation == "quickgelu"
    assert (architecture.layers, architecture.heads, architecture.head_dim) == (12, 12, 64)
    assert (architecture.tokens, architecture.width, architecture.embed_dim) == (50, 768, 512)


def test_every_builtin_is_settled_without_weights():
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"} < set(
        supported_models()
    )
    for name in open_clip.list_models():
        if name in supported_models():
            assert check_supported(ModelSpec(name, "none")).name == name
        else:
            with pytest.raises(UnsupportedModel):
                check_supported(ModelSpec(name, "none"))
    assert check_supported(ModelSpec("ViT-B/32", "none")).name == "ViT-B-32"
    tag = check_supported(ModelSpec("ViT-H-14-378-quickgelu", "dfn5b"))
    assert tag.preprocess.size == (378, 378)
    assert tag.preprocess.resize_mode == "squash"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "lacks embed_dim, vision_cfg, text_cfg"),
        (json.dumps({**CONFIG, "vision_cfg": {"depth": 3}}), "knows no depth"),
        (json.dumps({**CONFIG, "lr": 1}), "knows no lr"),
    ],
)
def test_broken_config_files(tmp_path, content, words):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        check_supported(ModelSpec(str(path), "none"))
    with pytest.raises(ValueError, match="cannot read model config"):
        check_supported(ModelSpec(str(tmp_path / "absent.json"), "none"))


def test_random_weights_follow_the_seed(tmp_path):
    path = write_config(tmp_path)
    state = torch.random.get_rng_state()
    first, again, other = (load_model(ModelSpec(path, "none", seed)) for seed in (3, 3, 4))
    assert first.weights_digest == again.weights_digest != other.weights_digest
    assert torch.equal(state, torch.random.get_rng_state())
    wide = load_model(ModelSpec(path, "none", 3), dtype=torch.float64)
    assert wide.weights_digest == first.weights_digest
    assert wide.visual.proj.dtype == torch.float64


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_config_and_weights_round_trip(tmp_path, suffix):
    path = write_config(tmp_path, custom_text=True)
    model = load_model(ModelSpec(path, "none", 1))
    state = {k: v.half().contiguous() for k, v in model.module.state_dict().items()}
    weights = tmp_path / f"weights{suffix}"
    save_file(state, weights) if suffix == ".safetensors" else torch.save(state, weights)
    hub = {
        "model_cfg": json.loads(Path(path).read_text()),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear",
                           "resize_mode": "squash", "size": 99},
    }  # fmt: skip
    (tmp_path / "hub.json").write_text(json.dumps(hub), encoding="utf-8-sig")  # as Windows does
    loaded = load_model(ModelSpec(str(tmp_path / "hub.json"), str(weights), 2))
    assert loaded.preprocess == Preprocess(
        (16, 16), (0.5,) * 3, (0.25,) * 3, "bilinear", "squash", 0
    )
    values = loaded.module.state_dict()
    assert all(torch.equal(values[k], v.float()) for k, v in state.items())
    assert loaded.weights_digest != model.weights_digest
    assert (loaded.layers, loaded.heads, loaded.head_dim, loaded.width) == (2, 3, 8, 24)
    assert (loaded.tokens, loaded.embed_dim, loaded.mlp_width) == (5, 12, 96)


def test_the_embedded_world_is_named_shortly():
    architecture = check_supported(ModelSpec("microworld", "none"))
    assert (architecture.layers, architecture.tokens, architecture.activation) == (4, 65, "gelu")
    with pytest.raises(ValueError, match="neither a tag nor a file; its tags: microworld"):
        check_supported(ModelSpec("microworld", "openai"))


def test_the_recorded_activation_runs_in_the_image_tower(tmp_path):
    tanh = {"act_kwargs": {"approximate": "tanh"}}
    for name, kwargs in {
        "gelu": {"text": tanh},
        "quickgelu": {"quick_gelu": True},
        "gelu_tanh": {"vision": tanh},
    }.items():
        model = load_model(ModelSpec(write_config(tmp_path, **kwargs), "none"))
        for block in model.visual.transformer.resblocks:
            kind = type(block.mlp.gelu).__name__.lower()
            if getattr(block.mlp.gelu, "approximate", "none") == "tanh":
                kind += "_tanh"
            assert model.activation == name == kind


class Trap:
    """Unpickles into a call."""

    def __reduce__(self):
        return (print, ("executed",))


def test_bad_weights_are_refused_in_words(tmp_path, capsys):
    path = write_config(tmp_path)
    state = load_model(ModelSpec(path, "none")).module.state_dict()

    def refuse(name, content, words):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=words):
            load_model(ModelSpec(path, str(tmp_path / name)))

    save_file(state, tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    refuse("cut.safetensors", good[:500], "is damaged or no weights file")
    refuse(
        "trap.pt", pickle.dumps(Trap(), protocol=2), "could run code: convert it to .safetensors"
    )
    refuse("weights.txt", b"", "must end in one of .safetensors")
    refuse("empty.pt", b"", "damaged")
    buffer = io.BytesIO()
    torch.save({k: v for k, v in state.items() if "ln_post" not in k}, buffer)
    refuse("short.pt", buffer.getvalue(), r"does not fit (.|\n)*ln_post")
    for name, content in (("list.pt", [1, 2]), ("nothing.pt", {})):
        torch.save(content, tmp_path / name)
        refuse(name, (tmp_path / name).read_bytes(), r"save the model's state_dict\(\)")
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="neither a tag nor a file; its tags: none"):
        load_model(ModelSpec(path, "openai"))
    with pytest.raises(ValueError, match=r"torch.int8 is none of"):
        load_model(ModelSpec(path, "none"), dtype=torch.int8)


def test_layer_scale_is_folded_exactly(tmp_path):
    path = write_config(tmp_path, {"ls_init_value": 0.3, "output_tokens": True})
    torch.manual_seed(0)
    plain = open_clip.CLIP(**json.loads(Path(path).read_text())).double().eval()
    with torch.no_grad():
        for name, value in plain.named_parameters():
            value.add_(torch.randn_like(value) * 0.1)
            if "logit" not in name:
                value.copy_(value.float())
    save_file({k: v.float() for k, v in plain.state_dict().items()}, tmp_path / "w.safetensors")
    model = load_model(ModelSpec(path, str(tmp_path / "w.safetensors")), dtype=torch.float64)
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        wanted, _ = plain.visual(images)
        got = model.module.encode_image(images)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    assert not any("ls_" in name for name in model.visual.state_dict())


@pytest.mark.parametrize("norm", [{"bias": False}, {"elementwise_affine": False, "eps": 1e-3}])
def test_layer_norms_without_weights_or_biases_are_taken_apart(tmp_path, norm):
    path = write_config(tmp_path, {"norm_kwargs": norm}, {"norm_kwargs": norm})
    plain = open_clip.CLIP(**json.loads(Path(path).read_text())).eval()
    with torch.no_grad():
        for name, value in plain.named_parameters():
            value.add_(torch.randn_like(value) * 0.1 * ("logit" not in name))
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    model = load_model(ModelSpec(path, str(tmp_path / "w.safetensors")), dtype=torch.float64)
    assert model.weights_digest == digest_of(plain.state_dict())
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    parts = Decomposer(model, ("heads", "mlps", "tokens"), (0, 1))(images)
    with torch.inference_mode():
        wanted = plain.double().encode_image(images)
    torch.testing.assert_close(parts.embedding_be, wanted, rtol=1e-10, atol=1e-10)
    assert float(parts.residual_b.max()) < 1e-12
    found = NeuronPass(model, (0,), ("coefficients", "totals"))(images)
    total = second_order_maps(model, 0, torch.float64).total(found.coefficients[0])
    torch.testing.assert_close(total / found.ln_std_b[:, None], found.totals[0])


@pytest.mark.parametrize(
    ("vision", "top", "words"),
    [
        ({"act_kwargs": {"approximate": "tanh"}}, {"quick_gelu": True}, "takes no act_kwargs"),
        ({"norm_kwargs": {"epsilon": 1}}, {}, "open_clip .* cannot build .*'epsilon'"),
        ({"act_kwargs": {"inplace": True}}, {}, "open_clip .* cannot build .*'inplace'"),
        ({"norm_kwargs": {"dtype": "float64"}}, {}, "open_clip .* cannot build "),
    ],
)
def test_what_open_clip_cannot_build_is_refused_with_the_reason(tmp_path, vision, top, words):
    with pytest.raises(ModelError, match=words):
        load_model(ModelSpec(write_config(tmp_path, vision, **top), "none"))


def test_maps_are_the_matrices_of_the_equations(tmp_path):
    model = load_model(ModelSpec(write_config(tmp_path), "none"), dtype=torch.float64)
    with torch.no_grad():
        for value in model.visual.parameters():
            value.add_(torch.randn_like(value) * 0.1)
    maps, d = model_maps(model), model.width
    centre = np.eye(d) - np.ones((d, d)) / d
    tail = model.visual.proj.numpy().T @ np.diag(model.visual.ln_post.weight.numpy()) @ centre
    for layer, block in enumerate(model.visual.transformer.resblocks):
        w_o, b_o = block.attn.out_proj.weight.numpy(), block.attn.out_proj.bias.numpy()
        for head in range(model.heads):
            columns = w_o[:, head * 8 : head * 8 + 8]
            np.testing.assert_allclose(maps.head_map[layer, head], (tail @ columns).T, atol=1e-14)
        np.testing.assert_allclose(maps.attention_bias[layer], tail @ b_o, atol=1e-14)
    np.testing.assert_allclose(maps.mlp_map, tail.T, atol=1e-14)
    beta = model.visual.ln_post.bias.numpy()
    np.testing.assert_allclose(maps.bias, model.visual.proj.numpy().T @ beta, atol=1e-14)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_preprocessing_equals_open_clip_bit_for_bit(resize_mode, interpolation, size):
    mean, std = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)
    preprocess = Preprocess(size, mean, std, interpolation, resize_mode, 7)
    plain = image_transform(size, is_train=False, mean=mean, std=std, resize_mode=resize_mode,
                            interpolation=interpolation, fill_color=7)  # fmt: skip
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (31, 77), (101, 43), (32, 32), (24, 40), (13, 200)]:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for mode in ("RGB", "L"):
            image = Image.fromarray(pixels).convert(mode)
            ours = preprocess.to_tensor(torch.from_numpy(preprocess.to_uint8(image))[None])[0]
            assert torch.equal(ours, plain(image))


def test_bad_preprocessing_is_refused():
    good = ((8, 8), (0.5,) * 3, (0.5,) * 3, "bicubic", "shortest", 0)
    with pytest.raises(ValueError, match="interpolation 'cubic' is none of bicubic"):
        Preprocess(*good[:3], "cubic", "shortest", 0)
    with pytest.raises(ValueError, match="std .* positive"):
        Preprocess(*good[:2], (0.5, 0.0, 0.5), *good[3:])
    with pytest.raises(ValueError, match=r"expected uint8 \(batch, 8, 8, 3\)"):
        Preprocess(*good).to_tensor(torch.zeros(1, 3, 8, 8))
