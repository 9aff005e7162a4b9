"""Pictures by a pipeline of diffusers and by a server, over real files and real HTTP."""

import base64
import io
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.adversarial.choices import parse_drawer
from pipeline.adversarial.drawers import PipelineDrawer, ServerDrawer
from pipeline.adversarial.drawing import png
from pipeline.adversarial.pictures import draw_pictures, drawer_facts, drawer_identity
from storage.errors import FacetError
from tests.pipeline.adversarial.described import described
from tests.pipeline.adversarial.tiny_pipeline import tiny_pipeline
from tests.pipeline.language.chat_kit import served
from tests.refusals import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def drawer(folder):
    return PipelineDrawer(str(folder), "cpu")


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image).astype(int)


# -- a pipeline ----------------------------------------------------------------------------


def test_a_picture_is_of_its_description_and_its_seed(drawer):
    first = pixels(drawer("a red star", 3))
    assert first.shape == (16, 16, 3)
    assert np.array_equal(first, pixels(drawer("a red star", 3)))
    assert np.abs(first - pixels(drawer("a red star", 4))).max() > 20
    assert not np.array_equal(first, pixels(drawer("many words of a blue heart", 3)))


class Runs:
    """What a pickle may do as it is read: makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_pickle_is_never_read(folder, tmp_path, part):
    (weights,) = shutil.copytree(folder, tmp_path / "p").glob(f"{part}/*.safetensors")
    weights.unlink()
    name = "pytorch_model" if part == "text_encoder" else weights.stem
    for what in (Runs(tmp_path / "ran"), {}):
        with (weights.parent / f"{name}.bin").open("wb") as file:
            torch.save(what, file)
        with refused(FacetError, f"the weights of its {part} are a pickle"):
            parse_drawer(f"diffusers:{tmp_path / 'p'}")
        with pytest.raises(FacetError, match="is no pipeline: .*safetensors"):
            PipelineDrawer(str(tmp_path / "p"), "cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("index", ["[]", "{}", "{", '{"_class_name": ["mine", "Mine"]}'])
def test_a_folder_with_a_strange_index_is_no_pipeline(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    (tmp_path / "mine.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(FacetError, match="is no pipeline: ."):
        PipelineDrawer(str(tmp_path), "cpu")
    assert not (tmp_path / "ran").exists()  # nor is code that lies there run


def test_pictures_of_a_pipeline_are_kept(here, folder, drawer, tmp_path):
    """The stage as a whole draws what the pipeline alone would, and not what it has."""
    chosen, asked = parse_drawer(f"diffusers:{folder}"), described("a red star", "a cat")
    found = draw_pictures(asked, chosen, "star", "heart", 1, 7, str(tmp_path))
    for row in found.itertuples():
        kept = np.asarray(Image.open(tmp_path / row.file))
        assert np.array_equal(kept, pixels(drawer(row.text, row.seed)))
    assert list(found["became"]) == ["drawn"] * 2
    assert list(found["there"]) == [None] * 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    again = draw_pictures(asked, chosen, "star", "heart", 1, 7, str(tmp_path))
    assert again.equals(found)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    assert drawer_facts(chosen).keys() == {"diffusers"}


def test_what_a_safety_checker_leaves_black_says_so(drawer, monkeypatch):
    made = SimpleNamespace(images=[Image.new("RGB", (8, 8))], nsfw_content_detected=[True])
    real = drawer._pipe
    monkeypatch.setattr(drawer, "_pipe", lambda **_: made)
    assert drawer("a cat", 0).why == "its safety checker found fault with it"
    monkeypatch.setattr(drawer, "_pipe", real)
    assert drawer("a cat", 0).why == ""


def test_a_pipeline_is_known_by_what_its_files_hold(folder, tmp_path):
    chosen = parse_drawer(f"diffusers:{folder}")
    assert drawer_identity(parse_drawer("diffusers:some/name")) == "diffusers:some/name"
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    known = drawer_identity(chosen)
    assert drawer_identity(parse_drawer(f"diffusers:{copy}")) == known
    with next((copy / "unet").glob("*.safetensors")).open("ab") as weights:
        weights.write(b"1")
    assert drawer_identity(parse_drawer(f"diffusers:{copy}")) != known


def test_code_that_a_folder_brings_is_not_run(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_text())
    index["_class_name"] = ["brought", "Brought"]
    (copy / "model_index.json").write_text(json.dumps(index))
    (copy / "brought.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "from diffusers import StableDiffusionPipeline as Brought\n"
    )
    with refused(FacetError, "is no pipeline"):
        PipelineDrawer(str(copy), "cpu")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_text_to_image_pipeline_is_refused(tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text("{}")
    with pytest.raises(FacetError, match=r"^diffusers:.*empty is no pipeline: "):
        PipelineDrawer(str(tmp_path / "empty"), "cpu")
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "faces")
    with pytest.raises(FacetError, match=r"takes no description \(DDPMPipeline\)"):
        PipelineDrawer(str(tmp_path / "faces"), "cpu")


# -- a server ------------------------------------------------------------------------------


def image(text: str) -> Image.Image:
    """A picture that is another for every text."""
    rng = np.random.default_rng(len(text))
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))


def answer(asked: dict) -> tuple[int, str]:
    if "spoon" in asked["prompt"]:
        return 400, json.dumps({"error": {"code": "content_policy_violation"}})
    made = base64.b64encode(png(image(asked["prompt"]))).decode()
    return 200, json.dumps({"created": 0, "data": [{"b64_json": made}]})


def test_a_servers_pictures_and_refusals(tmp_path, monkeypatch):
    with served(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        chosen, asked = parse_drawer("openai:dall-e"), described("a red star", "a star, a spoon")
        found = draw_pictures(asked, chosen, "star", "heart", 2, 7, str(tmp_path))
        assert list(found["became"]) == ["drawn"] * 2 + ["refused"] * 2
        assert all("content_policy_violation" in why for why in found["why"][2:])
        for file in found["file"][:2]:
            kept = np.asarray(Image.open(tmp_path / file))
            assert np.array_equal(kept, np.asarray(image("a red star")))
        assert len(server.asked) == 4
        body = server.asked[0]
        assert body["path"] == "images/generations"
        assert body["key"] == "secret"
        assert {"model", "prompt", "n", "response_format"} <= body.keys()
        assert "seed" not in body
        draw_pictures(asked, chosen, "star", "heart", 2, 7, str(tmp_path))
        assert len(server.asked) == 4  # a refusal is an answer, too
        assert drawer_facts(chosen) == {"server": server.url}
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_models_that_always_answer_with_pictures_are_not_told_to():
    with served(answer) as server:
        ServerDrawer(server.url, "gpt-image-1")("a star", 0)
        assert "response_format" not in server.asked[0]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((401, "{}"), "wants another key"),
        ((404, '{"error": "no such model"}'), "no such model"),
        ((200, '{"data": [{"url": "http://elsewhere/"}]}'), "does not speak the OpenAI protocol"),
        ((200, '{"data": [{"b64_json": "AAAA"}]}'), "does not speak the OpenAI protocol"),
        ((200, '{"data": [{"b64_json": "no base64!"}]}'), "does not speak the OpenAI protocol"),
    ],
)
def test_answers_that_are_no_pictures_stop_it(reply, why):
    with served(lambda _: reply) as server, pytest.raises(FacetError, match=why):
        ServerDrawer(server.url, "dall-e")("a star", 0)


def test_pictures_by_a_server_are_any_kind_of_file():
    buffer = io.BytesIO()
    image("a").convert("L").save(buffer, format="JPEG")
    made = base64.b64encode(buffer.getvalue()).decode()
    with served(lambda _: (200, json.dumps({"data": [{"b64_json": made}]}))) as server:
        assert ServerDrawer(server.url, "dall-e")("a", 0).image.mode == "RGB"


def test_a_picture_by_a_server_that_would_fill_the_memory_stops_it():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, format="PNG")
    made = json.dumps({"data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]})
    strange = pytest.raises(FacetError, match="does not speak the OpenAI protocol")
    with served(lambda _: (200, made)) as server, strange:
        ServerDrawer(server.url, "dall-e")("a star", 0)
