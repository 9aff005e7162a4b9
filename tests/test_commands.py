"""Every command of pages, docstrings and messages is one that its job understands."""

import dataclasses
import shlex
from importlib import import_module

import pytest

from jobs import cli, encode_texts, extract, omp, plan, reduce, rosetta, second_order, textspan
from jobs.console import told
from jobs.recipes import encode_texts as encode_texts_recipe
from jobs.recipes import extracted
from jobs.recipes import omp as omp_recipe
from jobs.recipes import reduce as reduce_recipe
from jobs.recipes import second_order as second_order_recipe
from jobs.recipes import textspan as textspan_recipe
from pipeline.models import ModelSpec, check_supported
from storage.errors import FacetError, StoreError
from storage.results import latest_result
from tests import commands_kit as kit
from tests.storage.stores import new_store

FOUND = {
    **{p.relative_to(kit.ROOT).as_posix(): kit.of_page for p in kit.PAGES},
    **{p.relative_to(kit.ROOT).as_posix(): kit.of_lines for p in kit.OTHERS},
    **{p.relative_to(kit.ROOT).as_posix(): kit.of_source for p in kit.SOURCES},
}
# What a job says of a store that is not there: it is reached only if the settings go together.
NOWHERE = r"no store at|there is no store at|no results of rosetta in|no mining with a generator"


def commands(place: str) -> list[kit.Command]:
    return list(dict.fromkeys(FOUND[place]((kit.ROOT / place).read_text())))


@pytest.mark.parametrize("place", [p for p in FOUND if "facet " in (kit.ROOT / p).read_text()
                                   or "python -m" in (kit.ROOT / p).read_text()])  # fmt: skip
def test_commands_are_understood_and_their_settings_go_together(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in commands(place):
        config = kit.parse(command)
        if config is None or kit.ELIDED in command.words or kit.UNKNOWN in command.words:
            continue  # a mention; or the rest is not known here
        if isinstance(getattr(config, "images", None), str):
            config = dataclasses.replace(config, images="microworld:n=4")
        if isinstance(config, plan.PlanConfig):
            plan.check(config)
        elif isinstance(config, rosetta.RosettaConfig):
            rosetta.check(dataclasses.replace(config, out=str(tmp_path / "out")))
        elif isinstance(config, extract.ExtractConfig):
            check_supported(ModelSpec(config.model, config.pretrained))
        elif command.name not in ("run", "demo", "models"):  # these need nothing but their settings
            gone = str(tmp_path / "nowhere")
            places: dict[str, object] = {
                "invert": {"rosetta": gone},
                "align": {"from_": gone},
                "compare-models": {"stores": (gone,)},
            }.get(command.name, {"store": gone})
            config = dataclasses.replace(config, **places)
            with pytest.raises(FacetError, match=NOWHERE):
                cli.job_module(command.name).main(config)


def test_commands_are_found_wherever_they_stand():
    assert {c.name for p in FOUND for c in commands(p) if c.kind == "job"} >= set(cli.JOBS)
    page = (
        "Do `facet reduce`.\n```bash\nfoo && facet status \\\n  --store s | jq 'a | b' # why\n```\n"
    )
    assert [(c.name, c.words) for c in kit.of_page(page)] == [
        ("status", ("--store", "s")), ("reduce", ()),
    ]  # fmt: skip
    ray = "ray submit c.yaml jobs/encode_texts.py -- --store 'a b' --pool … 2> log"
    assert list(kit.of_lines(ray)) == [
        kit.Command("job", "encode-texts", ("--store", "a b", "--pool", "…"))
    ]
    source = 'def f(s):\n  a = command("omp", store=s)\n  raise E(f"run `{a} …`, or `facet x {s}`")'
    assert [(c.name, c.words) for c in dict.fromkeys(kit.of_source(source))] == [
        ("omp", ("--store", kit.UNKNOWN, "…")), ("x", (kit.UNKNOWN,)),
    ]  # fmt: skip
    with pytest.raises(AssertionError, match="put `…` around facet omp --t"):
        list(kit.of_source('x = "try facet omp --terms 3"'))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("facet ablate --study neurons", "cannot be parsed"),  # --store and --classes are lacking
        ("facet ablate --store s --clases x", "cannot be parsed"),
        ("facet redcue --store s", "no job 'redcue'"),
        ("facet extract --stoer s …", "cannot be parsed"),
        ("python -m benchmarks.omp --atom 3", "cannot be parsed"),
        ("python -m benchmarks.second_order sped", "cannot be parsed"),
        ("python -m benchmarks.nothing", "no module"),
    ],
)
def test_what_cannot_be_parsed_fails(line, fault):
    (command,) = kit.of_lines(line)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=fault):
        kit.parse(command)


