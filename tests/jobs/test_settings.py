"""Every setting of every job does what it says, or is refused."""

import ast
import json
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest

from jobs import ablate, cli, extract, omp, rosetta, second_order, segment, show, textspan
from jobs.recipes import extract as recipe
from pipeline.heads.edits import EditError, edit_from, write_edit
from pipeline.models import check_supported, load_model
from pipeline.stats.reductions import reduce_store
from storage.errors import FacetError
from storage.images import ListDigest
from tests.jobs.neuron_store import KEPT, TINY
from tests.storage.stores import image_table

ROOT = Path(__file__).resolve().parents[2]
JOBS = "tests/jobs/test_"
HERE = JOBS + "settings.py::"
PLACES = {
    "store",
    "from_",
    "to",
    "out",
    "rosetta",
}  # where things are: every test of a job gives one

# What shows that changing a setting changes what is found, or what does the work.
SHOWN = {
    "extract": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "images": JOBS + "extract_job.py::test_another_configuration_is_refused",
        "model pretrained components layers precision store_dtype shard_size seed": HERE
        + "test_settings_of_extraction_are_the_stores_identity",
        "batch_size": "tests/pipeline/extraction/test_extractor.py"
        "::test_batches_of_any_size_give_the_same_contributions",
        "device num_actors": JOBS + "extract_job.py::test_workers_fit_the_cluster",
        "max_bad": JOBS + "extract_job.py::test_bad_images_are_masked_and_named",
        "limit": JOBS + "extract_job.py::test_another_configuration_is_refused",
        "decode": JOBS + "decode.py::test_a_fast_store_says_so_and_is_near_the_exact_one",
    },
    "reduce": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "where": JOBS + "textspan_job.py::test_what_comes_next_is_about_the_same_images",
        "components": "tests/pipeline/stats/test_reductions.py"
        "::test_a_second_batch_is_added_without_reading_the_first_again",
    },
    "index": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "layers blocks embedding": JOBS + "index_job.py::test_parts_are_those_that_are_asked_for",
    },
    "encode-texts": {
        "pool": JOBS + "textspan_job.py::test_texts_are_the_models_own_and_read_back",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "textspan": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "pool": JOBS + "stale_results.py"
        "::test_a_pool_file_that_holds_one_thing_then_another_then_the_first_again",
        "layers texts_per_head objective where": HERE + "test_settings_of_textspan",
        "top_images": JOBS + "textspan_job.py"
        "::test_images_of_a_text_are_those_that_its_head_writes_most_of_it_for",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "label": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "with_ examples attempts": JOBS + "label_job.py"
        "::test_a_server_labels_and_what_it_said_is_kept",
        "pool lexicon layers where": JOBS + "label_job.py::test_settings_of_labels",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "ablate": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "classes reference": JOBS + "stale_results.py"
        "::test_a_classes_file_of_another_content_and_means_over_other_images",
        "study label_column where heads edit pool layers texts_per_head baselines mlp_layers": HERE
        + "test_settings_of_ablations",
        "batch_size device num_actors": JOBS + "extract_job.py::test_workers_fit_the_cluster",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "compare": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "a b pool layers texts_per_part": JOBS + "compare_job.py::test_settings_of_comparisons",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "align": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "pool layers where texts_per_head": JOBS + "align_job.py::test_settings_of_alignments",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "second-order": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "images model pretrained max_bad": JOBS + "second_order_job.py"
        "::test_a_store_is_made_and_its_bad_images_never_enter",
        "mlp_layers store_dtype": JOBS + "second_order_job.py"
        "::test_actors_and_tasks_give_what_one_process_gives",
        "keep": JOBS + "second_order_job.py::test_passes_of_the_model_give_the_same",
        "top_k": JOBS + "stale_results.py::test_directions_are_those_that_were_asked_for_last",
        "batch_size device num_actors": JOBS + "extract_job.py::test_workers_fit_the_cluster",
        "decode": JOBS + "decode.py::test_second_order_makes_a_store_as_it_is_told",
    },
    "omp": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "mlp_layers pool": JOBS + "omp_job.py"
        "::test_planted_directions_give_their_texts_and_dead_neurons_are_listed",
        "terms method label_column": HERE + "test_settings_of_codes",
        "classes": JOBS + "omp_job.py::test_accuracy_is_that_of_effects_written_out",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "search": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "image text heads layer blocks metric centred top where property": JOBS
        + "search_job.py::test_settings_of_searches",
        "edit": JOBS + "search_job.py::test_whole_embeddings_with_an_edit",
        "picture": JOBS + "search_job.py::test_a_picture_finds_what_the_image_finds",
        "queries": JOBS + "search_job.py::test_many_queries_from_a_file",
        "random": JOBS + "search_job.py::test_what_chance_finds",
        "approximate": JOBS + "search_job.py::test_a_search_of_a_part_tells_what_it_misses",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "concepts": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "image picture": JOBS + "concepts_job.py::test_a_file_gives_what_the_stores_image_gives",
        "where": JOBS + "concepts_where.py::test_a_subset_and_all_others_are_told_apart",
        "method": JOBS + "concepts_job.py::test_methods_say_what_they_are_made_of",
        "mlp_layers pool layers terms top": JOBS + "concepts_job.py::test_settings_of_concepts",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "heatmap": {
        "image picture": JOBS + "heatmap_job.py::test_a_file_gives_what_the_stores_image_gives",
        "text layers heads convention": JOBS + "heatmap_job.py"
        "::test_settings_of_maps_are_what_the_model_wrote",
        "edit": JOBS + "heatmap_job.py::test_maps_of_an_edited_embedding",
        "against less_classes": JOBS + "heatmap_job.py::test_maps_are_linear_in_their_texts",
        "pool": JOBS + "heatmap_job.py::test_a_heads_own_texts_and_where_it_writes_of_them",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "segment": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "classes methods protocol class_ label_column layers heads convention mlp_layers where "
        "steps": JOBS + "segment_job.py::test_settings_of_segmentations",
        "masks": JOBS + "segment_job.py::test_what_is_left_out_is_counted_and_named",
        "batch_size device num_actors": JOBS + "extract_job.py::test_workers_fit_the_cluster",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "adversarial": {
        "drawn target": JOBS + "adversarial_job.py::test_every_stage_is_kept_and_found_again",
        "classes mlp_layers pool neurons cues synonyms sentences alike repeats seed": JOBS
        + "adversarial_job.py::test_settings_of_cues",
        "sources": JOBS + "adversarial_job.py::test_other_sources",
        "ask descriptions pictures": JOBS
        + "adversarial_job.py::test_settings_of_descriptions_and_pictures",
        "describe_with draw_with": JOBS
        + "adversarial_job.py::test_what_cannot_work_is_refused",
        "cues_from descriptions_from": JOBS + "adversarial_job.py::test_files_in_place_of_stages",
        "pictures_from keep judge": JOBS
        + "adversarial_job.py::test_pictures_of_ones_own_and_a_persons_list",
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "repair": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "classes groups heads property search label_column where means_from": JOBS
        + "repair_job.py::test_settings_of_repairs",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "rosetta": {
        "workers": JOBS + "workers.py::test_every_job_works_here_without_ray",
        "models neighbours": JOBS + "rosetta_job.py::test_what_cannot_work_is_refused",
        "images shard_size batch_size": JOBS + "rosetta_job.py"
        "::test_another_configuration_is_refused_by_its_fields",
        "generator seeds": JOBS + "rosetta_job.py::test_a_generators_images_and_units",
        "hub": JOBS + "rosetta_job.py::test_another_hub_and_another_model_only_add_pairs",
        "device num_actors": JOBS + "extract_job.py::test_workers_fit_the_cluster",
        "max_bad": JOBS + "rosetta_job.py::test_bad_images_are_left_out_and_counted",
        "limit": "tests/pipeline/images/test_sources.py::test_limit_must_be_positive",
        "decode": JOBS
        + "decode.py::test_rosetta_sees_pictures_as_it_is_told_and_does_not_mix",
    },
    "invert": {
        "images guide judge limit steps rate alpha beta seed starts": JOBS + "invert_job.py"
        "::test_settings_of_inversions",
    },
    "compare-models": {
        "stores format": JOBS + "label_job.py::test_models_side_by_side",
    },
    "plan": {
        "images": JOBS + "plan_job.py::test_the_document_quotes_both_data_sets",
        "images_per_second": JOBS + "plan_job.py"
        "::test_measured_throughput_takes_the_place_of_assumed",
        "dollars_gpu_hour": JOBS + "plan_job.py"
        "::test_a_dearer_gpu_changes_the_dollars_and_nothing_else",
        "model components precision store_dtype shard_size batch_size gpu utilisation decode "
        "decodes_per_second dollars_gb_month dollars_thousand_puts dollars_thousand_gets": HERE
        + "test_settings_of_plans",
    },
    "models": {"word format out": JOBS + "models_job.py::test_names_are_found_and_shown"},
    "status": {"format": JOBS + "show.py::test_a_store"},
    "report": {
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
    },
    "explore": {
        "port host": JOBS + "explore_job.py"
        "::test_for_other_machines_the_address_holds_a_token",
    },
    "run": {"file": JOBS + "run_job.py::test_a_run_fails_goes_on_and_picks_up_new_images"},
    "show": {
        "what layer neuron out": JOBS + "show_neuron.py"
        "::test_a_neuron_is_drawn_and_its_texts_printed",
        "top": JOBS + "textspan_job.py::test_show_prints_the_first_texts_of_every_head",
        "pretrained": JOBS + "textspan_job.py::test_another_model_than_the_stores_is_refused",
        "format": JOBS + "show.py::test_flat_tables",
    },
}  # fmt: skip


@cache
def defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("job", cli.JOBS)
def test_a_test_shows_what_every_setting_does(job):
    shown = {name for names in SHOWN[job] for name in names.split()}
    assert shown | PLACES >= {f.name for f in fields(cli.config_of(job))}
    for place in SHOWN[job].values():
        path, _, name = place.partition("::")
        assert name in defined_in(path), place


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def test_settings_of_extraction_are_the_stores_identity(model, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps(TINY | {"embed_dim": 32}))
    images = ListDigest()
    images.update(image_table(40))
    plain = extract.ExtractConfig("photos", model, str(tmp_path / "s"), "none")

    def identity(**changes):
        config = replace(plain, **changes)
        spec = recipe.spec_of(config)
        return spec.metadata(
            check_supported(spec.model),
            images=images.rows,
            image_list_digest=images.hexdigest(),
            weights_digest=load_model(spec.model).weights_digest,
        ).identity()

    def changed(before, **changes):
        after = identity(**changes)
        return {name for name, value in after.items() if value != before[name]}

    first = identity()
    assert changed(first, images="elsewhere", batch_size=3, num_actors=1) == set()
    assert {"architecture", "architecture_digest", "embed"} <= changed(first, model=str(other))
    assert changed(first, seed=1) == {"weights", "weights_digest"}
    assert changed(first, precision="bf16") == {"precision"}
    assert changed(first, store_dtype="float32") == {"store_dtype"}
    assert changed(first, shard_size=7) == {"shard_size"}
    tokens = {"components": ("heads", "mlps", "tokens"), "layers": "last:1"}
    assert changed(first, **tokens) == {"components", "token_layers"}
    assert changed(identity(**tokens), **tokens | {"layers": "0,2"}) == {"token_layers"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (extract.ExtractConfig("i", "microworld", "s", "microworld", layers="all"),
         "--layers belongs to --components tokens"),
        (extract.ExtractConfig("i", "microworld", "s", "microworld", seed=3),
         "--seed belongs to --pretrained none"),
        (ablate.AblateConfig("s", "c", pool="microworld", layers="all"),
         "--pool, --layers belong to --study textspan"),
        (ablate.AblateConfig("s", "c", mlp_layers="1"), "--mlp-layers belongs to --study neurons"),
        (ablate.AblateConfig("s", "c", study=("edits",)), "--study edits and --edit go together"),
        (ablate.AblateConfig("s", "c", edit=("e",), reference="x == 1"), "--reference belongs to"),
        (ablate.AblateConfig("s", "c", batch_size=3, device="cpu"),
         "--batch-size, --device belong to --study neurons and effects"),
        (omp.OmpConfig("s", "1", "microworld", terms=4, label_column="count"),
         "--label-column belongs to --classes"),
        (second_order.SecondOrderConfig("s", keep="moments", store_dtype="float32"),
         "--store-dtype belongs to --keep"),
        (segment.SegmentConfig("s", "microworld:shape", methods=("random",), layers=("last:1",)),
         "--layers belongs to --methods tokens"),
        (segment.SegmentConfig("s", "microworld:shape", mlp_layers="1"),
         "--mlp-layers belongs to --methods neurons"),
        (segment.SegmentConfig("s", "microworld:shape", label_column="shape"),
         "--label-column belongs to --class label"),
        (rosetta.RosettaConfig(("a", "b"), "o", images="i", seeds=9), "--seeds belongs"),
        (rosetta.RosettaConfig(("a",), "o", generator="g", limit=9), "--limit belongs to --images"),
        (show.ShowConfig("ablate", "s", top=9), "--top belongs to"),
        (show.ShowConfig("omp", "s", out="o"), "--out belongs to"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_settings_that_would_change_nothing_are_refused(
    config, words, neurons_kept, monkeypatch, tmp_path
):
    if hasattr(config, "store") and not isinstance(config, extract.ExtractConfig):
        config = replace(config, store=neurons_kept.url)
    run = {
        extract.ExtractConfig: lambda: extract.check(config),
        ablate.AblateConfig: lambda: ablate.check(config),
        omp.OmpConfig: lambda: omp.check(config),
        second_order.SecondOrderConfig: lambda: second_order.check(config),
        rosetta.RosettaConfig: lambda: rosetta.check(config),
        segment.SegmentConfig: lambda: segment.check(config),
        show.ShowConfig: lambda: show.check(config),
    }[type(config)]
    with pytest.raises(FacetError, match=words):
        run()


def test_settings_of_textspan(neurons_kept):
    plain = textspan.TextSpanConfig(
        neurons_kept.url, "microworld", layers="last:1", texts_per_head=3, workers="here"
    )
    found = textspan.main(plain).descriptions
    assert found["layer"].eq(3).all()
    assert found.groupby("head").size().eq(3).all()
    layers = textspan.main(replace(plain, layers="1-2")).descriptions
    assert set(layers["layer"]) == {1, 2}
    fewer = textspan.main(replace(plain, texts_per_head=1)).descriptions
    assert fewer["text"].tolist() == found["text"][found["rank"] == 0].tolist()
    explained = textspan.main(replace(plain, objective="explained-variance")).descriptions
    shares = [t["explained_variance"][t["rank"] == 0].to_numpy() for t in (found, explained)]
    assert (shares[1] >= shares[0] - 1e-12).all()  # the first text is the one that explains most
    assert (shares[1] > shares[0] + 1e-3).any()
    some = textspan.main(replace(plain, where="index < 20"))
    assert some.result.provenance["images"] == 20
    assert some.descriptions["score"].tolist() != found["score"].tolist()


def test_settings_of_ablations(neurons_kept, tmp_path):
    plain = ablate.AblateConfig(
        neurons_kept.url, "microworld:shape", study=("mlps",), workers="here"
    )

    def run(**changes):
        table = ablate.main(replace(plain, **changes)).accuracy
        return table[table["scope"] == "all"]

    whole = run()
    assert whole["study"].tolist() == ["none", "mlps"]
    assert whole["n"].eq(60).all()
    assert run(where="index < 20")["n"].eq(20).all()
    counts = ablate.main(
        replace(plain, classes="microworld:background", label_column="background")
    ).accuracy
    shown = set(counts["name"][counts["scope"] == "class"])
    assert shown <= set(neurons_kept.images()["background"].to_pylist())
    chosen = {
        heads: run(study=("chosen",), heads=heads)["ablation"].iloc[1]
        for heads in (("3.0",), ("2.1", "3.2"))
    }
    assert chosen == {
        ("3.0",): "layer 3, head 0", ("2.1", "3.2"): "layer 2, head 1; layer 3, head 2",
    }  # fmt: skip
    file = tmp_path / "edit.json"
    reductions = reduce_store(neurons_kept, None)
    gone = edit_from(neurons_kept, reductions, "layer 3, head 0", {(3, 0): 0.0})
    file.write_bytes(write_edit(gone))
    table = run(study=("edits", "chosen"), edit=(str(file), str(file)), heads=("3.0",))
    rows = table.set_index("ablation")["accuracy"]
    assert table["study"].tolist() == ["none", *["chosen"] * 6, *["edits"] * 2]
    # Gains of 0 are an ablation by mean.
    assert rows["edit: layer 3, head 0"] == rows["layer 3, head 0"]
    assert rows["edit: layer 3, head 0 (2)"] == rows["layer 3, head 0"]
    alone = ablate.AblateConfig(neurons_kept.url, "microworld:shape", edit=(str(file),))
    assert alone.study == ("edits",)
    file.write_bytes(write_edit(replace(gone, weights="another")))
    with pytest.raises(EditError, match="is of weights another, and the store at"):
        ablate.check(alone)
    spans = {"study": ("textspan",), "pool": "microworld", "layers": "last:1"}
    found = run(**spans, texts_per_head=(2, 3), baselines=("random",))
    assert found["at"].tolist() == ["", "2", "3", "2", "3"]
    assert set(found["series"][1:]) == {"TextSpan, microworld", "random directions"}
    more = run(**spans | {"layers": "last:2"}, texts_per_head=(2,), baselines=("common-words",))
    assert set(more["series"][1:]) == {"TextSpan, microworld", "common words"}
    kept = ablate.main(replace(plain, **spans, texts_per_head=(2,), baselines=())).result.config[
        "layers"
    ]
    assert kept == "last:1"
    neurons = run(study=("neurons",), mlp_layers=str(KEPT))
    assert set(neurons["at"][1:]) == {str(KEPT)}


def test_settings_of_codes(neurons_kept):
    plain = omp.OmpConfig(neurons_kept.url, str(KEPT), "microworld", terms=8, workers="here")
    found = omp.main(plain)
    assert found.codes.groupby("neuron").size().max() == 8
    assert found.fits["terms"].max() == 8
    fewer = omp.main(replace(plain, terms=4))
    assert fewer.codes.groupby("neuron").size().max() == 4
    positive = omp.main(replace(plain, method="nonneg-omp"))
    assert (positive.codes["coefficient"] > 0).all() != (found.codes["coefficient"] > 0).all()
    labelled = omp.main(
        replace(plain, terms=4, classes="microworld:background", label_column="background")
    )
    accuracy = labelled.accuracy
    shown = set(accuracy["name"][accuracy["scope"] == "class"])
    assert shown <= set(neurons_kept.images()["background"].to_pylist())


def test_settings_of_plans():
    from jobs.plan import PlanConfig, check
    from jobs.recipes.plan import assumptions, rows

    plain = PlanConfig(images=10_000, model=("microworld",))

    def said(**changes):
        config = replace(plain, **changes)
        check(config)
        return rows(config), assumptions(config)

    first = said()
    for changes in (
        {"model": ("ViT-B-32",)}, {"components": ("heads",)}, {"precision": "fp32"},
        {"store_dtype": "float32"}, {"shard_size": 512}, {"batch_size": 64}, {"gpu": "H100"},
        {"utilisation": 0.1}, {"decode": "fast"}, {"decodes_per_second": 10.0},
        {"dollars_gb_month": 1.0},
        {"dollars_thousand_puts": 1.0}, {"dollars_thousand_gets": 1.0},
    ):  # fmt: skip
        assert said(**changes)[0] != first[0], changes
