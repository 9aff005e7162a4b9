"""A run file on a real Ray, as cron would run it; the manifest for Kubernetes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from pipeline.models import microworld
from storage import open_store
from tests.processes import wait_for

ROOT = Path(__file__).resolve().parents[2]
RUN = """
store: {store}
images: microworld:n={n},seed=3,split=test
model: microworld
pretrained: microworld
stages:
  extract: {{shard_size: 16}}
  reduce: {{components: [heads]}}
  words: {{job: encode-texts, pool: {pool}}}
  broken: {{job: encode-texts, pool: {other}, pretrained: {weights}, after: reduce}}
  after: {{job: reduce, where: "count == 1", after: broken}}
"""


def facet_run(path, **changes) -> subprocess.CompletedProcess:
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address} | changes
    command = [sys.executable, "-m", "jobs.run", str(path)]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def results(folder) -> dict[str, str]:
    summary = json.loads((folder / "s" / "results" / "run" / "nightly.json").read_text())
    return {stage["stage"]: stage["result"] for stage in summary["stages"]}


def statuses(folder) -> dict[str, str]:
    summary = json.loads((folder / "s" / "results" / "run" / "nightly.json").read_text())
    assert summary["ok"] == all(s["status"] in ("done", "skipped") for s in summary["stages"])
    return {stage["stage"]: stage["status"] for stage in summary["stages"]}


def write_run(folder, n) -> Path:
    (folder / "pool.txt").write_text("a red star\na blue moon\n")
    (folder / "other.txt").write_text("a green ring\na heart\n")
    path = folder / "nightly.yaml"
    path.write_text(
        RUN.format(
            store=folder / "s",
            n=n,
            pool=folder / "pool.txt",
            other=folder / "other.txt",
            weights=folder / "w.safetensors",
        )
    )
    return path


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_fails_goes_on_and_picks_up_new_images(tmp_path):
    run = write_run(tmp_path, 24)
    first = facet_run(run)
    assert first.returncode == 1, first.stdout + first.stderr
    done = {"extract": "done", "reduce": "done", "words": "done"}
    assert statuses(tmp_path) == {**done, "broken": "failed", "after": "not run"}
    assert "error: broken: exit status 2" in first.stderr
    assert "w.safetensors" in first.stderr
    words = results(tmp_path)["words"]
    assert (Path(words) / "texts.parquet").is_file()
    shutil.copy(microworld.weights("clip"), tmp_path / "w.safetensors")
    second = facet_run(run)
    assert second.returncode == 0, second.stdout + second.stderr
    assert results(tmp_path)["words"] == words
    assert results(tmp_path)["broken"] not in ("", words)
    skipped = {"extract": "skipped", "reduce": "skipped", "words": "skipped"}
    assert statuses(tmp_path) == {**skipped, "broken": "done", "after": "done"}
    third = facet_run(write_run(tmp_path, 40))
    assert third.returncode == 0, third.stdout + third.stderr
    texts = {"words": "skipped", "broken": "skipped"}  # they do not depend on images
    assert statuses(tmp_path) == {"extract": "done", "reduce": "done", "after": "done", **texts}
    store = open_store(str(tmp_path / "s"))
    assert store.validate() == []
    assert store.reductions().count() == 40


@pytest.mark.usefixtures("ray_cluster")
def test_mistakes_end_it_before_anything_runs(tmp_path):
    run = write_run(tmp_path, 24)
    run.write_text(run.read_text().replace("shard_size: 16", "shard_size: many"))
    found = facet_run(run)
    assert found.returncode == 2
    assert "shard-size" in found.stdout + found.stderr
    assert not (tmp_path / "s").exists()


def ours(folder) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_being_told_to_stop_stops_the_stages_too(tmp_path):
    run = write_run(tmp_path, 5000)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "jobs.run", str(run)]
    with subprocess.Popen(
        command, env={**os.environ, "RAY_ADDRESS": address}, cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        wait_for(lambda: len(ours(tmp_path)) >= 2)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 143
    assert ours(tmp_path) == []


def test_the_cron_line_works_in_crons_bare_environment(tmp_path):
    text = (ROOT / "docs" / "scheduling.md").read_text()
    (line,) = re.search(r"```cron\n(.*?)```", text, re.DOTALL)[1].strip().splitlines()
    fields, command = line.split(None, 5)[:5], line.split(None, 5)[5]
    ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    for value, (low, high) in zip(fields, ranges, strict=True):
        assert value == "*" or low <= int(value) <= high
    assert "%" not in command  # cron takes it for a line's end
    (tmp_path / "runs").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "facet").symlink_to(Path(sys.executable).parent / "facet")
    (tmp_path / "runs" / "nightly.yaml").write_text("store: s\nstages: {extrct: }\n")
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    shell = ["/bin/sh", "-c", command.replace("/srv/facet", str(tmp_path))]
    result = subprocess.run(shell, env=bare, check=False, timeout=120)
    log = (tmp_path / "runs" / "nightly.log").read_text()
    assert result.returncode == 2
    assert "there is no job 'extrct'. Did you mean 'extract'?" in log


def test_the_manifest_is_what_kubernetes_and_kuberay_take():
    documents = yaml.safe_load_all((ROOT / "docs" / "rayjob.yaml").read_text())
    config_map, job = documents
    kubernetes_validate.validate(config_map, "1.31", strict=True)
    schema = json.loads((ROOT / "tests" / "jobs" / "rayjob_schema.json").read_text())
    jsonschema.validate(job, schema)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = {"metadata": {"name": "pod"}, "template": group["template"]}
        pod = {"apiVersion": "v1", "kind": "PodTemplate", **template}
        kubernetes_validate.validate(pod, "1.31", strict=True)
    mount = cluster["headGroupSpec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
    assert mount == config_map["metadata"]["name"]


@pytest.mark.parametrize("page", ["scheduling.md", "rayjob.yaml"])
def test_run_files_in_the_docs_are_understood(page, tmp_path):
    from jobs.cli import stages
    from jobs.run import settings_of
    from pipeline.run_file import read_run

    text = (ROOT / "docs" / page).read_text()
    if page.endswith(".md"):
        text = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    else:
        text = next(yaml.safe_load_all(text))["data"]["nightly.yaml"]
    (tmp_path / "nightly.yaml").write_text(text)
    assert (
        read_run(str(tmp_path / "nightly.yaml"), stages(), settings_of).stages[0].job == "extract"
    )
