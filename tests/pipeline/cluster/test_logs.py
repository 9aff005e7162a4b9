"""Structured logs, of processes that really write them."""

import json
import platform
import pty
import subprocess
import sys
from pathlib import Path

SAYS = """
from pipeline.cluster import logs
logs.start("extract", worker={worker})
logs.event("shard finished", shard=3, bad={{"empty": 1}})
"""


def run(worker: bool, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", SAYS.format(worker=worker)]
    return subprocess.Popen(command, text=True, cwd=Path(__file__).parents[3], **options)


def test_every_line_is_an_object_with_job_shard_and_node():
    _, said = run(worker=False, stderr=subprocess.PIPE).communicate(timeout=120)
    (line,) = said.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["job"], entry["level"]) == ("shard finished", "extract", "info")
    assert (entry["shard"], entry["bad"]) == (3, {"empty": 1})
    assert entry["node"] == platform.node()
    assert entry["time"].endswith("+00:00")


def test_a_terminal_is_left_to_people():
    ours, theirs = pty.openpty()
    assert run(worker=False, stderr=theirs).wait(timeout=120) == 0
    subprocess.run(["sh", "-c", "echo end >&2"], stderr=theirs, check=True)
    with open(ours, errors="replace") as terminal:
        assert terminal.readline().strip() == "end"


def test_a_failed_job_logs_why(tmp_path):
    command = [sys.executable, "-m", "jobs.status", "--store", str(tmp_path / "nowhere")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 2
    lines = [json.loads(x) for x in done.stderr.splitlines() if x.startswith("{")]
    assert [(x["event"], x["job"]) for x in lines] == [("started", "status"), ("failed", "status")]
    assert "no store at" in lines[1]["error"]
