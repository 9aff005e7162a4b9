"""Nothing that is read can run code: no pickles, no unsafe YAML, no eval."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PICKLES = {"load", "loads", "Unpickler", "read_pickle"}
# Runs definitions of a package that is installed, as importing it would; nothing that a user gives.
ALLOWED = {"pipeline/models/openclip_files.py": ["exec"]}


def dangers(source: str) -> list[str]:
    """Calls that run what they read, as ``line: call``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        module, _, name = call.rpartition(".")
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            (module.endswith(("pickle", "dill", "joblib", "marshal")) and name in PICKLES)
            or name == "read_pickle"
            or given.get("allow_pickle", "False") != "False"
            or (call == "torch.load" and given.get("weights_only") != "True")
            or (name == "load_checkpoint" and given.get("weights_only") != "True")
            or (module == "yaml" and name not in ("safe_load", "safe_load_all", "safe_dump"))
            or call in ("eval", "exec")
        ):
            found.append(f"{node.lineno}: {call}")
    return found


@pytest.mark.parametrize("layer", ["storage", "pipeline", "jobs"])
def test_nothing_that_is_read_can_run_code(layer):
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): d for f in files if (d := dangers(f.read_text()))}
    calls = {name: [line.split(": ")[1] for line in lines] for name, lines in found.items()}
    assert calls == {n: c for n, c in ALLOWED.items() if n.startswith(f"{layer}/")}


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(f)", "cloudpickle.loads(b)", "np.load(f, allow_pickle=True)", "torch.load(f)",
        "torch.load(f, weights_only=False)", "yaml.load(t, Loader=L)", "yaml.full_load(t)",
        "pd.read_pickle(f)", "eval(text)",
    ],
)  # fmt: skip
def test_the_test_sees_dangers(line):
    assert dangers(line)
    assert not dangers("np.load(f); yaml.safe_load(t); torch.load(f, weights_only=True); m.eval()")
