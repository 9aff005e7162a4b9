"""`ray up`, `ray submit`, `ray job submit`, `ray down` for real, from a laptop to two machines."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

from storage import open_store
from tests.cluster.hosts import USER, Host, hosts, missing
from tests.processes import wait_for

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.prefix) / "bin"
ADDRESSES = ("10.77.0.1", "10.77.0.2")
# What says where the machines are; all else of the two files must be the same.
WHERE = {
    "cluster_name",
    "provider",
    "auth",
    "available_node_types",
    "head_node_type",
    "max_workers",
}
WHERE |= {"min_workers", "idle_timeout_minutes"}


def cluster_yaml() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def on_premise() -> dict:
    return yaml.safe_load((ROOT / "docs" / "cluster-on-premise.yaml").read_text())


def test_the_on_premise_cluster_differs_only_in_where_it_is():
    cloud, premise = cluster_yaml(), on_premise()
    # boto3 starts AWS's machines; Ray's second autoscaler starts none of a list.
    cloud["head_setup_commands"] = [c for c in cloud["head_setup_commands"] if "boto3" not in c]
    premise["head_start_ray_commands"] = [
        c.replace("RAY_enable_autoscaler_v2=0 ", "") for c in premise["head_start_ray_commands"]
    ]
    assert {k: v for k, v in cloud.items() if k not in WHERE} == {
        k: v for k, v in premise.items() if k not in WHERE
    }


def test_everything_that_the_installation_needs_is_sent(tmp_path):
    for there, here in cluster_yaml()["file_mounts"].items():
        assert Path(there).relative_to("~/facet") == Path(here)
        subprocess.run(["cp", "-r", ROOT / here, tmp_path / here], check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= set(os.listdir(tmp_path))
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(
        os.listdir(tmp_path)
    )


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_aws_takes_the_cluster(monkeypatch, tmp_path):
    """Ray's own AWS provider against a simulated account: network, keys, roles, machines."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    monkeypatch.chdir(ROOT)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "simulated")
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        session = boto3.Session(region_name="us-west-2")
        session.client("iam").create_instance_profile(InstanceProfileName="facet-worker")
        config = _bootstrap_config(cluster_yaml(), no_config_cache=True)
        provider = _get_node_provider(config["provider"], config["cluster_name"])
        for name, kind in config["available_node_types"].items():
            tags = {TAG_RAY_USER_NODE_TYPE: name, TAG_RAY_NODE_NAME: name}
            provider.create_node(kind["node_config"], tags, 1)
        machines = [
            machine
            for group in session.client("ec2").describe_instances()["Reservations"]
            for machine in group["Instances"]
        ]
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] == 1
    assert {m["InstanceType"] for m in machines} == {"m6i.2xlarge", "g5.2xlarge"}
    spot = {m["InstanceType"]: m.get("InstanceLifecycle") == "spot" for m in machines}
    assert spot == {"m6i.2xlarge": False, "g5.2xlarge": True}


class Laptop:
    """Where the user sits: the checkout's files, a key, a network cable to the head."""

    def __init__(self, folder: Path, head: Host, key: Path) -> None:
        self.folder, self.head = folder, head
        for name in on_premise()["file_mounts"].values():
            subprocess.run(["cp", "-r", ROOT / name, folder / name], check=True)
        config = on_premise()
        config["provider"] |= {"head_ip": ADDRESSES[0], "worker_ips": [ADDRESSES[1]]}
        config["auth"] = {"ssh_user": USER, "ssh_private_key": str(key)}
        (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
        (folder / "tmp").mkdir()
        self.ssh = ["ssh", "-i", key, "-o", "StrictHostKeyChecking=no"]
        self.ssh += ["-o", f"UserKnownHostsFile={os.devnull}"]

    def run(self, *command: object, check: bool = True, seconds: int = 240) -> str:
        network = ["nsenter", "--target", str(self.head.pid), "--net", "--"]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTEST_"))}
        env |= {
            "HOME": str(self.folder), "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_TMPDIR": str(self.folder / "tmp"), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        done = subprocess.run(
            [*network, *map(str, command)], cwd=self.folder, env=env, timeout=seconds,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        print("$", *command, "\n", done.stdout)
        assert not check or done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """The laptop of a cluster that is up, and its two machines."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    key, cache = folder / "key", folder / "cache"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    # The machines have no way out: what building the package needs is fetched here.
    build = [BIN / "uv", "build", "--quiet", "--wheel", "--out-dir", folder / "wheel"]
    (folder / "laptop").mkdir()
    with hosts(folder, key, cache, ADDRESSES) as machines:
        laptop = Laptop(folder / "laptop", machines[0], key)
        environment = {**os.environ, "UV_CACHE_DIR": str(cache)}
        subprocess.run([*build, laptop.folder], env=environment, check=True)
        laptop.run("ray", "up", "--yes", "cluster.yaml")
        status = ("ray", "exec", "cluster.yaml", "ray status")
        wait_for(lambda: "2 local.cluster.node" in laptop.run(*status), 240, pause=5)
        yield laptop, machines


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_jobs_run_on_a_cluster_and_it_ends_without_a_trace(laptop, tmp_path):
    laptop, (head, worker) = laptop
    store, said = tmp_path / "store", []
    jobs = {
        "extract.py": "--images microworld:n=150,seed=1,split=test --model microworld "
        "--pretrained microworld --shard-size 25 --num-actors 4",
        "second_order.py": "--mlp-layers 2 --top-k 20",
    }
    for script, options in jobs.items():
        arguments = ["--store", store, *options.split()]
        said.append(
            laptop.run("ray", "submit", "cluster.yaml", ROOT / "jobs" / script, "--", *arguments)
        )
    assert "4 × cpu" in said[0], "both machines' CPUs are the cluster's"
    assert open_store(str(store)).validate() == []
    assert open_store(str(store)).done_shards() == set(range(6))

    submit = ["ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--"]
    submit += ["facet", "reduce", "--store", store]
    refused = laptop.run("env", "RAY_AUTH_MODE=disabled", *submit, check=False)
    assert "Unauthorized" in refused
    laptop.run("ray", "rsync-down", "cluster.yaml", "~/.ray/auth_token", "token")
    token = f"RAY_AUTH_TOKEN_PATH={laptop.folder / 'token'}"
    assert "succeeded" in laptop.run("env", "RAY_AUTH_MODE=token", token, *submit)
    assert (worker.folder / "home" / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600

    laptop.run("ray", "down", "--yes", "cluster.yaml")
    laptop.run(*laptop.ssh, f"{USER}@{ADDRESSES[1]}", "facet/.venv/bin/ray", "stop")
    wait_for(lambda: not head.processes() + worker.processes(), 240, pause=1)
