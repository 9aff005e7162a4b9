"""Which runs are the same, and which are not."""

from dataclasses import replace

import pytest

from jobs.ablate import AblateConfig
from jobs.omp import OmpConfig
from jobs.second_order import SecondOrderConfig
from jobs.textspan import TextSpanConfig
from pipeline.identity import MEANS, found_before, held, over, settings
from pipeline.provenance import revision
from pipeline.texts.classes import Classes, classes_digest, texts_digest
from storage import ledger, urls
from storage.results import latest_result, save_result
from tests.storage.stores import fill, new_store

CONFIGS = [
    TextSpanConfig(store="s", pool="p"),
    AblateConfig(store="s", classes="c", study=("heads",)),  # not by default: an edit decides it
    SecondOrderConfig(store="s"),
    OmpConfig(store="s", mlp_layers="1", pool="p"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_setting_but_places_and_means_decides(config):
    known = settings(config)
    for name, value in vars(config).items():
        changed = settings(replace(config, **{name: f"{value} changed"}))
        assert (changed == known) == (name in MEANS), name


def test_content_decides_and_not_names():
    assert texts_digest(["a", "b"]) != texts_digest(["b", "a"])
    assert texts_digest(["ab"]) != texts_digest(["a", "b"])
    classes = Classes(("cat", "dog"), (("a cat",), ("a dog",)), {"cat": 0, "dog": 1})
    known = classes_digest(classes)
    assert known == classes_digest(replace(classes, index={"dog": 1, "cat": 0}))
    for changed in (
        {"names": ("cat", "hound")},
        {"prompts": (("a cat",), ("the dog",))},
        {"index": {"cat": 1, "dog": 0}},
    ):
        assert classes_digest(replace(classes, **changed)) != known
    assert classes_digest(None) is None


def test_a_run_is_over_the_shards_that_are_finished_and_what_became_of_their_images(tmp_path):
    store = new_store(str(tmp_path / "store"))
    fill(store, [0])
    first = over(store)
    assert over(store) == first
    assert over(store, [0]) == first
    fill(store, [1])
    assert over(store) != first
    assert over(store, [0]) == first
    rows = ledger.read_part(store.url, 0)
    urls.remove(ledger.part_url(store.url, 0))
    ledger.write_part(store.url, 0, rows, {"bad": {"it was mended": 1}})
    assert over(store, [0]) != first


def test_files_and_folders_stand_for_what_they_hold(tmp_path):
    assert held("a-name/others-know") == "a-name/others-know"
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "a").write_text("1")
    assert held(str(one)) == held(str(other))
    known = held(str(other / "below" / "a"))
    (other / "below" / "a").rename(other / "below" / "b")
    assert held(str(one)) != held(str(other))
    assert held(str(other / "below" / "b")) == known
    (other / "below" / "b").write_text("2")
    assert held(str(other / "below" / "b")) != known


def test_what_was_found_by_this_code_is_found_again_and_is_then_the_latest(tmp_path):
    url, code = str(tmp_path), revision()
    for number, by in enumerate((code, code, "another revision")):
        save_result(url, "encode_texts", {}, {"revision": by}, identity={"number": number})
    assert found_before(url, "encode_texts", {"number": 9}) is None
    assert found_before(url, "encode_texts", {"number": 2}) is None
    found = found_before(url, "encode_texts", {"number": 0})
    assert found is not None
    assert latest_result(url, "encode_texts").name == found.name
    again = found_before(url, "encode_texts", {"number": 0})
    assert again == found  # nothing was written
