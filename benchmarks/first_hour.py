"""What the commands of the first hour cost: wall time, CPU seconds, the longest silence.

    python -m benchmarks.first_hour

``--only PART`` measures some of them, ``--json FILE`` keeps the figures.

Runs the README's commands and some mistakes one after the other, each on a terminal of its own (a
pseudo-terminal 100 columns wide), with the `facet` that stands beside this interpreter, in an empty
folder. CPU seconds are those of the command and of everything it started, daemons that it left
behind included: they are adopted and waited for. A silence is the time between two outputs, from
the command's start to its end. Meant for a machine that does nothing else; measure the commit
before beside it, in one sitting.
"""

import argparse
import ctypes
import fcntl
import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from termios import TIOCSWINSZ

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans of what we start come to us
IMAGES = "microworld:n=200,seed=1,split=test"
EXTRACT = (
    f"extract --images {IMAGES} --model microworld --pretrained microworld --store first/store"
    " --shard-size 100"
)
COMMANDS = {
    "no command": "",
    "version": "--version",
    "help": "extract --help",
    "a typing error": EXTRACT + " --shard-sise 100",
    "no such model": EXTRACT.replace("--model microworld", "--model ViT-B-99"),
    "no such path": EXTRACT.replace(IMAGES, "no/such/folder"),
    "no such store": "textspan --store no/such/store --pool microworld",
    "plan": "plan --images 200 --model microworld",
    "extract": EXTRACT,
    "extract again": EXTRACT,
    "status": "status --store first/store",
    "textspan": "textspan --store first/store --pool microworld --layers last:1",
    "ablate": "ablate --store first/store --classes microworld:shape",
    "show textspan": "show textspan --store first/store",
    "second-order": "second-order --store first/store --mlp-layers 2 --top-k 20",
    "omp": "omp --store first/store --mlp-layers 2 --pool microworld --terms 16",
    "show neuron": "show neuron --store first/store --layer 2 --neuron 17",
    "ablate neurons": "ablate --store first/store --classes microworld:shape --study neurons"
    " --mlp-layers 2",
    "show results": "show results --store first/store",
    "report": "report --store first/store",
}


def on_a_terminal(command: list[str], folder: Path) -> tuple[float, float, float, int, str]:
    """Wall seconds, CPU seconds, longest silence, exit status and the output of one command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    start = last = time.monotonic()
    silence, output = 0.0, b""
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    while True:
        ready, _, _ = select.select([ours], [], [], 0.05)
        now = time.monotonic()
        if ready:
            try:
                some = os.read(ours, 65536)
            except OSError:  # the last process that held the terminal is gone
                some = b""
            if not some:
                break
            silence, last = max(silence, now - last), now
            output += some
        elif os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    os.close(ours)
    cpu = used.ru_utime + used.ru_stime + _adopted()
    return wall, cpu, max(silence, start + wall - last), process.returncode, output.decode()


def _adopted(patience: float = 10.0) -> float:
    """CPU seconds of the orphans, which get some time to end by themselves."""
    cpu, until = 0.0, time.monotonic() + patience
    while True:
        try:
            pid, _, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return cpu
        if pid:
            cpu += used.ru_utime + used.ru_stime
        elif time.monotonic() > until:
            for child in _children():
                os.kill(child, signal.SIGKILL)
        else:
            time.sleep(0.05)


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def main() -> None:
    """Run every command once, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    facet = Path(sys.executable).parent / "facet"
    rows = []
    print("| command | wall s | CPU s | longest silence s | exit |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            wall, cpu, silence, status, output = on_a_terminal(
                [str(facet), *shlex.split(COMMANDS[name])], Path(folder)
            )
            print(f"| {name} | {wall:.1f} | {cpu:.1f} | {silence:.1f} | {status} |", flush=True)
            rows.append(
                {
                    "command": name,
                    "wall": wall,
                    "cpu": cpu,
                    "silence": silence,
                    "exit": status,
                    "output": output,
                }
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
