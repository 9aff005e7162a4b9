"""A model without texts in the words of one that has them: the embedded world's MAE."""

import re

import pytest

from jobs import align, extract, pages, textspan
from jobs.settings import describing
from pipeline.cluster import machines
from pipeline.heads.roles import attribute_shares, head_variances, role_table
from pipeline.microworld.world import ATTRIBUTES
from pipeline.pages.report import store_page
from pipeline.stats.reductions import reduce_store
from storage import open_store
from storage.errors import FacetError


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, str]:
    """The CLIP, the MAE and the CNN over the same pictures."""
    folder, made = tmp_path_factory.mktemp("families"), {}
    for model in ("microworld", "microworld:mae", "microworld:cnn"):
        made[model] = extract.main(
            extract.ExtractConfig(
                images="microworld:n=160,seed=3,split=test", model=model, pretrained="microworld",
                store=str(folder / model.replace(":", "-")), shard_size=160, workers="here",
                components=("mlps",) if model.endswith("cnn") else ("heads", "mlps"),
            )
        ).url  # fmt: skip
    return made


def test_every_head_of_the_mae_has_words_and_a_truth(stores):
    config = align.AlignConfig(
        stores["microworld"], stores["microworld:mae"], pool="microworld", layers="all",
        texts_per_head=5, workers="here",
    )  # fmt: skip
    found = align.main(config)
    assert 0.3 < found.found.facts["r2"] < 1
    mae = open_store(stores["microworld:mae"])
    reductions = reduce_store(mae)
    shares = attribute_shares(mae, reductions, tuple(ATTRIBUTES))
    texts = found.result.table("texts").to_pandas()
    table = role_table(shares, head_variances(reductions), tuple(ATTRIBUTES), texts)
    assert len(table) == 16
    # It sees no labels: what varies most is the background, and how much of it things cover.
    assert set(table["attribute"]) <= {"background", "count", "colour"}
    first = table.set_index(["layer", "head"]).loc[(0, 3)]
    assert first["attribute"] == "background"
    assert first["share"] > 0.5


def test_a_model_without_heads_is_refused(stores):
    with pytest.raises(FacetError, match="heads"):
        align.main(align.AlignConfig(stores["microworld"], stores["microworld:cnn"]))


def test_the_cnns_store_holds_what_its_last_stage_writes(stores):
    store = open_store(stores["microworld:cnn"])
    assert store.validate() == []
    data = store.contributions().load()
    assert float(data["residual"].max()) < 1e-5
    total = (data["mlps"].astype(float) @ store.model()["mlp_map"].astype(float)).sum("block")
    total = total + store.model()["bias"] + store.model()["attention_bias"].sum("layer")
    assert float(abs(total - data["embedding"]).max()) < 2e-2 * float(abs(data["embedding"]).max())


def test_nobody_is_sent_where_a_model_without_heads_is_refused(stores):
    store = open_store(stores["microworld:cnn"])
    assert describing(store.url, store.meta).startswith("facet report")
    with pytest.raises(FacetError, match="no text can be embedded with it$") as told:
        textspan.check(textspan.TextSpanConfig(store.url, pool="microworld"))
    assert told.value.remedy is None


# What the page of a store offers, of each model; and whether its start is said to be one of all.
OFFERED = {
    "microworld": ({"textspan", "label", "ablate", "second-order", "omp", "segment"}, True),
    "microworld:mae": ({"align", "second-order"}, False),
    "microworld:cnn": (set(), False),
}


@pytest.mark.parametrize("model", OFFERED)
def test_the_page_offers_what_the_model_is_not_refused(stores, model):
    store = open_store(stores[model])
    offered, same = OFFERED[model]
    machines.work("here")
    shown = store_page(pages.reader(store, store.url))
    missing = shown[shown.find('id="missing"') :] if 'id="missing"' in shown else ""
    found = {*re.findall(r"facet ([a-z-]+) --", missing)}
    # What another test has aligned is no longer to be looked for.
    assert found | {"align"} & offered == offered
    assert ("the same for every image" in shown) == same
