"""``facet adversarial``: four results, one after the other, of a small store of the world."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jobs import adversarial, extract, omp, second_order, show
from jobs.adversarial import AdversarialConfig
from jobs.recipes import adversarial as recipe
from jobs.settings import choose_place
from pipeline.adversarial import indirect
from pipeline.microworld import draw
from pipeline.pages.pictures import as_png
from storage import open_store
from storage.errors import FacetError
from storage.results import finished_results
from tests.refusals import refused

FOUND = "this very run was finished before"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """60 pictures, the trained model, codes of one layer."""
    url = str(tmp_path_factory.mktemp("adversarial") / "store")
    given = {"store": url, "workers": "here"}
    extract.main(
        extract.ExtractConfig(
            images="microworld:n=60,seed=3,split=train", model="microworld",
            pretrained="microworld", shard_size=32, **given,
        )
    )  # fmt: skip
    second_order.main(second_order.SecondOrderConfig(mlp_layers="2", top_k=20, **given))
    omp.main(omp.OmpConfig(mlp_layers="2", pool="microworld", terms=8, **given))
    return url


@pytest.fixture
def plain(store) -> AdversarialConfig:
    return AdversarialConfig(
        store, "star", "heart", sources=("second-order", "random", "none"), cues=8, repeats=2,
        ask=12, descriptions=3, pictures=2, workers="here",
    )  # fmt: skip


def mined(config) -> pd.DataFrame:
    """The cues that a run's first stage used or dropped."""
    choose_place(config)
    stage = recipe.Chain(config, adversarial.check(config), open_store(config.store)).cues()
    return stage.table("cues").to_pandas()


def test_every_stage_is_kept_and_found_again(plain, capsys):
    run = adversarial.main(plain)
    found = run.found
    used = found.cues[found.cues["used"]]
    assert used.groupby(["source", "repeat"]).size().max() <= 8
    assert not used["text"].str.contains("heart").any()
    chosen = found.descriptions[found.descriptions["chosen"]]
    assert chosen.groupby(["source", "repeat"]).size().tolist() == [3] * 6
    assert chosen["text"].str.contains("star").all()
    assert not chosen["text"].str.contains("heart").any()
    assert len(found.pictures) == len(found.judged) == 6 * 3 * 2
    assert found.sources == ["second-order", "random", "none"]
    for one in found.maps:  # with what the map leaves out, it is the margin
        margin = found.judged.set_index("file")["margin"][one.file]
        rest = run.result.arrays("maps").set_index(picture="file")["rest"].sel(picture=one.file)
        assert one.map_rc.sum() + float(rest) == pytest.approx(margin, abs=2e-5)
    assert len(found.maps) == len(found.judged[found.judged["file"] != ""].groupby("source")) * 8
    page = Path(run.result.url, recipe.PAGE).read_text()
    assert "star, taken for heart" in page

    capsys.readouterr()
    again = adversarial.main(plain)
    assert again.result.url == run.result.url
    assert capsys.readouterr().out.count(FOUND) == 4
    show.main(show.ShowConfig("adversarial", plain.store))
    assert "second-order effects" in capsys.readouterr().out
    assert open_store(plain.store).validate() == []


def test_cues_are_those_of_the_kept_directions_and_codes(plain):
    run = adversarial.main(plain)
    effects, codes = (finished_results(plain.store, job)[-1] for job in ("second_order", "omp"))
    directions = effects.arrays("components")["direction"].sel(layer=2).values.astype(float)
    table = codes.table("codes").to_pandas()
    means = recipe.Chain(plain, adversarial.check(plain), open_store(plain.store)).means()
    projections = directions @ (means[1].astype(float) - means[0])
    order = np.argsort(-np.abs(projections), kind="stable")[: plain.neurons]
    kept = run.found.neurons[run.found.neurons["source"] == "second-order"]
    assert kept["neuron"].tolist() == order.tolist()
    scores: dict[str, float] = {}
    for row in table[table["neuron"].isin(order)].itertuples():
        scores[row.text] = scores.get(row.text, 0) + row.coefficient * projections[row.neuron]
    found = run.found.cues[run.found.cues["source"] == "second-order"]
    assert found["text"].tolist() == sorted(scores, key=lambda t: -scores[t])[: len(found)]
    np.testing.assert_allclose(found["score"], [scores[text] for text in found["text"]])


