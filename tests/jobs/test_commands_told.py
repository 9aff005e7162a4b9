"""Commands that messages hold: what a shell makes of them."""

import shlex
import subprocess

import pytest

from jobs.settings import ELIDED, command

ODD = ["it's", "a b", 'say "x" $HOME `ls`', "*.tar", "{1..3}", "-1 < count", "--x", "", "é\n#"]


@pytest.mark.parametrize("value", ODD)
def test_a_shell_gives_back_what_was_put_in(value):
    line = command("reduce", store=value, where=value)
    wanted = shlex.split(line)
    shown = subprocess.run(
        ["sh", "-c", line.replace("facet", r"printf '%s\000'", 1)], capture_output=True, text=True
    )
    assert shown.stdout.split("\0")[:-1] == wanted[1:]
    if value.startswith("-"):
        assert wanted == ["facet", "reduce", f"--store={value}", f"--where={value}"]
    else:
        assert wanted == ["facet", "reduce", "--store", value, "--where", value]


def test_what_is_not_given_is_left_out():
    line = command("ablate", store="s", where=None, heads=(), study=("mlps", "heads"), pool=ELIDED)
    assert line == "facet ablate --store s --study mlps heads --pool …"
    assert command("show", "neuron", mlp_layers=3) == "facet show neuron --mlp-layers 3"
