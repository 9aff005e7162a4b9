"""Neurons, and every result, as pages and JSON: they say what the pipeline's functions say."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from jobs import omp, repair
from jobs.pages import as_typed, following
from pipeline.explorer.library import Library, Opened
from pipeline.explorer.model import Loaded, NotYet
from pipeline.explorer.neurons import PAGE
from pipeline.explorer.web.app import make_app
from pipeline.neurons.about import about_neuron
from pipeline.neurons.answers import signed
from pipeline.pages.pictures import as_png, heat
from pipeline.pages.plain import plain
from pipeline.texts.encoding import store_model
from storage.errors import FacetError
from storage.results import index, latest_result
from storage.schema import meanings
from storage.store import Store
from tests.jobs.neuron_store import KEPT, neuron_store


class Here:
    """Asks the model in this process: what is asked is what is tested."""

    patience = 60.0

    def ask(self, opened: Opened, function, *arguments: object) -> object:
        return function(Loaded(opened.store, store_model(opened.store)), *arguments)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = neuron_store(tmp_path_factory.mktemp("neurons"))
    omp.main(omp.OmpConfig(found.url, str(KEPT), "microworld", terms=4, workers="here"))
    repair.main(
        repair.RepairConfig(
            found.url, heads=("3.0", "2.1"), classes="microworld:shape", groups="background",
            workers="here",
        )
    )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def asked(store: Store) -> TestClient:
    library = Library([store.url], [], following, as_typed)
    library.model = Here()  # type: ignore[assignment]
    return TestClient(make_app(library), base_url="http://127.0.0.1")


def test_the_list_is_sorted_searched_and_paged(asked: TestClient, store: Store) -> None:
    table = latest_result(store.url, "second_order").table("neurons").to_pandas()
    found = asked.get("/api/s/store/neurons").json()
    order = table.sort_values("norm_large", ascending=False)["neuron"].tolist()
    assert [row["neuron"] for row in found["rows"]] == order[:PAGE]
    assert (found["layer"], found["total"], found["images"]) == (KEPT, len(table), 60)
    by_mean = asked.get("/api/s/store/neurons?sort=mean").json()["rows"]
    assert by_mean[0]["mean"] == pytest.approx(table["norm_mean"].max())
    codes = latest_result(store.url, "omp").table("codes").to_pandas()
    word = codes["text"].iloc[0].split()[-1]
    named = codes[codes["text"].str.contains(word, case=False, regex=False)]["neuron"]
    searched = asked.get("/api/s/store/neurons", params={"text": word}).json()
    assert {row["neuron"] for row in searched["rows"]} == set(named)
    rest = asked.get("/api/s/store/neurons?after=47").json()
    assert [row["neuron"] for row in rest["rows"]] == order[47:]
    page = asked.get("/s/store/neurons").text
    assert f'href="/s/store/neuron/{KEPT}.{order[0]}"' in page
    assert "has a text with “zzz”" in asked.get("/s/store/neurons?text=zzz").text


def test_a_neuron_is_what_the_terminal_says_of_it(asked: TestClient, store: Store) -> None:
    answer, effects = about_neuron(store, KEPT, 7)
    found = asked.get(f"/api/s/store/neuron/{KEPT}.7?maps=true").json()
    assert found["texts"] == plain(answer.texts)
    assert found["figures"] == plain(answer.figures)
    assert found["norms"] == plain(answer.norms)
    assert found["result"] == effects.url
    assert [i["image"] for i in found["images"]] == [i.image for i in answer.images]
    assert [i["score"] for i in found["images"]] == [i.score for i in answer.images]
    for fired, image in zip(found["fires"], answer.images, strict=True):
        np.testing.assert_array_equal(np.float32(fired["activations"]), image.activations)
    strongest = max(float(np.abs(i.activations).max()) for i in answer.images)
    second = asked.get(f"/s/store/neuron/{KEPT}.7/map/1.png")
    own = answer.images[1]
    assert second.content == as_png(heat(own.pixels, own.activations / strongest))
    assert Image.open(io.BytesIO(second.content)).format == "PNG"


def test_the_page_of_a_neuron_runs_no_model_unasked(
    asked: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the model was asked")

    answer, _ = about_neuron(store, KEPT, 5)
    monkeypatch.setattr(Here, "ask", refuse)
    page = asked.get(f"/s/store/neuron/{KEPT}.5").text
    assert f"/s/store/image/{answer.images[0].image}/thumbnail.jpg" in page
    assert f'action="/s/store/neuron/{KEPT}.5"' in page
    assert page.count("<rect ") >= len(answer.norms.counts)
    assert all(f"{term.coefficient:+.3f}".replace("-", "−") in page for term in answer.texts)
    rows = asked.get("/api/s/store/neurons?sort=length").json()["rows"]
    assert {r["neuron"]: r["texts"] for r in rows}.get(5, signed(answer.texts[:3])) == signed(
        answer.texts[:3]
    )


def test_who_asks_while_the_model_is_loaded_is_told_so(
    asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loading(*_: object) -> None:
        raise NotYet("the model is being loaded, since 4 s")

    monkeypatch.setattr(Here, "ask", loading)
    page = asked.get(f"/s/store/neuron/{KEPT}.6?maps=true")
    assert page.status_code == 200
    assert "data-waiting>The model is being loaded, since 4 s." in page.text
    assert asked.get(f"/s/store/neuron/{KEPT}.6/map/0.png").status_code == 503

    def gone(*_: object) -> None:
        raise FacetError("the weights are gone")

    monkeypatch.setattr(Here, "ask", gone)
    page = asked.get(f"/s/store/neuron/{KEPT}.6?maps=true")
    assert "takes the model&#39;s weights: the weights are gone" in page.text
    assert "thumbnail.jpg" in page.text


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("neuron/2.48", 404, "neurons 0 to 47"),
        ("neuron/9.0", 404, "nothing is known yet of the neurons of MLP layer 9"),
        ("neuron/2.7/map/8.png", 404, "8 of the neuron"),
        ("neuron/2-7", 400, "at: "),
        ("neuron/" + "9" * 400 + ".1", 400, "at: "),
        ("neurons?layer=3", 404, "MLP layer 3"),
        ("neurons?sort=colour", 400, "not by"),
        ("neurons?after=-1", 400, "after: "),
        ("result/omp/../../secret", 404, "no such"),
        ("result/omp/nothing", 404, "no result nothing of omp"),
        ("result/..%2F..%2Fetc/passwd", 404, ""),
    ],
)
def test_what_is_not_there(asked: TestClient, address: str, status: int, words: str) -> None:
    found = asked.get(f"/s/store/{address}")
    assert found.status_code == status
    assert words in found.text
    assert "Traceback" not in found.text


def test_every_result_is_listed_with_the_command_that_made_it(
    asked: TestClient, store: Store
) -> None:
    listed = asked.get("/api/s/store/results").json()
    expected = index(store.url).to_pylist()[::-1]
    assert [f"results/{r['job']}/{r['name']}" for r in listed["results"]] == [
        row["address"] for row in expected
    ]
    assert [r["settings"] for r in listed["results"]] == [
        json.loads(row["settings"]) for row in expected
    ]
    assert "textspan" in listed["lacking"]
    assert "omp" not in listed["lacking"]
    result = latest_result(store.url, "omp")
    page = asked.get(f"/s/store/result/omp/{result.name}").text
    assert as_typed("omp", result.config) in page
    assert f'href="/s/store/result/omp/{result.name}/codes"' in page
    latest = asked.get("/api/s/store/result/omp/latest").json()
    assert (latest["name"], latest["settings"]) == (result.name, plain(result.config))
    for row in listed["results"]:
        assert asked.get(f"/s/store/result/{row['job']}/{row['name']}").status_code == 200


def test_tables_are_sorted_and_their_columns_explained(asked: TestClient, store: Store) -> None:
    result = latest_result(store.url, "omp")
    table = result.table("codes").to_pandas()
    at = f"/s/store/result/omp/{result.name}/codes"
    found = asked.get(f"/api{at}?sort=coefficient&down=true&after=10").json()
    expected = table.sort_values("coefficient", ascending=False, kind="stable")[10:110]
    assert found["rows"] == plain(expected)
    assert found["total"] == len(table)
    assert found["meanings"] == meanings()["omp/codes"]
    page = asked.get(at).text
    assert meanings()["omp/codes"]["coefficient"] in page
    assert table["text"].iloc[0] in page
    assert asked.get(f"{at}?sort=nothing").status_code == 400
    assert asked.get(f"/s/store/result/omp/{result.name}/nothing").status_code == 404


def test_a_repair_shows_every_group_before_and_after(asked: TestClient, store: Store) -> None:
    result = latest_result(store.url, "repair")
    table = result.table("accuracy").to_pandas()
    page = asked.get(f"/s/store/result/repair/{result.name}").text
    groups = table[(table["scope"] == "group") & (table["edit"] == "chosen")]
    for name, accuracy in zip(groups["name"], groups["accuracy"], strict=True):
        assert f"<td>{name}</td>" in page
        assert f"{100 * accuracy:.1f}" in page
    assert "repaired" in page