def test_settings_of_cues(plain, tmp_path, monkeypatch):
    first = mined(plain)
    second = first[first["source"] == "second-order"]

    def of_second(**changes):
        table = mined(replace(plain, **changes))
        return table[table["source"] == "second-order"].reset_index(drop=True)

    assert of_second(neurons=3)["text"].tolist() != second["text"].tolist()
    few = of_second(cues=2)
    assert few["used"].sum() == 2
    pd.testing.assert_frame_equal(few, second.iloc[: len(few)].reset_index(drop=True))
    lower = of_second(alike=0.1)
    assert (lower.loc[~lower["used"], "why"].str.startswith("alike: ")).any()
    assert (lower.loc[lower["used"], "similarity"] < 0.1).all()
    listed = tmp_path / "names.txt"
    listed.write_text("circle\n")
    without = of_second(synonyms=str(listed))
    assert "names circle" in set(without["why"])
    assert not without.loc[without["used"], "text"].str.contains("circle").any()
    monkeypatch.setattr(recipe, "by_sentences", lambda name, target: lambda texts: 0.9 * np.ones(
        len(texts)))  # fmt: skip
    with refused(FacetError, "no text of the pool speaks for 'heart' rather than 'star'"):
        of_second(sentences="some-model")
    random = mined(replace(plain, seed=1))
    assert not random[random["source"] == "random"].equals(first[first["source"] == "random"])
    assert mined(replace(plain, repeats=3)).query("source == 'random'")["repeat"].max() == 2
    other = mined(replace(plain, drawn="night", target="snow", classes="microworld:background",
        draw_with="microworld"))  # fmt: skip
    assert not other.loc[other["used"], "text"].str.contains("snow").any()
    assert other["text"].tolist() != first["text"].tolist()
    pd.testing.assert_frame_equal(mined(replace(plain, mlp_layers="2", pool="microworld")), first)
    with refused(FacetError, "no codes of neurons of MLP layers 1"):
        mined(replace(plain, mlp_layers="1-2"))
    with refused(FacetError, "no codes over the pool general of neurons"):
        mined(replace(plain, pool="general"))


def test_other_sources(plain, capsys, monkeypatch):
    monkeypatch.setattr(indirect, "sample_numbers", lambda store: [0, 7, 21, 59])
    run = adversarial.main(replace(plain, sources=("second-order", "indirect", "similar")))
    found = run.found.cues
    assert set(found["source"]) == {"second-order", "indirect", "similar"}
    similar = found[found["source"] == "similar"]
    assert similar["score"].is_monotonic_decreasing
    assert similar["score"].max() <= 1
    of_indirect = run.found.neurons.query("source == 'indirect'")["projection"].to_numpy()
    assert len(of_indirect) == plain.neurons
    assert (np.diff(np.abs(of_indirect)) <= 1e-12).all()
    (made,) = finished_results(plain.store, "indirect")
    assert made.provenance["images"] == 4
    assert made.table("neurons").num_rows == 512
    capsys.readouterr()
    adversarial.main(replace(plain, sources=("indirect",), cues=3))
    assert len(finished_results(plain.store, "indirect")) == 1  # made once
    assert FOUND in capsys.readouterr().out


def test_settings_of_descriptions_and_pictures(plain):
    found = adversarial.main(plain).found
    fewer = adversarial.main(replace(plain, descriptions=2, pictures=1)).found
    assert len(fewer.pictures) == 6 * 2
    assert found.descriptions.groupby(["source", "repeat"]).size().tolist() == [12] * 6
    more = adversarial.main(replace(plain, ask=20)).found
    assert more.descriptions.groupby(["source", "repeat"]).size().tolist() == [20] * 6
    other = adversarial.main(replace(plain, seed=5)).found
    assert other.pictures["seed"].tolist() != found.pictures["seed"].tolist()


