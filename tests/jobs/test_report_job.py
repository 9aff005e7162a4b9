"""The page of a store: its text, its links, what it warns of; not how it looks."""

import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tyro

from jobs import ablate, label, omp, report, segment, textspan
from jobs.pages import as_typed
from pipeline.pages import neuron_sections
from pipeline.pages import report as page
from pipeline.pages.sentences import tiny
from storage.errors import FacetError, StoreError
from storage.results import latest_result
from storage.store import Store, open_store
from tests.commands_kit import of_lines, parse
from tests.jobs.neuron_store import KEPT
from tests.pipeline.rosetta.mined import mined
from tests.refusals import refused

# The section of maps that were held to masks.
MASKS = "segmentation-microworld-shape"
# Ways of writing a head that are not "layer 3, head 0".
OTHERWISE = re.compile(r"heads? \(?\d+[.,] ?\d|layer\.head|\bL\d+H\d+")


class Page(HTMLParser):
    """What a page holds: ids, addresses, and the text of every section.

    Attributes
    ----------
    ids, addresses : list of str
    texts : dict of str to dict
        By section: the text of ``found``, of ``note``, of ``code`` and of all.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids, self.addresses, self.texts = [], [], {"": {}}
        self._open, self._section = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids += [known["id"]] if "id" in known else []
        self.addresses += [known[name] for name in ("href", "src", "xlink:href") if name in known]
        if tag == "section":
            self._section = known["id"]
            self.texts[self._section] = {}
        if tag in ("p", "code", "style"):
            self._open.append(known.get("class") or tag)

    def handle_endtag(self, tag):
        if tag in ("p", "code", "style"):
            self._open.pop()

    def handle_data(self, data):
        kind = self._open[-1] if self._open else "rest"
        for name in (kind, "all") if kind not in ("code", "style") else (kind,):
            of = self.texts[self._section]
            of[name] = of.get(name, "") + " " + data

    def said(self, section: str, kind: str = "found") -> str:
        return " ".join(self.texts[section].get(kind, "").split())


def copied(store: Store, folder: Path) -> Store:
    shutil.copytree(store.url, folder / "store")
    return open_store(str(folder / "store"))


@pytest.fixture(scope="module")
def store(neurons_kept, tmp_path_factory) -> Store:
    """A random model with a result of every job."""
    made = copied(neurons_kept, tmp_path_factory.mktemp("report"))
    shutil.rmtree(Path(made.url) / "results", ignore_errors=True)
    shutil.copytree(
        latest_result(neurons_kept.url, "second_order").url,
        Path(made.url) / "results" / "second_order" / "only",
    )
    textspan.main(
        textspan.TextSpanConfig(
            made.url, "microworld", layers="last:2", texts_per_head=6, workers="here"
        )
    )
    label.main(label.LabelConfig(made.url, layers="last:2", workers="here"))
    omp.main(omp.OmpConfig(made.url, str(KEPT), "microworld", terms=4, workers="here"))
    plain = ablate.AblateConfig(made.url, "microworld:shape", workers="here")
    ablate.main(plain)
    ablate.main(replace(plain, study=("chosen",), heads=("3.0", "3.1", "2.1")))
    segment.main(
        segment.SegmentConfig(
            made.url, "microworld:shape", methods=("raw-attention", "gradcam", "random"),
            protocol=("aligned", "published"), workers="here",
        )
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def shown(store) -> Page:
    return Page(Path(report.main(report.ReportConfig(store.url))).read_text())


def test_every_section_says_what_was_found_and_by_which_command(shown, store):
    sections = list(shown.texts)[1:]
    for name in ("images", "exactness", "shares", "texts", "labels", "roles", "ablation-mlps",
                 "ablation-layers", "ablation-heads", "ablation-chosen", f"effects-{KEPT}",
                 f"codes-{KEPT}", "moments", MASKS, f"{MASKS}-pictures"):  # fmt: skip
        assert name in sections
    assert sum(name.startswith("neuron-") for name in sections) == neuron_sections.NEURONS
    assert "missing" not in sections
    for name in sections:
        assert re.search(r"\d.*\.$", shown.said(name)), name
        if name not in ("exactness", "shares", "moments"):
            (line,) = of_lines(shown.said(name, "code"))
            parse(line)
    residual = store.contributions()["residual"].values.max()
    assert f"miss it by {tiny(residual)} of its length" in shown.said("exactness")
    assert shown.said("images") == "60 of 60 images were taken apart."


def test_sentences_are_true_of_the_results(shown, store):
    accuracy = latest_result(store.url, "ablate").table("accuracy").to_pandas()
    whole = accuracy[accuracy["scope"] == "all"].set_index("ablation")
    assert f"Of 60 images {whole['accuracy']['none']:.1%}" in shown.said("ablation-heads")
    assert "without layer 2, head 1; layer 3, heads 0 and 1:" in shown.said(
        "ablation-chosen"
    ).replace("Without", "without")
    table = latest_result(store.url, "textspan").table("descriptions").to_pandas()
    first = table[table["rank"] < 5].groupby(["layer", "head"])["cumulative"].max()
    assert f"explain {first.median():.0%} of what it writes" in shown.said("texts")
    for text in table[table["rank"] == 0]["text"]:
        assert text in shown.said("texts", "all")
    truth = latest_result(store.url, "omp").table("truth").to_pandas()
    assert f"with an AUC of {truth['auc'].mean():.2f}" in shown.said(f"codes-{KEPT}")
    strong = latest_result(store.url, "second_order").table("neurons").to_pandas()
    strong = strong[strong["norm_large"] >= strong["norm_large"].median()]["neuron"]
    of_strong = truth[truth["neuron"].isin(strong)].set_index("neuron")["auc"]
    for neuron, what in ((of_strong.idxmax(), "truest"), (of_strong.idxmin(), "least true")):
        said = shown.said(f"neuron-{KEPT}-{neuron}")
        assert f"whose text is {what}." in said
        assert f"an AUC of {of_strong[neuron]:.2f}; random texts give" in said


def test_maps_against_masks_are_told_as_they_were_found(shown, store):
    methods = latest_result(store.url, "segment").table("methods").to_pandas()
    assert len(methods) == 6
    best = methods.loc[methods["miou"].idxmax()]
    said = shown.said(MASKS)
    assert f"over 60 images, {best['method']} has the best mIoU: {best['miou']:.1%}" in said
    assert "drawn at random get" in said or best["method"] == "random"
    # These pictures are as wide as high.
    assert "With masks stretched to the input, as published, every figure is the same." in said
    assert shown.said(MASKS, "all").count(f"{100 * best['miou']:.1f} (") == 1
    assert shown.said(f"{MASKS}-pictures").startswith("Of all pictures the 4 worst, 4 middle, 4")


def raised(store: Store, by: float) -> None:
    """Have all that was classified classified better, so that the model is not at chance."""
    for place in Path(store.url).glob("results/ablate/*/accuracy.parquet"):
        table = pd.read_parquet(place)
        for name in ("accuracy", "low", "high"):
            table[name] += by
        table.to_parquet(place)


def test_the_page_stands_alone_and_its_links_lead_somewhere(store, tmp_path):
    made = copied(store, tmp_path)
    raised(made, 0.5)
    html = Path(report.main(report.ReportConfig(made.url))).read_text()
    shown = Page(html)
    assert "say nothing" not in html
    inside = {a for a in shown.addresses if a.startswith("#")}
    assert all(a.startswith(("#", "data:")) for a in shown.addresses)
    assert not re.search(r"@import|url\((?!['\"]?(#|data:))|<script|<link|<iframe", html)
    assert {a[1:] for a in inside} <= set(shown.ids)
    assert len(shown.ids) == len(set(shown.ids))
    assert {"#texts-3-0", "#without-3-0", f"#codes-{KEPT}"} <= inside
    assert "#ablation-heads" in inside  # of the contents list


def test_every_head_is_written_one_way(shown):
    for name, texts in shown.texts.items():
        assert not OTHERWISE.search(texts.get("all", "")), name
    assert "layer 3, head 0" in shown.said("ablation-heads", "all")


def test_random_weights_and_chance_are_said(shown, store):
    assert "The weights of this model are random" in shown.said("", "note")
    for study in ("mlps", "layers", "heads", "chosen"):
        assert "These ablations say nothing" in shown.said(f"ablation-{study}", "note")
    assert "#without-3-0" not in shown.addresses  # there is no loss to speak of


def test_a_store_without_results_says_what_to_type_next(neurons_kept, tmp_path):
    bare = copied(neurons_kept, tmp_path)
    for name in ("results", "reductions.zarr"):
        shutil.rmtree(Path(bare.url) / name, ignore_errors=True)
    shown = Page(Path(report.main(report.ReportConfig(bare.url))).read_text())
    assert list(shown.texts)[1:] == ["images", "exactness", "shares", "missing"]
    told = shown.said("missing", "all")
    for job in ("textspan", "ablate", "second-order", "omp", "segment"):
        assert f"facet {job} --store {bare.url}" in told


def test_a_result_over_other_images_says_so(store, tmp_path):
    made = copied(store, tmp_path)
    result = latest_result(made.url, "textspan")
    place = Path(result.url) / "provenance.json"
    then = json.loads(place.read_text())
    then["identity"]["over"]["ledger"] = "other"
    place.write_text(json.dumps(then))
    shown = Page(Path(report.main(report.ReportConfig(made.url))).read_text())
    assert "over other images" in shown.said("texts", "note")
    assert "over other images" not in shown.said("ablation-heads", "note")


def test_neurons_are_shown_without_the_weights(store, tmp_path, monkeypatch):
    def gone(*_: object) -> None:
        raise FacetError("the store's weights file x.pt is gone")

    monkeypatch.setattr(neuron_sections, "store_model", gone)
    out = tmp_path / "new" / "page.html"
    shown = Page(Path(report.main(report.ReportConfig(store.url, str(out)))).read_text())
    neurons = [name for name in shown.texts if name.startswith("neuron-")]
    assert neurons
    for name in neurons:
        assert "x.pt is gone" in shown.said(name, "note")
        images = re.findall(r"image \d+: [+-]", shown.said(name, "all"))
        assert len(images) == neuron_sections.TOP_IMAGES


def test_units_that_models_share_are_their_dictionary(tmp_path):
    mined(str(tmp_path / "shared"))
    place = report.main(report.ReportConfig(str(tmp_path / "shared")))
    shown = Page(Path(place).read_text())
    assert any(name.startswith("concept-") for name in shown.texts)
    assert all(a.startswith(("#", "data:")) for a in shown.addresses)


def test_where_the_page_goes(store, tmp_path):
    assert report.page_url(report.ReportConfig("s3://b/s")) == "s3://b/s/report.html"
    config = report.ReportConfig(store.url, "s3://b/s")
    assert report.page_url(config) == "s3://b/s/report.html"
    assert report.page_url(replace(config, out=str(tmp_path / "x.html"))).endswith("/x.html")
    assert report.page_url(replace(config, out=str(tmp_path))) == f"{tmp_path}/report.html"


def test_what_cannot_be_reported_is_refused(store, tmp_path):
    with refused(StoreError, "no store at .*: run `facet extract"):
        report.main(report.ReportConfig(str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with refused(StoreError, "--out"):
        report.main(report.ReportConfig(store.url, str(tmp_path / "file" / "page.html")))


@pytest.mark.parametrize(
    "config",
    [
        ablate.AblateConfig("s", "microworld:shape"),
        ablate.AblateConfig(
            "a store", "c.txt", study=("chosen", "mlps"), heads=("3.0", "1.2"), where="x == 'y z'"
        ),
        textspan.TextSpanConfig("s", "general", layers="all", texts_per_head=7),
        omp.OmpConfig("s", "1,2", "general", method="lasso"),
    ],
    ids=str,
)
def test_commands_are_those_that_were_typed(config):
    job = type(config).__module__.removeprefix("jobs.")
    kept = json.loads(json.dumps(asdict(config)))
    (line,) = of_lines(as_typed(job, kept | {"of_an_older_version": 1}))
    assert line.name == job
    assert tyro.cli(type(config), args=line.words) == config


def test_pictures_and_reading_are_bounded(store, monkeypatch):
    for module in (page, neuron_sections):
        monkeypatch.setattr(module, "READ", 8)
    monkeypatch.setattr("pipeline.pages.extraction.PICTURES", 5)
    shown = Page(Path(report.main(report.ReportConfig(store.url))).read_text())
    assert "over 8 of 60 images" in shown.said("shares")
    assert "5 of them, spread evenly" in shown.said("images", "all")
    assert np.isfinite(store.contributions()["residual"].values).all()
