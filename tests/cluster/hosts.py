"""Machines made of Linux namespaces: each with its own processes, network, files and SSH server.

What a cluster does to a machine stays in it, `ray stop` included, and dies with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

# Root by another name, with another home, the same on every machine as Ray wants it.
USER, HOME = "facet", "/mnt"
TOOLS = {
    "ssh": "openssh-client",
    "rsync": "rsync",
    "ip": "iproute2",
    "/usr/sbin/sshd": "openssh-server",
}

SPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")

# Run as the first process of a new machine. The environment is the checkout's, seen through an
# overlay: as good as a machine's own, and nothing is copied or changed. A script of an
# environment names its interpreter, so these are written anew.
BOOT = """
set -eu
mkdir -p /tmp/ray
mkdir -p home/facet/.venv home/.ssh ray upper work
mount --bind home $HOME_OF_NODE
mount --bind ray /tmp/ray
mount -t tmpfs tmpfs /run
mkdir /run/sshd
there=$HOME_OF_NODE/facet/.venv
mount -t overlay overlay -o lowerdir=$VENV,upperdir=upper,workdir=work $there
grep -Il "^#!$VENV/bin/" $there/bin/* | xargs sed -i "1s|^#!$VENV/bin/|#!$there/bin/|"
cp key.pub $HOME_OF_NODE/.ssh/authorized_keys
chmod 700 $HOME_OF_NODE/.ssh
touch $HOME_OF_NODE/.bashrc
sed "1i $NODE_USER:x:0:0::$HOME_OF_NODE:/bin/bash" /etc/passwd > passwd
mount --bind passwd /etc/passwd
ip link set lo up
until ip link show facet0 > /dev/null 2>&1; do sleep 0.1; done
ip address add $ADDRESS/24 dev facet0
ip link set facet0 up
ip route add default dev facet0
ssh-keygen -q -t ed25519 -N '' -f host_key
exec /usr/sbin/sshd -D -e -f /dev/null -h "$PWD/host_key" -p 22 \\
    -o PermitRootLogin=prohibit-password -o StrictModes=no -o UsePAM=no -o PrintMotd=no \\
    -o "SetEnv=UV_OFFLINE=1 UV_CACHE_DIR=$UV_CACHE_DIR"
"""


@dataclass(frozen=True)
class Host:
    """One machine: its address, its folder as seen from outside, its first process."""

    address: str
    folder: Path
    pid: int

    def processes(self) -> list[str]:
        """Command lines of what runs in it, the SSH server and its sessions left out."""
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                same = os.readlink(f"/proc/{process.pid}/ns/pid") == namespace
            except OSError:
                continue
            line = " ".join(process.info["cmdline"] or [])
            if same and line and "sshd" not in line:
                found.append(line)
        return found


def missing() -> str | None:
    """Why machines cannot be made here; installs what Debian's packages can add."""
    if os.geteuid() != 0:
        return "needs root: it makes machines of namespaces and starts SSH servers in them"
    wanted = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if wanted and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": 300}
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], env=env, check=False, **quiet)
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
        subprocess.run(install, env=env, check=False, **quiet)
    still = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if still:
        return f"needs {', '.join(still)}, which could not be installed"
    trial = (
        "mkdir -p /tmp/ray && mount -t tmpfs tmpfs /run && ip link add fa type veth peer name fb"
    )
    spaces = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", trial],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"cannot make namespaces here: {spaces.stderr}" if spaces.returncode else None


@contextmanager
def hosts(folder: Path, key: Path, cache: Path, addresses: tuple[str, str]) -> Iterator[list[Host]]:
    """Two machines with a wire between them; gone, with all that runs in them, at the end."""
    made: list[Host] = []
    boots = []
    try:
        for address in addresses:
            root = folder / address
            root.mkdir()
            shutil.copy(key.with_suffix(".pub"), root / "key.pub")
            boots.append(_boot(root, address, cache))
            made.append(Host(address, root, _first_process(boots[-1])))
        wire = ["ip", "link", "add", "facet0", "netns", str(made[0].pid), "type", "veth",
                "peer", "name", "facet0", "netns", str(made[1].pid)]  # fmt: skip
        subprocess.run(wire, check=True)
        for boot, host in zip(boots, made, strict=True):
            _wait_for_ssh(boot, host)
        yield made
    finally:
        for boot in boots:
            boot.kill()
            boot.wait()


def _boot(root: Path, address: str, cache: Path) -> subprocess.Popen:
    facts = {
        "VENV": sys.prefix, "ADDRESS": address, "NODE_USER": USER, "HOME_OF_NODE": HOME,
        "UV_CACHE_DIR": str(cache),
    }  # fmt: skip
    with open(root / "log", "w") as log:
        return subprocess.Popen(
            [*SPACES, "bash", "-c", BOOT], cwd=root, env={**os.environ, **facts},
            stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def _first_process(boot: subprocess.Popen) -> int:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if children := psutil.Process(boot.pid).children():
            return children[0].pid
        time.sleep(0.05)
    raise TimeoutError("unshare started nothing")


def _wait_for_ssh(boot: subprocess.Popen, host: Host) -> None:
    log = host.folder / "log"
    deadline = time.monotonic() + 240
    while "Server listening" not in log.read_text():
        if boot.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the machine did not start:\n{log.read_text()}")
        time.sleep(0.1)
