"""What is read from open_clip's files is what open_clip itself says."""

from dataclasses import asdict

import pytest

from pipeline.lean import open_clip
from pipeline.models import openclip_files


def test_names_configurations_and_tags_are_open_clips():
    names = openclip_files.list_models()
    assert len(names) > 100
    assert names == open_clip.list_models()
    tables = open_clip.pretrained
    for name in names:
        assert openclip_files.get_model_config(name) == open_clip.get_model_config(name)
        tags = openclip_files.list_pretrained_tags_by_model(name)
        assert tags == tables.list_pretrained_tags_by_model(name)
        for tag in [*tags, "nothing"]:
            found = openclip_files.get_pretrained_cfg(name, tag)
            assert found == tables.get_pretrained_cfg(name, tag)
    assert openclip_files.list_pretrained_tags_by_model("ViT-B-32-quickgelu")
    assert openclip_files.get_pretrained_cfg("ViT-B-32", "OpenAI")["quick_gelu"]


def test_defaults_of_configurations_are_open_clips():
    assert asdict(openclip_files.vision_config(width=9)) == asdict(
        open_clip.model.CLIPVisionCfg(width=9)
    )
    assert asdict(openclip_files.text_config()) == asdict(open_clip.model.CLIPTextCfg())
    for overlay in ({}, {"mean": None, "size": 3, "resize_mode": "squash", "what": 1}):
        merged = open_clip.transform.merge_preprocess_dict(
            open_clip.transform.PreprocessCfg(), overlay
        )
        assert openclip_files.merge_preprocessing(overlay) == merged
    assert openclip_files.version() == open_clip.__version__


def test_a_configuration_that_is_changed_leaves_the_table_as_it_is():
    openclip_files.get_model_config("ViT-B-32")["vision_cfg"]["width"] = 1
    assert openclip_files.get_model_config("ViT-B-32")["vision_cfg"]["width"] == 768


def test_what_a_file_does_not_define_is_an_error():
    with pytest.raises(KeyError):
        openclip_files.definitions("pretrained.py", "nothing")
