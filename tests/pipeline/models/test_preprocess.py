"""Preprocessing against open_clip's and timm's own transforms, over the settings of their tags."""

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg

from pipeline.images.decode import decode
from pipeline.images.resize import Resize
from pipeline.models import Preprocess, openclip_files

MODULES = ("vision_transformer", "eva", "beit", "convnext", "deit")
NAMES = ("interpolation", "crop_pct", "crop_mode", "mean", "std")


def pair(size):
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)


def openclip_settings():
    """Size and settings of each model and tag, each once."""
    found = {}
    for name in openclip_files.list_models():
        size = pair(openclip_files.get_model_config(name)["vision_cfg"].get("image_size", 224))
        for tag in ("", *openclip_files.list_pretrained_tags_by_model(name)):
            overlay = openclip_files.get_pretrained_cfg(name, tag) if tag else {}
            merged = merge_preprocess_dict(PreprocessCfg(), overlay) | {"size": size}
            found[str(merged)] = (size, overlay, merged)
    return list(found.values())


def timm_settings():
    """Size and settings of each weights tag of the families' models, each once."""
    found = {}
    for module in MODULES:
        for name in timm.list_models(module=module, pretrained=True, include_tags=True):
            given = get_pretrained_cfg(name).to_dict()
            size = tuple(given["input_size"][1:])
            found[str((size, *(given.get(n) for n in NAMES)))] = (size, given)
    return list(found.values())


def pictures():
    """Of odd sizes: wide, high, tiny, large, and as large as inputs are."""
    rng = np.random.default_rng(0)
    for height, width in [(37, 101), (231, 59), (3, 5), (403, 311), (224, 224), (300, 225)]:
        yield Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = list(pictures())
SIDES = st.integers(12, 40)


def ours(preprocess, image):
    return preprocess.to_tensor(torch.from_numpy(preprocess.to_uint8(image).copy())[None])[0]


def of_timm(size, given):
    theirs = create_transform(**resolve_data_config(pretrained_cfg=given))
    return Preprocess.of_timm(size, given), theirs


def of_openclip(size, overlay, merged):
    return Preprocess.of(size, overlay), image_transform_v2(PreprocessCfg(**merged), is_train=False)


def test_every_tag_of_open_clip_is_prepared_as_open_clip_does():
    found = openclip_settings()
    assert len(found) > 25
    assert {merged["resize_mode"] for *_, merged in found} == {"shortest", "squash"}
    for at, case in enumerate(found):
        preprocess, theirs = of_openclip(*case)
        for image in (PICTURES[at % 6], PICTURES[(at + 1) % 6]):
            assert torch.equal(ours(preprocess, image), theirs(image)), case


def test_every_tag_of_timm_is_prepared_as_timm_does():
    found = timm_settings()
    assert len(found) > 50
    assert {given["crop_mode"] for _, given in found} >= {"center", "squash"}
    for at, case in enumerate(found):
        preprocess, theirs = of_timm(*case)
        for image in (PICTURES[at % 6], PICTURES[(at + 1) % 6]):
            assert torch.equal(ours(preprocess, image), theirs(image)), case


@settings(max_examples=100, deadline=None)
@given(
    picture=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    size=st.tuples(SIDES, SIDES) | SIDES.map(lambda side: (side, side)),
    crop_pct=st.floats(0.5, 1.2) | st.just(1.0) | st.none(),
    crop_mode=st.sampled_from(["center", "squash", "border", None]),
    interpolation=st.sampled_from(["bicubic", "bilinear", "nearest", "box", "hamming", "lanczos"]),
    mean=st.sampled_from([(0.5, 0.4, 0.3), None]),
)  # fmt: skip
def test_whatever_timm_is_told_it_is_followed(
    picture, size, crop_pct, crop_mode, interpolation, mean
):
    given = {"input_size": (3, *size), "crop_pct": crop_pct, "crop_mode": crop_mode,
             "interpolation": interpolation, "mean": mean}  # fmt: skip
    preprocess, theirs = of_timm(size, given)
    pixels = np.random.default_rng(1).integers(0, 256, (*picture, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert torch.equal(ours(preprocess, image), theirs(image))
    assert Resize.of(preprocess.identity()) == preprocess.resize  # from a store's metadata


def test_photographs_are_prepared_as_the_libraries_do(shared: Path):
    files = sorted((shared / "data" / "imagenet_sample").rglob("*.JPEG"))[::16]
    assert files
    cases = [of_timm(*case) for case in timm_settings()[::9]]
    cases += [of_openclip(*case) for case in openclip_settings()[::5]]
    for file, (preprocess, theirs) in zip(files * len(cases), cases, strict=False):
        image = decode(file.read_bytes())
        plain = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
        if np.array_equal(np.asarray(image), np.asarray(plain)):  # it was not lying on its side
            assert torch.equal(ours(preprocess, image), theirs(plain))


def test_the_identity_of_what_open_clip_does_says_nothing_of_crops():
    before = {"size", "mean", "std", "interpolation", "resize_mode", "fill_color", "decoding"}
    assert set(Preprocess.of((8, 8), {}).identity()) == before
    assert set(Preprocess.of_timm((8, 8), {"crop_pct": 1.0}).identity()) == before
    cut = Preprocess.of_timm((8, 8), {"crop_pct": 0.9})
    assert cut.identity() == {**asdict(cut), "decoding": cut.identity()["decoding"]}
