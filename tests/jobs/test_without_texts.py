"""Jobs that embed texts, on a store whose model has no text tower: one line, before torch."""

from dataclasses import replace

import pytest

from jobs import (
    ablate,
    adversarial,
    align,
    compare,
    concepts,
    encode_texts,
    heatmap,
    label,
    omp,
    reduce,
    repair,
    search,
    segment,
    textspan,
)
from jobs.recipes import extracted
from jobs.recipes.reduce import next_command as next_of_reduce
from pipeline.explorer import words
from pipeline.explorer.model import Loaded
from pipeline.models import ModelSpec, check_supported, load_model
from pipeline.texts import towers
from pipeline.texts.encoding import TextEncoder
from tests.pipeline.extraction.kit import extract_all, new_store
from tests.refusals import refused
from tests.tiny import tiny, write_config

POOL, CLASSES = "microworld", "microworld:shape"
ASKED = {
    "encode-texts": (encode_texts.check, encode_texts.EncodeTextsConfig, {"pool": POOL}),
    "textspan": (textspan.check, textspan.TextSpanConfig, {"pool": POOL}),
    "omp": (omp.check, omp.OmpConfig, {"pool": POOL, "mlp_layers": "0", "terms": 2}),
    "ablate": (ablate.check, ablate.AblateConfig, {"classes": CLASSES, "study": ("heads",)}),
    "concepts": (concepts.check, concepts.ConceptsConfig, {"image": ("0",)}),
    "segment": (segment.check, segment.SegmentConfig, {"classes": CLASSES}),
    "search": (search.check, search.SearchConfig, {"text": ("a star",)}),
    "label": (label.check, label.LabelConfig, {}),
    "compare": (compare.check, compare.CompareConfig, {"a": "image < 1", "b": "image > 0"}),
    "repair": (
        repair.check,
        repair.RepairConfig,
        {"classes": CLASSES, "groups": "shape", "search": True},
    ),
    "adversarial": (
        adversarial.check,
        adversarial.AdversarialConfig,
        {"drawn": "star", "target": "heart"},
    ),
    "heatmap": (heatmap.check, heatmap.HeatmapConfig, {"image": "0", "text": ("a star",)}),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    path = write_config(folder, tiny())
    model = load_model(ModelSpec(path, "none", 5))
    store = new_store(folder / "s", "microworld:n=2,seed=1", model, 2, architecture=path)
    extract_all(store, model)
    return store


@pytest.fixture
def bare(store, monkeypatch):
    """The store's model as its configuration would be without a text tower."""
    found = check_supported(ModelSpec(store.meta.architecture, "none"))
    config = {name: value for name, value in found.config.items() if name != "text_cfg"}
    found = replace(found, config=config, name="timm:vit", has_texts=False)
    monkeypatch.setattr(towers, "check_supported", lambda spec: found)
    monkeypatch.setattr("pipeline.texts.encoding.check_supported", lambda spec: found)
    return found


WORDS = (
    r"model timm:vit has no text tower, so no text can be embedded with it; .*: run `facet align "
    r"--to \S+ --from CLIP-STORE --pool POOL …` first$"
)


@pytest.mark.parametrize("job", ASKED)
def test_a_job_that_embeds_texts_says_what_brings_them(job, store, bare):
    check, config, given = ASKED[job]
    with refused(towers.FacetError, WORDS):
        check(config(store=store.url, **given))


def test_a_search_by_pictures_needs_no_texts(store, bare):
    assert search.check(search.SearchConfig(store=store.url, image=("0",))).queries


def test_texts_are_aligned_from_a_model_that_has_some(store, bare):
    with refused(towers.FacetError, WORDS):
        align.check(align.AlignConfig(from_=store.url, to=store.url, pool=POOL, layers="all"))
    assert align.check(align.AlignConfig(from_=store.url, to=store.url, layers="all")) is None


def test_the_next_command_is_that_which_brings_them(store, bare):
    assert extracted.next_command(store).startswith("facet align --from CLIP-STORE --to ")
    assert "facet align" in next_of_reduce(reduce.ReduceConfig(store.url), store)


def test_whoever_embeds_texts_otherwise_gets_the_same_line(store, bare):
    with refused(towers.FacetError, WORDS):
        TextEncoder(store).encode("words", ["a star"])
    model = load_model(ModelSpec(store.meta.architecture, "none", 5))
    loaded = Loaded(store, replace(model, config=bare.config, name=bare.name))
    with refused(towers.FacetError, WORDS):
        words.embed(loaded, ("a star",))
