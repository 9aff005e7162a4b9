"""Whether a change moved a number: the demo of a commit beside that of the working tree.

Both run ``jobs/demo.py``, each on its own code and a Ray of its own, in this environment. Then
every array, table and JSON result of one is held against that of the other, to the last bit. What
must differ from run to run (`IGNORED`) is left out; what stands in another place since
(`MOVED`) is looked up where it is now. Ends with status 1 where anything else differs:

    python -m benchmarks.compare_demo a08742e
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import tyro
import zarr

ROOT = Path(__file__).resolve().parents[1]
# Names of columns and fields that say when, where and by which code; never what came out. `store`
# is a place, or a digest of all that tells stores apart, the schema's version among it.
IGNORED = frozenset(
    {
        "asked", "finished", "time", "seconds", "host", "revision", "versions", "schema_version",
        "store",
    }
)  # fmt: skip
# Patterns of names that a commit since gave to arrays, columns and fields, and what they became.
MOVED = {
    "^store/ledger/neurons/": "store/neurons/",  # schema 2
}


@dataclass(frozen=True)
class CompareConfig:
    """The demo of a commit beside that of the working tree."""

    commit: tyro.conf.Positional[str]
    """The commit that is right."""
    keep: Path = Path("/tmp/facet-compare")
    """Where the commit's demo is kept, and taken from where it is there already."""
    images: str = "microworld:n=2000,seed=7,split=test"
    """The demo's pictures."""


def run_demo(code: Path, out: Path, images: str) -> None:
    """Run the demo of one checkout to its end."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray:  # sockets: a short path
        environment = {**os.environ, "PYTHONPATH": str(code), "RAY_TMPDIR": ray}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "jobs/demo.py", "--out", str(out), "--images", images]
        subprocess.run(command, cwd=code, env=environment, check=True)


def demo_of_commit(commit: str, keep: Path, images: str) -> Path:
    """The folder of a commit's demo, which is run unless it is kept."""
    git = ["git", "-C", str(ROOT)]
    revision = subprocess.check_output([*git, "rev-parse", "--short", f"{commit}^{{commit}}"])
    out = keep / revision.decode().strip()
    if not (out / "index.html").exists():  # written last
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / "facet"
            subprocess.run([*git, "worktree", "add", "--detach", str(code), commit], check=True)
            try:
                run_demo(code, out, images)
            finally:
                subprocess.run([*git, "worktree", "remove", "--force", str(code)], check=True)
    return out


def things(out: Path) -> dict[str, Callable[[], Any]]:
    """How to read every array, column and JSON value of a demo, by names without digests."""
    found: dict[str, Callable[[], Any]] = {}
    results: dict[Path, str] = {}
    for job in sorted(out.glob("**/results/*")):
        runs = sorted(job.iterdir(), key=lambda run: (run / "config.json").read_bytes())
        results |= {run: job.name + (f"#{i}" if i else "") for i, run in enumerate(runs)}

    def name_of(path: Path) -> str:
        for run, name in results.items():
            if path.is_relative_to(run):
                above = run.parents[1].relative_to(out)
                return (above / name / path.relative_to(run)).as_posix()
        return path.relative_to(out).as_posix()

    for path in sorted(p for p in out.rglob("*") if p.name == "zarr.json"):
        facts = json.loads(path.read_text())
        if facts["node_type"] == "array":
            found[name_of(path.parent)] = lambda p=path.parent: zarr.open_array(p, mode="r")[...]
        for field, value in leaves(facts.get("attributes", {})):
            found[f"{name_of(path.parent)}@{field}"] = lambda v=value: v
    for path in sorted(out.rglob("*.parquet")):
        for column in pq.read_schema(path).names:
            found[f"{name_of(path)}:{column}"] = lambda p=path, c=column: (
                pq.read_table(p, columns=[c]).column(c).to_pandas().to_numpy()
            )
    for path in sorted(p for p in out.rglob("*.json") if p.name != "zarr.json"):
        for field, value in leaves(json.loads(path.read_text())):
            found[f"{name_of(path)}@{field}"] = lambda v=value: placeless(v, out)
    return {moved(n): read for n, read in found.items() if not ignored(n)}


def placeless(value: Any, out: Path) -> Any:
    """A JSON value as it would be wherever the demo is kept; results without their digests."""
    text = json.dumps(value).replace(json.dumps(str(out))[1:-1], "…")
    return json.loads(re.sub(r'(?<=["/])[0-9a-f]{16}(?=["/])', "…", text))


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON value holds that is no object, by dotted names."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{name}.{key}" if name else key)


def ignored(name: str) -> bool:
    _, _, field = name.replace("@", ":").partition(":")
    return not IGNORED.isdisjoint(field.split("."))


def moved(name: str) -> str:
    for pattern, new in MOVED.items():
        name = re.sub(pattern, new, name)
    return name


def difference(old: Any, new: Any) -> str | None:
    """How two values differ; None where they are the same to the last bit."""
    a, b = np.asarray(old), np.asarray(new)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {a.shape} was, {b.dtype} {b.shape} is"
    if a.dtype.kind in "fciub":
        if a.tobytes() == b.tobytes():
            return None
        if a.dtype.kind == "b":
            return f"{(a != b).sum()} of {a.size} differ"
        x, y = a.astype(np.complex128), b.astype(np.complex128)
        apart = ~((x == y) | (np.isnan(x) & np.isnan(y)))
        if not apart.any():
            return "equal but for signs of zeros or bits of NaNs"
        both = apart & ~np.isnan(x) & ~np.isnan(y)
        most = np.abs(x - y)[both].max(initial=0.0)
        size = np.abs(x[~np.isnan(x)]).max(initial=0.0)
        return (
            f"{apart.sum()} of {a.size} differ, by at most {most:.3g}, the largest is {size:.3g}; "
            f"{apart.sum() - both.sum()} are NaN on one side"
        )
    if pd.Series(a.ravel()).equals(pd.Series(b.ravel())):
        return None
    return f"{old!r} was, {new!r} is" if a.ndim == 0 else f"texts or lists of {a.shape} differ"


def main(config: CompareConfig) -> int:
    """Run what is not kept, compare, print; 1 where anything differs."""
    old = demo_of_commit(config.commit, config.keep, config.images)
    with tempfile.TemporaryDirectory() as folder:
        run_demo(ROOT, Path(folder) / "demo", config.images)
        was, is_ = things(old), things(Path(folder) / "demo")
        said = [f"gone: {n}" for n in sorted(was.keys() - is_.keys())]
        said += [f"new: {n}" for n in sorted(is_.keys() - was.keys())]
        both = sorted(was.keys() & is_.keys())
        apart = {n: d for n in both if (d := difference(was[n](), is_[n]())) is not None}
    print("\n".join([*said, *(f"differs: {n}: {d}" for n, d in apart.items())]))
    print(f"{len(both) - len(apart)} of {len(both)} arrays, columns and fields are equal")
    return int(bool(said or apart))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(CompareConfig, description=__doc__)))
