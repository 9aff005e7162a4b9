"""The whole pipeline on a server that speaks S3: jobs as a user starts them, on a Ray of their own.

Only the environment tells Facet where the server is and what the keys are.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import boto3
import numpy as np
import pytest
import xarray as xr

from jobs import reduce
from jobs.console import run_job
from pipeline.microworld.world import SHAPES
from storage import open_store
from tests import s3_kit
from tests.pipeline.images.kit import png
from tests.s3_kit import Fault
from tests.tiny import tiny

ROOT = Path(__file__).resolve().parents[2]
TINY = tiny({"width": 32, "layers": 4}, {"width": 32})
# Names inside a tar are data; none of these may become a path.
HOSTILE = ["../../../escaped", "/tmp/facet-escaped", "nul\0byte", "long" * 1000, "s3://else/where"]
IMAGES = 24
CLUSTER = """
import os, ray, sys
from pipeline.cluster import machines
machines.connect(lambda words: print(words, file=sys.stderr))  # of a slow start
mode = os.environ.get("RAY_AUTH_MODE", "disabled")  # Ray asks for a token where there is one
print(ray.get_runtime_context().gcs_address, mode, flush=True)
sys.stdin.read()
"""
JOBS = """
import sys
from jobs import ablate, encode_texts, extract, reduce, show, textspan
from jobs.console import run_job
store = "s3://bucket/one"
images = extract.ExtractConfig(
    "s3://bucket/tars/*.tar", "s3://bucket/tiny.json", store, "none",
    shard_size=8, batch_size=8, num_actors=1,
)
try:
    run_job(extract.main, images)
except SystemExit as end:
    print("ended with", end.code, flush=True)
run_job(extract.main, images)
run_job(reduce.main, reduce.ReduceConfig(store))
run_job(encode_texts.main, encode_texts.EncodeTextsConfig(store, "microworld"))
run_job(textspan.main, textspan.TextSpanConfig(store, "microworld", texts_per_head=3))
run_job(ablate.main, ablate.AblateConfig(store, "microworld:shape", study=("mlps",)))
for what in ("textspan", "ablate"):
    run_job(show.main, show.ShowConfig(what, store))
"""
ATTEMPTS = 2

pytestmark = pytest.mark.ray


def labelled_tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(IMAGES):
            stem = HOSTILE[i] if i < len(HOSTILE) else f"{i:03d}"
            for suffix, content in (("png", png(i)), ("cls", SHAPES[i % 8].encode())):
                member = tarfile.TarInfo(f"{stem}.{suffix}")
                member.size = len(content)
                member.pax_headers = {"path": member.name}
                tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture(scope="module")
def s3():
    with (
        s3_kit.serve() as upstream,
        s3_kit.proxy(upstream) as proxy,
        s3_kit.used(proxy.endpoint),
    ):
        client = boto3.client("s3")
        client.put_object(Bucket=s3_kit.BUCKET, Key="tars/00.tar", Body=labelled_tar())
        client.put_object(Bucket=s3_kit.BUCKET, Key="tiny.json", Body=json.dumps(TINY).encode())
        yield proxy


@pytest.fixture(scope="module")
def cluster(s3):
    """How to join a Ray whose node has the environment, and the folder of its logs."""
    folder = tempfile.mkdtemp(prefix="fs3-", dir="/tmp")  # Ray's sockets need a short path
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], env={**os.environ, **settings(), "RAY_TMPDIR": folder},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    said = process.stdout.readline().split()
    assert said, "Ray did not start"
    yield dict(zip(("RAY_ADDRESS", "RAY_AUTH_MODE"), said, strict=True)), Path(folder)
    process.communicate(timeout=280)
    shutil.rmtree(folder, ignore_errors=True)


def settings() -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return {"AWS_MAX_ATTEMPTS": str(ATTEMPTS), **quiet}


def start(cluster, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, text=True,
        env={**os.environ, **settings(), **cluster[0]},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def objects(prefix: str = "") -> dict[str, bytes]:
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3_kit.BUCKET, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {k: client.get_object(Bucket=s3_kit.BUCKET, Key=k)["Body"].read() for k in keys}


@pytest.fixture(scope="module")
def said(s3, cluster) -> str:
    """What all jobs printed, the first of which could not put one ledger part."""
    s3.faults = [Fault("PUT", 500, times=ATTEMPTS, part="/ledger/part-00000001")]
    jobs = start(cluster, "-c", JOBS)
    printed = jobs.communicate()[0]
    assert jobs.returncode == 0, printed
    return printed


def test_a_failing_object_store_ends_the_job_clearly_and_it_goes_on(s3, said):
    before, after = said.split("ended with 2")
    assert "Traceback" not in before
    (error,) = [line for line in before.splitlines() if line.startswith("error: ")]
    assert "s3://bucket/one/ledger/part-00000001.parquet cannot be written" in error
    assert "InternalError" in error
    assert "run the same command again" in error
    assert "24 ok, 0 bad" in after
    puts = [t for t in s3.targets if t.startswith("PUT") and "/one/ledger/part-" in t]
    assert sum("part-00000000" in t for t in puts) == 1, "a finished shard was done again"


def test_the_whole_pipeline(s3, said):
    assert "TextSpan, the first 5 texts" in said
    assert "Zero-shot accuracy" in said
    store = open_store("s3://bucket/one")
    assert store.validate() == []
    assert store.meta.images == IMAGES
    data = xr.open_zarr(
        "s3://bucket/one/contributions.zarr", storage_options={"endpoint_url": s3.endpoint}
    )
    np.testing.assert_array_equal(data["heads"].values, store.contributions()["heads"].values)


def test_names_inside_a_tar_never_become_paths(said):
    keys = open_store("s3://bucket/one").contributions()["key"].values.tolist()
    assert keys[: len(HOSTILE)] == [f"00/{name}" for name in HOSTILE]
    assert {k.split("/")[0] for k in objects()} <= {"tars", "tiny.json", "one", "two"}
    assert {k.split("/")[1] for k in objects("one/")} == {
        "contributions.zarr", "model.zarr", "images", "ledger", "reductions.zarr", "results",
    }  # fmt: skip
    assert not Path("/tmp/facet-escaped.png").exists()
    assert not any(ROOT.glob("s3:*"))


def test_two_drivers_at_once_end_like_one(cluster, said):
    drivers = [
        start(
            cluster, "-m", "jobs.extract", "--store", "s3://bucket/two",
            "--images", "s3://bucket/tars/*.tar", "--model", "s3://bucket/tiny.json",
            "--pretrained", "none", "--shard-size", "8", "--batch-size", "8", "--num-actors", "1",
        )
        for _ in range(2)
    ]  # fmt: skip
    printed = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], printed
    store = open_store("s3://bucket/two")
    assert store.validate() == []
    xr.testing.assert_identical(
        store.contributions().load(), open_store("s3://bucket/one").contributions().load()
    )


def test_no_key_is_printed_or_kept(cluster, said, capfd):
    with pytest.raises(SystemExit):
        run_job(reduce.main, reduce.ReduceConfig(f"s3://{s3_kit.KEY_ID}:{s3_kit.SECRET}@bucket/a"))
    refused = "".join(capfd.readouterr())
    assert "credentials in it is refused" in refused
    logs = {str(p): p.read_bytes() for p in cluster[1].rglob("*") if p.is_file()}
    assert logs, "Ray kept no logs"
    for secret in (s3_kit.SECRET, s3_kit.KEY_ID):
        assert secret not in said + refused
        kept = {**objects(), **logs}
        assert not [name for name, data in kept.items() if secret.encode() in data]
