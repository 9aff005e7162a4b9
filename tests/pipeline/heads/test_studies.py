"""Studies and analyses of variance over small stores, against the expanded joint space."""

from functools import reduce

import numpy as np
import pytest

from pipeline.heads import ablation, roles, studies
from pipeline.heads.edits import edit_from
from pipeline.heads.shares import shares
from pipeline.stats.accuracy import ChanceWarning, add, count
from pipeline.stats.reductions import reduce_store
from pipeline.subsets import SubsetError
from pipeline.texts.classes import Classes, PoolError
from storage.errors import FacetError, StoreError
from storage.store import Store
from tests.pipeline.heads.direct import reference_means
from tests.storage import stores

# No Ray: what a task does is the same in this process.
pytestmark = pytest.mark.usefixtures("here")

N = 30
CLASSES = Classes(
    ("a", "b", "c"), (("a",), ("b",), ("c",)), {"class-0": 0, "class-1": 1, "class-2": 2}
)
SIZE = ablation.ModelSize(2, 3)


def test_shares_are_mean_projections_and_sum_to_one(store):
    found = shares(store, N)
    assert found.images == N - 1
    assert shares(store, 4).images < N - 1  # the first ones of every shard
    e = store.embeddings().values.astype(float)
    for layer, head in [(0, 0), (1, 2)]:
        along = (store.heads(layer, head).values * e).sum(1) / (e**2).sum(1)
        np.testing.assert_allclose(found.heads[layer, head], np.nanmean(along), rtol=1e-5)
    np.testing.assert_allclose(found.heads.sum() + found.mlps.sum() + found.constants, 1, rtol=1e-5)


def joint(store: Store, layer: int, head: int) -> np.ndarray:
    """A head's contributions on the published scale, (images, embed); NaN for the bad one."""
    norm = np.linalg.norm(store.embeddings().values.astype(float), axis=1)
    return store.heads(layer, head).values / norm[:, None]


@pytest.mark.parametrize("where", [None, "index >= 7"])
def test_shares_are_those_of_an_analysis_of_variance(store, where):
    found = reduce_store(store, where)
    shares = roles.attribute_shares(store, found, ["colour", "count"])
    table = store.images()
    keep = np.arange(N) != 4
    keep[: 7 if where else 0] = False
    for layer, head in np.ndindex(2, 3):
        rows = joint(store, layer, head)[keep]
        total = rows.var(0).sum()
        for i, attribute in enumerate(("colour", "count")):
            values = np.array(table[attribute].to_pylist())[keep]
            between = sum(
                (values == v).mean() * ((rows[values == v].mean(0) - rows.mean(0)) ** 2).sum()
                for v in set(values.tolist())
            )
            np.testing.assert_allclose(shares[layer, head, i], between / total, rtol=1e-4)
    np.testing.assert_allclose(
        roles.head_variances(found)[1, 2], joint(store, 1, 2)[keep].var(0).sum(), rtol=1e-4
    )
    assert roles.known_attributes(store) == ()


def test_the_role_table_counts_the_texts_about_the_dominating_attribute():
    import pandas as pd

    shares = np.array([[[0.2, 0.7], [0.5, 0.1]]])
    texts = ["a red thing", "two stars", "a thing", "blue things", "a green moon", "a red thing"]
    descriptions = pd.DataFrame(
        {"layer": 0, "head": [0] * 6 + [1], "rank": [*range(6), 0], "text": [*texts, "a moon"]}
    )
    table = roles.role_table(shares, np.ones((1, 2)), ["shape", "colour"], descriptions).to_dict(
        "records"
    )
    assert [(r["head"], r["attribute"], r["share"], r["texts_about"]) for r in table] == [
        (0, "colour", 0.7, 3), (1, "shape", 0.5, 1),
    ]  # fmt: skip


def plan_of(store: Store, steps: list[studies.Step], **changes) -> studies.ShardStudy:
    rng = np.random.default_rng(1)
    classes = rng.normal(size=(3, 5))
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    fields = {
        "url": store.url, "where": None, "label_column": "label", "classes": CLASSES,
        "readout": ablation.Readout(studies.maps_of(store), classes),
        "means": ablation.reduced_means(reduce_store(store)),
        "ablations": [s.ablation for s in steps],
    }  # fmt: skip
    return studies.ShardStudy(**{**fields, **changes})


ALL = ("mlps", "layers", "heads", "class-token", "textspan", "chosen")


def all_steps() -> list[studies.Step]:
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 2)))[0].T
    return studies.steps(
        SIZE, ALL, spans={"TextSpan": {(1, 0): basis}}, counts=[1, 2], chosen=[(0, 0), (1, 2)]
    )


