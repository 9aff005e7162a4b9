"""One way of naming a model: what each spelling means, and with which weights."""

import json
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline.models import ModelSpec, check_supported, load_model
from pipeline.models.checkpoint import HubFile
from pipeline.models.errors import ModelError, UnsupportedModel
from pipeline.models.names import parse
from tests.pipeline.models.kit import CONFIG, write_config

LAION = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
DINO = "vit_small_patch16_224"


@pytest.mark.parametrize(
    ("text", "pretrained", "model", "weights"),
    [
        ("ViT-B-32", "openai", "ViT-B-32", "openai"),
        ("ViT-B/32", "laion2b_e16", "ViT-B/32", "laion2b_e16"),
        ("ViT-B/32/laion2b_e16", None, "ViT-B/32", "laion2b_e16"),
        ("ViT-B-32/openai", "openai", "ViT-B-32", "openai"),
        ("open_clip:ViT-B-32", "none", "ViT-B-32", "none"),
        ("open_clip:ViT-B-32/laion2b_e16", None, "ViT-B-32", "laion2b_e16"),
        ("ViT-B-16-SigLIP", None, "ViT-B-16-SigLIP", "webli"),
        ("ViT-B-32//weights/w.pt", None, "ViT-B-32", "/weights/w.pt"),
        (f"timm:{DINO}", "none", f"timm:{DINO}", "none"),
        (f"timm:{DINO}.dino", None, f"timm:{DINO}", "dino"),
        (f"timm:{DINO}/dino", None, f"timm:{DINO}", "dino"),
        (f"timm:{DINO}.dino/dino", None, f"timm:{DINO}", "dino"),
        (f"timm:{DINO}//w/w.pt", None, f"timm:{DINO}", "/w/w.pt"),
        ("microworld", None, "microworld", "microworld"),
        ("microworld/none", None, "microworld", "none"),
        (f"hf-hub:{LAION}", None, "ViT-B-32", "laion2b_s34b_b79k"),
        (f"hf-hub:{LAION}", "none", "ViT-B-32", "none"),
        (f"https://huggingface.co/{LAION}", None, "ViT-B-32", "laion2b_s34b_b79k"),
        (f"hf-hub:timm/{DINO}.dino", None, f"timm:{DINO}", "dino"),
        ("hf-hub:openai/clip-vit-base-patch32", None, "ViT-B-32-quickgelu", "openai"),
    ],
)
def test_what_a_name_means(text, pretrained, model, weights):
    spec = (parse(text).spelled, weights) if pretrained is None else None
    name = parse(text)
    assert name.spelled == model
    assert (pretrained or name.weights or name.usual) == weights
    assert spec is None or spec == (model, weights)


@pytest.mark.parametrize(
    ("text", "pretrained", "words"),
    [
        ("ViT-B-32/openai", "laion2b_e16", "names its weights, openai, and `pretrained` names"),
        (f"timm:{DINO}.dino/augreg_in1k", None, "names two weights, dino and augreg_in1k"),
        ("ViT-B-32", None, "say by which weights, as ViT-B-32/openai; its tags: openai, .* more"),
        ("ViT-B-23", None, "unknown model 'ViT-B-23'; near names: ViT-B-32"),
        (DINO, "none", f"timm's names are written timm:{DINO}"),
        ("timm:", None, "write what is meant behind timm:"),
        ("microworld:mea", None, "the embedded world's are microworld"),
        (f"hf-hub:{LAION}/more", None, "write hf-hub:ORGANISATION/NAME"),
    ],
)
def test_what_is_not_clear_is_said(text, pretrained, words):
    with pytest.raises(ModelError, match=words) as caught:
        check_supported(ModelSpec.of(text, pretrained))
    assert "\n" not in str(caught.value)


def test_weights_are_not_named_twice_behind_anyones_back():
    with pytest.raises(ModelError, match="names its weights, openai"):
        check_supported(ModelSpec("ViT-B-32/openai", "none"))


def test_a_model_that_is_refused_is_refused_before_its_weights_are_asked_for():
    with pytest.raises(UnsupportedModel, match="timm's resnet50"):
        ModelSpec.of("timm:resnet50")


@pytest.fixture
def weights(tmp_path) -> dict:
    model = load_model(ModelSpec(write_config(tmp_path), "none", 3))
    return {name: v.contiguous() for name, v in model.module.state_dict().items()}


def test_a_folder_holds_its_configuration_and_its_weights(tmp_path, weights):
    folder = tmp_path / "theirs"
    folder.mkdir()
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="must hold one file of weights"):
        check_supported(ModelSpec.of(f"local-dir:{folder}"))
    save_file(weights, folder / "open_clip_model.safetensors")
    spec = ModelSpec.of(f"local-dir:{folder}")
    architecture = check_supported(spec)
    assert architecture.checkpoint == folder / "open_clip_model.safetensors"
    assert architecture.preprocess.mean == (0.1, 0.2, 0.3)
    assert (
        load_model(spec).weights_digest
        == load_model(ModelSpec(write_config(tmp_path), "none", 3)).weights_digest
    )


def test_a_repository_is_read_from_this_machines_cache(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    place = tmp_path / "models--somebody--their-clip"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    with pytest.raises(ModelError, match="hf-hub:somebody/their-clip is not on this machine"):
        check_supported(ModelSpec.of("hf-hub:somebody/their-clip"))
    (snapshot / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    save_file(weights, snapshot / "open_clip_model.safetensors")
    spec = ModelSpec.of("hf-hub:somebody/their-clip")
    assert (spec.model, spec.pretrained) == ("hf-hub:somebody/their-clip", "own")
    checkpoint = check_supported(spec).checkpoint
    assert isinstance(checkpoint, HubFile)
    assert checkpoint.repo == "somebody/their-clip"
    assert load_model(spec).module.state_dict().keys() == weights.keys()


def test_configurations_of_other_kinds_are_called_by_name(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(ModelError, match=r"transformers \(siglip\)"):
        check_supported(ModelSpec(str(path), "none"))
    path.write_text(json.dumps({"architecture": "vit_unheard_of"}))
    with pytest.raises(ModelError, match="knows no model 'vit_unheard_of'"):
        check_supported(ModelSpec(str(path), "none"))


def test_timms_own_configuration_is_read(tmp_path):
    """As timm's hub writes it: what decides the model, and how pictures are prepared."""
    from pipeline.models.configs import of_file

    cfg = timm.get_pretrained_cfg(f"{DINO}.dino").to_dict()
    path = Path(tmp_path / "config.json")
    path.write_text(
        json.dumps({"architecture": DINO, "num_classes": 5, "pretrained_cfg": cfg}, default=list)
    )
    found = of_file(str(path))
    assert found.config == {
        "architecture": DINO,
        "num_classes": 5,
        "pretrained_cfg": {"input_size": [3, 224, 224]},
    }
    assert found.pictures["crop_pct"] == cfg["crop_pct"]