def test_files_in_place_of_stages(plain, tmp_path):
    lines = tmp_path / "cues.txt"
    lines.write_text("a thing on snow\na red thing\n")
    bare = replace(plain, sources=AdversarialConfig.sources, cues=AdversarialConfig.cues)
    found = adversarial.main(replace(bare, cues_from=str(lines))).found
    assert found.sources == ["given"]
    assert found.cues["text"].tolist() == ["a thing on snow", "a red thing"]
    assert found.descriptions["text"].str.contains("snow|red").any()
    # A stage's own table does what the stage did.
    whole = adversarial.main(plain)
    for kind in ("parquet", "csv"):
        table = tmp_path / f"cues.{kind}"
        getattr(whole.found.cues, f"to_{kind}")(table, index=False)
        again = adversarial.main(replace(bare, cues_from=str(table))).found
        wanted = whole.found.cues["source"].unique().tolist()
        assert again.sources == wanted
        texts = again.descriptions["text"].tolist()
        told = whole.found.descriptions
        assert texts == told[told["source"].isin(wanted)]["text"].tolist()

    lines.write_text("a star on snow\na heart on snow\na red circle\n")
    free = AdversarialConfig(plain.store, "star", "heart", pictures=2, workers="here")
    said = adversarial.main(replace(free, descriptions_from=str(lines))).found
    assert said.descriptions["chosen"].tolist() == [True, False, False]
    assert said.descriptions["why"].tolist() == ["", "names heart", "does not name star"]
    assert len(said.pictures) == plain.pictures
    assert said.cues.empty
    lines.write_text("a red circle\n")
    with refused(FacetError, r"none can be used \(1 does not name star\)"):
        adversarial.main(replace(free, descriptions_from=str(lines)))


def test_pictures_of_ones_own_and_a_persons_list(plain, tmp_path):
    free = AdversarialConfig(plain.store, "star", "heart", workers="here")
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(as_png(Image.fromarray(draw.picture(7, "test", i)[0])))
    lines = tmp_path / "pictures.txt"
    lines.write_text("0.png\n1.png\n2.png\n")
    run = adversarial.main(replace(free, pictures_from=str(lines)))
    assert run.found.judged["outcome"].isin(["fooled", "not fooled"]).all()
    assert run.found.unknown
    keep = tmp_path / "keep.txt"
    keep.write_text("0.png\n1.png\n")
    kept = adversarial.main(replace(free, pictures_from=str(lines), keep=str(keep))).found
    assert kept.judged["outcome"].tolist()[2] == "not there"
    assert kept.table["there"].tolist() == [2]
    assert not kept.unknown
    second = replace(free, pictures_from=str(lines), judge="microworld")
    keep.write_text(Path(run.found.pictures["file"][0]).name)  # another list, of the same name
    assert adversarial.main(replace(free, pictures_from=str(lines), keep=str(keep))).found.table[
        "there"
    ].tolist() == [1]
    held = adversarial.main(second).found  # by the model itself: what fools it is of the target
    fooled = run.found.judged["outcome"] == "fooled"
    assert (held.judged["outcome"] == "not there").tolist() == fooled.tolist()
    with refused(FacetError, "--judge ViT-B-32: model ViT-B-32: say by which weights, as ViT-B"):
        adversarial.main(replace(second, judge="ViT-B-32"))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with refused(FacetError, "1.png: "):
        adversarial.main(replace(free, pictures_from=str(lines)))
    (tmp_path / "1.png").unlink()
    with refused(FacetError, "there is no picture"):
        adversarial.main(replace(free, pictures_from=str(lines)))


