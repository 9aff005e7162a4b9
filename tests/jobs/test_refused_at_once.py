"""Jobs that cannot write, or whose device is not there: refused before any work is done."""

import errno
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jobs import (
    ablate,
    adversarial,
    align,
    compare,
    concepts,
    encode_texts,
    extract,
    heatmap,
    index,
    invert,
    label,
    omp,
    reduce,
    repair,
    rosetta,
    run,
    search,
    second_order,
    textspan,
)
from jobs.recipes import ablate as ablate_recipe
from jobs.recipes import extract as extract_recipe
from jobs.recipes import omp as omp_recipe
from pipeline.cluster import machines
from pipeline.rosetta import inversions, setup
from pipeline.texts import encoding
from storage import urls
from storage.errors import FacetError, StoreError
from tests.refusals import refused
from tests.storage import stores

MICRO = {"images": "microworld:n=4", "model": "microworld", "pretrained": "microworld"}
FIRST = {"mlp_layers": "0", "top_k": 9}
UNITS = {"images": "microworld:n=4", "models": ("microworld", "microworld-cnn")}


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    """A finished store; no model can be loaded and no Ray started."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def started(*args, **kwargs):
        raise AssertionError("work was begun")

    for module in (extract_recipe, encoding):
        monkeypatch.setattr(module, "load_model", started)
    for module in (setup, inversions):
        monkeypatch.setattr(module, "load_units", started)
    monkeypatch.setattr(machines, "connect", started)
    (tmp_path / "s.txt").write_text("class-0\nclass-1\nclass-2\n")
    return stores.fill(stores.new_store(str(tmp_path / "s"))).url


WRITERS = {
    "extract": lambda s: extract.main(extract.ExtractConfig(**MICRO, store=f"{s}-new")),
    "index": lambda s: index.main(index.IndexConfig(s, layers="all")),
    "reduce": lambda s: reduce.main(reduce.ReduceConfig(s)),
    "encode-texts": lambda s: encode_texts.main(encode_texts.EncodeTextsConfig(s, "microworld")),
    "textspan": lambda s: textspan.main(textspan.TextSpanConfig(s, "microworld", layers="all")),
    "label": lambda s: label.main(label.LabelConfig(s, pool="microworld", layers="all")),
    "ablate": lambda s: ablate.main(ablate.AblateConfig(s, f"{s}.txt")),
    "compare": lambda s: compare.main(
        compare.CompareConfig(s, "label == 'class-0'", "label == 'class-1'", "microworld")
    ),
    "align": lambda s: align.main(align.AlignConfig(s, s, layers="all")),
    "second-order": lambda s: second_order.main(second_order.SecondOrderConfig(s, **FIRST)),
    "omp": lambda s: omp.main(omp.OmpConfig(s, "0", "microworld", terms=4)),
    "concepts": lambda s: concepts.main(concepts.ConceptsConfig(s, image=("0",))),
    "heatmap": lambda s: heatmap.main(heatmap.HeatmapConfig(s, image="0", text=("a star",))),
    "adversarial": lambda s: adversarial.main(
        adversarial.AdversarialConfig(s, "class-0", "class-1", f"{s}.txt", pictures_from=f"{s}.txt")
    ),
    "repair": lambda s: repair.main(
        repair.RepairConfig(s, f"{s}.txt", "label", heads=("0.1",), workers="here")
    ),
    "search": lambda s: search.main(search.SearchConfig(s, image=("0",))),
    "rosetta": lambda s: rosetta.main(rosetta.RosettaConfig(**UNITS, out=s)),
    "invert": lambda s: invert.main(invert.InvertConfig("r", "microworld:n=4", s)),
}


@pytest.mark.parametrize("job", WRITERS)
def test_every_job_that_writes_tries_it_first(job, store, monkeypatch):
    def full(url: str, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system", url)

    monkeypatch.setattr(urls, "put_bytes", full)
    monkeypatch.setattr(omp_recipe, "second_order_result", lambda *_: SimpleNamespace(name="x"))
    monkeypatch.setattr(invert, "refuse_unmined", lambda url: None)
    with pytest.raises(StoreError, match=f"cannot write to {store}(-new)?: Read-only file system"):
        WRITERS[job](store)


def test_a_run_checks_the_devices_of_all_its_stages(store, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    file = tmp_path / "run.yaml"
    file.write_text(
        f"store: {store}-new\nimages: microworld:n=4\nmodel: microworld\npretrained: microworld\n"
        "stages:\n  extract:\n  second-order:\n    device: cuda\n    mlp_layers: 2\n"
    )
    with refused(FacetError, "--device cuda: this machine has no GPU"):
        run.main(run.RunConfig(str(file)))


@pytest.mark.parametrize(
    "start",
    [
        lambda s: extract.main(extract.ExtractConfig(**MICRO, store=f"{s}-new", device="cuda")),
        lambda s: second_order.main(second_order.SecondOrderConfig(s, **FIRST, device="cuda")),
        lambda s: rosetta.main(rosetta.RosettaConfig(**UNITS, out=s, device="cuda")),
    ],
    ids=["extract", "second-order", "rosetta"],
)
def test_a_gpu_that_is_not_there_is_said_before_anything_starts(start, store, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    with refused(FacetError, "--device cuda: this machine has no GPU"):
        start(store)


def test_words_to_compare_with_need_a_library_and_can_be_done_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    asked = ablate.AblateConfig("s", "microworld:shape", study=("textspan",), pool="microworld")
    with refused(FacetError, r"pip install .*; or do without these words: --baselines random"):
        ablate_recipe.pools_of(asked)
    assert len(ablate_recipe.pools_of(replace(asked, baselines=("random",)))) == 1