# -- what to type next ---------------------------------------------------------------------

ODD = "out [1]/it's"
WHERE = "label in ('a b', \"it's\") and count > 1"


def test_the_next_command_keeps_the_settings_that_matter(tmp_path):
    store = new_store(str(tmp_path / "s"))
    found = kit.understood(extracted.next_command(store))
    assert (found.store, found.pool, found.layers) == (store.url, "general", "all")
    found = kit.understood(reduce_recipe.next_command(reduce.ReduceConfig(ODD, WHERE), store))
    assert (found.store, found.where, found.pretrained) == (ODD, WHERE, None)
    assert (store.meta.layers, found.layers) == (2, "all")  # there are no last four
    store.meta = dataclasses.replace(store.meta, layers=12)
    found = kit.understood(reduce_recipe.next_command(reduce.ReduceConfig(ODD, WHERE), store))
    assert found.layers == "last:4"
    found = kit.understood(
        encode_texts_recipe.next_command(
            encode_texts.EncodeTextsConfig(ODD, "my pool.txt", "w x.pt"), store
        )
    )
    assert (found.store, found.pool, found.pretrained) == (ODD, "my pool.txt", "w x.pt")
    spans = textspan.TextSpanConfig(
        ODD, "my pool.txt", layers="0,2", where=WHERE, pretrained="w.pt"
    )
    found = kit.understood(textspan_recipe.next_command(spans, ("shape",)))
    assert (found.store, found.pool, found.layers) == (ODD, "my pool.txt", "0,2")
    assert (found.reference, found.pretrained, found.study) == (WHERE, "w.pt", ("textspan",))
    assert found.classes == "microworld:shape"
    found = kit.understood(textspan_recipe.next_command(spans, ()))
    assert found.store == ODD  # of a report: no classes are known
    effects = second_order.SecondOrderConfig(ODD, pretrained="w.pt", mlp_layers="0,2")
    found = kit.understood(second_order_recipe.next_command(effects, store))
    # Whoever gave the weights file need not give it again: the store remembers it.
    assert (found.store, found.mlp_layers, found.pretrained) == (ODD, "0,2", None)
    codes = omp.OmpConfig(ODD, "0,2", "p", pretrained="w.pt")
    found = kit.understood(omp_recipe.next_command(codes, 2, 17))
    assert (found.what, found.store, found.layer, found.neuron) == ("neuron", ODD, 2, 17)
    assert found.pretrained == "w.pt"


def test_what_is_missing_is_made_by_a_command_that_names_the_place():
    for job, option in (
        ("textspan", "store"), ("second_order", "store"), ("rosetta", "out"), ("invert", "out"),
        ("align", "to"),
    ):  # fmt: skip
        with pytest.raises(StoreError) as caught:
            latest_result(ODD, job)
        (command,) = kit.of_spans(told(caught.value))
        assert getattr(kit.parse(command), option) == ODD


def test_a_store_of_a_weights_file_asks_for_the_file(tmp_path):
    store = new_store(str(tmp_path / "s"))
    store.meta = dataclasses.replace(store.meta, weights="mine.safetensors")
    assert "--pretrained …" in reduce_recipe.next_command(reduce.ReduceConfig("s"), store)


def test_the_store_opens_as_extract_says(tmp_path):
    url = str(tmp_path / "it's [1] é😀")
    new_store(url)
    python, option, code = shlex.split(extracted.opening(url))
    assert (python, option) == ("python", "-c")
    said: list[object] = []
    exec(code, {"print": said.append})
    assert "embedding" in said[0]


def test_the_terminal_leaves_paths_and_conditions_as_they_are(capsys):
    console = import_module("jobs.console")
    console.show_next("facet reduce --store 'a[b]/:cat:' --where \"tag == '[red]'\"")
    console.show_table("[x]", {"a": "out[1]/:cat:", "longer": "word " * 60 + "end"})
    said = capsys.readouterr().out
    assert "next: facet reduce --store 'a[b]/:cat:' --where \"tag == '[red]'\"" in said
    assert "[x]" in said
    assert "  a         out[1]/:cat:\n" in said
    assert f"  longer    {'word ' * 60}end\n" in said