def test_shards_give_what_all_good_images_at_once_give(store):
    steps = all_steps()
    plan = plan_of(store, steps)
    data = store.contributions().load()
    good = np.arange(N) != 4
    parts = ablation.StoredParts(
        *(data[n].values[good] for n in ("heads", "mlps", "embedding", "ln_std")),
        data["tokens"].values[good, 0],
    )
    means = reference_means(parts)
    for name in ("heads_lhk", "mlps_sd", "inverse_scale", "class_token_e"):
        np.testing.assert_allclose(getattr(plan.means, name), getattr(means, name), rtol=1e-10)
    expected = ablation.predict(parts, means, plan.readout, plan.ablations)
    predicted, labels = zip(*(plan.predict(shard) for shard in range(4)), strict=True)
    np.testing.assert_array_equal(np.concatenate(predicted, 1), expected)
    truth = np.concatenate([shown.classes for shown in labels])
    assert truth.tolist() == [i % 3 for i in range(N) if i != 4]
    assert labels[0].groups[:3] == ["none", "night", "day"]
    counted = reduce(add, (studies.count_shard(plan, shard) for shard in range(4)))
    groups = [g for shown in labels for g in shown.groups]
    whole = count(expected, truth, 3, groups)
    np.testing.assert_array_equal(counted.classes, whole.classes)
    assert counted.groups.keys() == whole.groups.keys() == {"none", "night", "day"}
    assert all((counted.groups[g] == whole.groups[g]).all() for g in whole.groups)


def test_steps_name_their_places_and_no_name_occurs_twice():
    steps = all_steps()
    assert len({s.ablation.name for s in steps}) == len(steps) == 1 + 4 + 6 + 2 + 2 + 6
    assert [s.at for s in steps if s.study == "heads"] == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]
    assert [s.series for s in steps if s.study == "chosen"] == ["chosen"] + ["random heads"] * 5


def test_edits_come_after_ablations_and_gains_of_0_are_an_ablation_by_mean(store):
    steps, found = studies.steps(SIZE, ["layers"])[1:2], reduce_store(store)
    attention = dict.fromkeys(np.ndindex(2, 3), 0.0)
    edits = (
        edit_from(store, found, "nothing", {}),
        edit_from(store, found, "attention", attention, {}, {0: 0, 1: 0}),
    )
    # Across the mean, where no class is everyone's.
    mean = store.reductions().array("embedding_mean").values
    across = np.linalg.svd(mean[None])[2][1:4]
    readout = ablation.Readout(studies.maps_of(store), across)
    plan = plan_of(store, steps, edits=edits, readout=readout)
    shards = [plan.predict(shard)[0] for shard in range(4)]
    as_it_is, ablated, nothing, edited = np.concatenate(shards, axis=1)
    np.testing.assert_array_equal(nothing, as_it_is)
    np.testing.assert_array_equal(edited, ablated)
    assert (ablated != as_it_is).any()
    names = [s.name for s in [*steps, *studies.edit_steps(edits)]]
    assert names == ["attention of layers 0-1", "edit: nothing", "edit: attention"]


def test_a_small_read_limit_changes_nothing(store, monkeypatch):
    plan = plan_of(store, all_steps())
    whole, _ = plan.predict(0)
    monkeypatch.setattr(studies, "READ_BYTES", 1000)
    np.testing.assert_array_equal(plan.predict(0)[0], whole)


def test_labels_come_from_the_image_table_or_it_is_an_error(store, ray_cluster):
    steps = studies.steps(SIZE, ["mlps"])
    found = studies.run(plan_of(store, steps, where="colour == 'red'"), range(4), lambda n: None)
    red = [i for i, c in enumerate(store.images()["colour"].to_pylist()) if c == "red" and i != 4]
    assert found.classes[0].sum(1).tolist() == np.bincount([i % 3 for i in red]).tolist()
    with pytest.warns(ChanceWarning, match="guessing among 3 classes"):
        table = studies.study_table(found, CLASSES, steps)
    assert set(table["study"]) == {"none", "mlps"}
    assert set(table[table["scope"] == "group"]["name"]) <= {"day", "night", "none"}
    none = studies.count_shard(plan_of(store, steps, where="colour == 'x'"), 0)
    with pytest.raises(SubsetError, match="'x'\" matches no image that is ok"):
        studies.refuse_none(none, "colour == 'x'")
    with pytest.raises(PoolError, match="labels are no class of this set"):
        studies.run(plan_of(store, steps, label_column="colour"), range(4), lambda n: None)


def test_what_the_store_cannot_answer_is_refused(store, tmp_path):
    with pytest.raises(FacetError, match="no column 'species'.*it has index, key"):
        studies.check(store, ["mlps"], "species")
    lean = stores.new_store(str(tmp_path / "lean"), components=("heads", "mlps"))
    with pytest.raises(StoreError, match="has no tokens: extract with `components` heads mlps to"):
        studies.check(lean, ["class-token"], "label")