def test_descriptions_are_the_end_where_others_draw(plain, tmp_path, capsys):
    config = replace(plain, draw_with="none", pictures=10, seed=9)
    run = adversarial.main(config)
    said = capsys.readouterr().out
    rows = run.result.table("descriptions").to_pandas()
    assert run.found is None
    assert rows["chosen"].sum() == 3 * 2 * 3
    assert all(text in said for text in rows.loc[rows["chosen"], "text"])
    assert (
        f"facet adversarial --store {plain.store} --drawn star --target heart --pictures-from"
        in (" ".join(said.split()))
    )
    # A renderer that is there goes on from them.
    drawn = adversarial.main(replace(config, draw_with="microworld", pictures=1)).found
    pd.testing.assert_frame_equal(drawn.descriptions, rows)
    with refused(FacetError, "--pictures belongs to pictures, and none are drawn"):
        adversarial.main(replace(config, pictures=2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "star"}, "--drawn and --target are both 'star'"),
        ({"drawn": "Hearts"}, "--drawn 'Hearts' names --target 'heart'"),
        ({"sources": ()}, "--sources: name at least one, and each once"),
        ({"sources": ("none", "none")}, "--sources: name at least one, and each once"),
        ({"target": " "}, "--drawn and --target are names of classes, and one is empty"),
        ({"target": "hart"}, "--target 'hart' is no class of microworld:shape (did you mean"),
        ({"drawn": "dog"}, "--drawn 'dog' is no class of microworld:shape"),
        ({"classes": "microworld:shap"}, "has no attribute 'shap' (did you mean 'shape'?)"),
        ({"neurons": 0}, "--neurons 0: must be at least 1"),
        ({"alike": 1.5}, "--alike 1.5: is a fraction"),
        ({"ask": 2}, "--ask 2: of so many descriptions no --descriptions 3"),
        ({"mlp_layers": "3"}, "neurons of MLP layers 0 to 2 have second-order effects"),
        ({"synonyms": "/gone"}, "--synonyms /gone: there is no such file"),
        ({"cues_from": "/gone"}, "--cues-from /gone: there is no such file"),
        ({"keep": "/gone"}, "--keep /gone: there is no such file"),
        ({"describe_with": "poet"}, "--describe-with 'poet': give grammar, openai:MODEL or"),
        ({"draw_with": "crayons"}, "--draw-with 'crayons': give microworld, "),
        ({"judge": "ViT-B-32/openai"}, "--judge belongs to pictures of which nobody knows"),
        ({"pool": "gone.txt"}, "no pool and no file is called 'gone.txt'"),
    ],
)
def test_what_cannot_work_is_refused(plain, changes, words):
    with refused(FacetError, re.escape(words)):
        adversarial.main(replace(plain, **changes))


def test_files_do_not_go_with_the_settings_of_their_stages(plain, tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("a star\n")
    with refused(FacetError, "--sources, --cues belong to a run without --cues-from"):
        adversarial.main(replace(plain, cues_from=str(file)))
    bare = AdversarialConfig(plain.store, "star", "heart", repeats=2, workers="here")
    with refused(FacetError, "--repeats belongs to a run without --descriptions-from"):
        adversarial.main(replace(bare, descriptions_from=str(file)))
    with refused(FacetError, "--seed belongs to a run without --pictures-from"):
        adversarial.main(replace(bare, repeats=3, seed=1, pictures_from=str(file)))
    with refused(FacetError, "give one file, of the last stage that is not to run"):
        adversarial.main(replace(plain, cues_from=str(file), pictures_from=str(file)))


def test_a_pool_without_the_target_and_classes_without_a_list_are_said(plain, tmp_path, capsys):
    pool = tmp_path / "pool.txt"
    pool.write_text("a thing on snow\na thing at night\na circle\na red thing\na moon\n")
    omp.main(omp.OmpConfig(plain.store, "2", str(pool), terms=3, workers="here"))
    found = mined(replace(plain, pool=str(pool), sources=("second-order",)))
    assert "no text of the pool names heart" in capsys.readouterr().out
    assert set(found["text"]) <= set(pool.read_text().splitlines())
    # Without one, it is the pool of the codes that were asked for last.
    pd.testing.assert_frame_equal(mined(replace(plain, sources=("second-order",))), found)
