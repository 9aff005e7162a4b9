"""`facet models`: names found by a word, one in full, and the same for machines."""

import json

import pandas as pd
import pytest

from jobs import models
from pipeline.models import ModelSpec, check_supported, supported_models
from pipeline.models.catalogue import entries, exact, find, sizes_of
from storage.errors import FacetError


def test_names_are_found_and_shown(capsys, tmp_path):
    found = models.main(models.ModelsConfig("vit-b-3*"))
    assert {"ViT-B-32", "ViT-B-32-quickgelu"} <= {entry.name for entry in found}
    said = capsys.readouterr().out
    assert "openclip-vit" in said
    assert "12 × 12 × 64" in said
    models.main(models.ModelsConfig("swin_base", format="csv"))
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("name,family,reading,layers")
    assert "swin_base_patch4_window7_224" in rows[1]
    place = tmp_path / "models.parquet"
    models.main(models.ModelsConfig("ViT-B", format="parquet", out=str(place)))
    assert pd.read_parquet(place)["name"].str.contains("ViT-B", case=False).all()
    models.main(models.ModelsConfig("ViT-B-32", format="json"))
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["name"], one["texts"], one["layers"]) == ("ViT-B-32", "own", 12)


def test_a_whole_name_is_shown_in_full(capsys):
    models.main(models.ModelsConfig("ViT-B/32"))
    said = capsys.readouterr().out
    assert "mean (0.48145466" in said
    assert "facet extract --model ViT-B-32/openai" in said
    assert "tokens    51.2 kB" in said
    assert not {"sources", "pool_neurons", "channels"} & {*said.split()}
    models.main(models.ModelsConfig("RN50"))
    assert "channels" in (said := capsys.readouterr().out)
    assert "pool_neurons" not in said
    models.main(models.ModelsConfig("MobileCLIP-S1"))
    assert "not supported" in capsys.readouterr().out


def test_what_holds_no_name_is_told_with_near_ones():
    with pytest.raises(FacetError, match="holds 'vit-h-99': near names that are supported: ViT-H"):
        models.main(models.ModelsConfig("vit-h-99"))
    with pytest.raises(FacetError, match="--format parquet needs --out"):
        models.main(models.ModelsConfig("vit", format="parquet"))


def test_the_list_is_what_is_supported():
    assert {e.name for e in entries() if not e.why} - {"microworld"} >= {*supported_models()}
    for entry in find("ViT-L-14") + find("microworld"):
        if not entry.why:
            architecture = check_supported(ModelSpec(entry.name, "none"))
            assert (entry.layers, entry.embed) == (architecture.layers, architecture.embed_dim)
            assert sizes_of(entry.name).width == architecture.width
    assert exact("open_clip:ViT-B-32/openai") == exact("ViT-B-32")
