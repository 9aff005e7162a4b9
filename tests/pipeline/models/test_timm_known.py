"""What is known of timm's models without timm, held to timm itself."""

import json
import random
import subprocess
import sys
from importlib import import_module

import pytest
import timm

from pipeline.models import openclip_files, timm_names, timm_table
from pipeline.models.timm_known import key, known, write

NAMES = timm_names.list_models()


def test_the_table_is_of_these_libraries():
    table = timm_names.table()
    assert (table["timm"], table["open_clip"]) == (timm.__version__, openclip_files.version())
    # Tests register small sisters of models.
    entry = timm.models.model_entrypoint
    own = [name for name in timm.list_models() if entry(name).__module__.startswith("timm.")]
    assert sorted([*NAMES, *timm_names.refused()]) == sorted(own)


def test_tags_are_timms_own():
    registry = import_module("timm.models._registry")
    for name in NAMES:
        own = registry.get_arch_pretrained_cfgs(name)
        assert timm_names.tags(name) == [
            full.partition(".")[2] for full, of in own.items() if of.hf_hub_id or of.url
        ]
        for tag in timm_names.tags(name):
            of = own[f"{name}.{tag}"]
            wanted = json.loads(json.dumps({n: getattr(of, n) for n in timm_table.KEPT}))
            assert timm_names.settings(name, tag) == wanted
            place = timm_names.checkpoint(name, tag)
            found = place["url"] if isinstance(place, dict) else place.repo
            assert found in (of.hf_hub_id, of.url)


def test_a_repository_of_the_hub_is_a_models_tag():
    assert timm_names.of_hub("timm/vit_base_patch14_dinov2.lvd142m") == (
        "vit_base_patch14_dinov2",
        "lvd142m",
    )
    assert timm_names.of_hub("timm/resnet50.a1_in1k") is None


def configurations():
    """A few that are the same every time."""
    rows = [c for c in timm_table.configurations() if key(c) in timm_names.table()["known"]]
    return random.Random(7).sample(rows, 12)


@pytest.mark.parametrize("config", configurations(), ids=key)
def test_rows_are_what_families_say_of_the_built_model(config):
    assert timm_names.table()["known"][key(config)] == json.loads(
        json.dumps(write(timm_table.examined(config)))
    )


def test_every_configuration_of_the_libraries_has_a_row():
    rows = timm_names.table()["known"]
    assert [key(c) for c in timm_table.configurations() if key(c) not in rows] == []


def test_a_configuration_without_a_row_is_built():
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 7}
    assert key(config) not in timm_names.table()["known"]
    own = known(
        timm_names.config("vit_tiny_patch16_224", timm_names.settings("vit_tiny_patch16_224"))
    )
    assert own.parameters - known(config).parameters == (192 + 1) * (1000 - 7)


def test_a_model_of_another_class_is_known_by_its_class():
    assert "swin_transformer" in known({"architecture": "swin_tiny_patch4_window7_224"}).faults[0]


def test_nothing_heavy_is_imported():
    code = """
import sys
from pipeline.models import timm_names
from pipeline.models.timm_known import known
name = timm_names.list_models()[0]
known(timm_names.config(name, timm_names.settings(name)))
print({"torch", "timm", "open_clip"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
