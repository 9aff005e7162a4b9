"""Run files: what is read, refused, and how a stage is known again."""

import pytest

from jobs.cli import stages
from jobs.settings import arguments
from pipeline.run_file import RunFileError, read_run

SETTINGS = {
    "extract": {"images", "model", "pretrained", "store", "components"},
    "reduce": {"store", "where"},
    "textspan": {"store", "pool", "pretrained"},
    "second-order": {"store", "mlp_layers", "images", "model", "pretrained"},
    "omp": {"store", "mlp_layers", "pool"},
    "rosetta": {"images", "models", "out"},
}
FULL = """
store: s
images: pictures
model: tiny
pretrained: none
stages:
  omp: {mlp-layers: 1, pool: p}
  again: {job: textspan, pool: q, after: omp}
  textspan: {pool: p}
  second-order: {mlp_layers: 1}
  reduce:
  extract: {components: [heads, mlps]}
"""


def read(tmp_path, text):
    path = tmp_path / "nightly.yaml"
    path.write_text(text)
    return read_run(str(path), stages(), lambda job: SETTINGS[job])


def test_stages_come_in_order_with_the_common_settings(tmp_path):
    run = read(tmp_path, FULL)
    stages = {s.name: s for s in run.stages}
    assert (run.name, run.store) == ("nightly", "s")
    order = [s.name for s in run.stages]
    for stage in run.stages:
        assert all(order.index(name) < order.index(stage.name) for name in stage.after)
    assert set(stages["textspan"].after) == {"extract", "reduce"}
    assert set(stages["again"].after) == {"extract", "reduce", "omp"}
    assert set(stages["omp"].after) == {"extract", "second-order"}
    assert stages["extract"].settings == {
        "images": "pictures", "model": "tiny", "pretrained": "none", "store": "s",
        "components": ["heads", "mlps"],
    }  # fmt: skip
    assert stages["second-order"].settings == {"store": "s", "mlp_layers": 1}
    assert arguments(stages["omp"].settings) == ["--store", "s", "--mlp-layers", "1", "--pool", "p"]
    assert arguments(stages["extract"].settings)[-3:] == ["--components", "heads", "mlps"]


def test_every_job_over_a_store_waits_for_its_images(tmp_path):
    run = read(tmp_path, "store: s\nstages: {omp: {pool: p}, extract: }")
    assert [s.name for s in run.stages] == ["extract", "omp"]
    assert [j for j, reads in stages().items() if "extract" not in reads] == ["extract", "rosetta"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("store: [", "is no YAML"),
        ("stages: {extract: }", "`store:` must say where"),
        ("store: s", "under `stages:`, one entry a job"),
        ("store: s\nimage: x\nstages: {reduce: }", "no setting 'image'. Did you mean 'images'"),
        ("store: s\nstages: {redcue: }", "no job 'redcue'. Did you mean 'reduce'"),
        ("store: s\nstages: {a: {job: omp, pol: x}}", "stage a: there is no setting 'pol'"),
        ("store: s\nstages: {reduce: all}", "write its settings as"),
        ("store: s\nstages: {reduce: {after: extrat}, extract: }", "Did you mean 'extract'"),
        ("store: s\nstages: {reduce: {where: {a: 1}}}", "where has no value"),
        (
            "store: s\nstages: {reduce: {after: b}, b: {job: reduce, after: reduce}}",
            "wait for each other",
        ),
        ("store: s\nstages: {reduce: {where: !!python/name:os.system }}", "is no YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(RunFileError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_whatever_the_encoding(tmp_path, encoding):
    file = tmp_path / "r.yaml"
    file.write_bytes("store: ä\r\nstages: {reduce: }\r\n".encode(encoding))
    assert read_run(str(file), stages(), lambda job: SETTINGS[job]).store == "ä"
    file.write_bytes("store: ä\nstages: {reduce: }".encode("latin-1"))
    with pytest.raises(RunFileError, match="is no YAML"):
        read_run(str(file), stages(), lambda job: SETTINGS[job])


def test_a_missing_file_is_named():
    with pytest.raises(RunFileError, match=r"nowhere\.yaml cannot be read"):
        read_run("nowhere.yaml", stages(), lambda job: SETTINGS[job])


def test_weights_in_a_file_reach_every_stage(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    run = read(tmp_path, FULL.replace("pretrained: none", f"pretrained: {weights}"))
    settings = {s.name: s.settings.get("pretrained") for s in run.stages}
    assert settings["textspan"] == settings["second-order"] == str(weights)
    assert settings["reduce"] is None
