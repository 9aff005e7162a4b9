"""What is cited is in the list of references, or in the repository."""

import ast
import re
from pathlib import Path

import pytest

from jobs import cli

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "docs" / "references.md"
CODE = [p for layer in ("storage", "pipeline", "jobs", "benchmarks") for p in
        sorted((ROOT / layer).rglob("*.py"))]  # fmt: skip
PAGES = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if p != LIST]
# "He et al. 2022", "Mann & Whitney 1947", "Gandelsman 2025", however it is punctuated.
CITED = re.compile(
    r"\b([A-Z][a-zé]+)(?: (et al\.)|,? (?:&|and) ([A-Z]\w+))?,? \(?((?:19|20)\d\d)\b(?!-\d\d)"
)
# Numbers of one work's parts; alone they say nothing.
NUMBERED = re.compile(r"\b(?:Eq\.|Figures?|Tables?) [A-C\d]\.\d")


JOBS = [ROOT / "jobs" / f"{name.replace('-', '_')}.py" for name in cli.JOBS]


def citations(text: str) -> set[str]:
    """Works by their short names; a citation may go over the end of a line."""
    found = CITED.findall(re.sub(r"\s*\n\s*(?:# )?", " ", text))
    return {f"{a} et al. {y}" if e else f"{a} & {b} {y}" if b else f"{a} {y}"
            for a, e, b, y in found}  # fmt: skip


def listed() -> set[str]:
    return set(re.findall(r"^- \*\*(.+?)\*\*:", LIST.read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_cited_is_there(path):
    text = path.read_text()
    assert citations(text) <= listed()
    if path in CODE:
        assert not re.search(r"(?i)\bthesis\b", text)
        if NUMBERED.search(text):
            assert "Gandelsman 2025" in " ".join(text.split()), "whose equation or figure?"
        for name in re.findall(r"[\w/-]+\.md\b", text):
            places = (ROOT, ROOT / "docs", ROOT / "storage")
            assert any((place / name).exists() for place in places), name


def test_citations_are_found_however_they_stand():
    text = "Zhang et al., 2018, Eq. 1; Kingma and Welling (2014), He et\nal. 2022; Dai\n# 2019"
    wanted = {"Zhang et al. 2018", "Kingma & Welling 2014", "He et al. 2022", "Dai 2019"}
    assert citations(text) == wanted


def help_of(source: str) -> str:
    """What `facet JOB --help` says: the module's docstring, and the sentence under each setting."""
    module = ast.parse(source)
    texts = [ast.get_docstring(module) or ""]
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            texts += [
                str(line.value.value)
                for line in node.body
                if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)
            ]
    return " ".join(" ".join(texts).split())


def faults_of_help(said: str) -> list[str]:
    """What whoever has installed the package, and nothing else, cannot find."""
    titles = dict(re.findall(r"^- \*\*(.+?)\*\*:.*?\*(.+?)\*", LIST.read_text(), re.MULTILINE))
    faults = [f"the title of {work}" for work in citations(said) if titles[work] not in said]
    faults += re.findall(r"[\w/-]+\.(?:py|md)\b", said)
    # Parts of a work by number alone; heads are written layer.head, and machines have addresses.
    known = r"(?:Eq\.|Table|Figure|Algorithm) [A-C\d][.\d]*|such as [\d. ]+|\d+(?:\.\d+){3}"
    bare = re.sub(known, "", said)
    return faults + re.findall(r"(?<![\w.,])[A-C\d]\.\d+\b", bare)


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_help_names_nothing_that_a_stranger_cannot_find(path):
    assert faults_of_help(help_of(path.read_text())) == []


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("as in Dravid et al. 2023", "the title of Dravid et al. 2023"),
        ("see docs/scale.md", "docs/scale.md"),
        ("do jobs/run.py", "jobs/run.py"),
        ("edits maps (the paper's 4.4)", "4.4"),
    ],
)
def test_what_a_stranger_cannot_find_is_a_fault(said, fault):
    assert faults_of_help(said) == [fault]
    whole = "Rosetta Neurons: Mining the Common Units in a Model Zoo (Dravid et al. 2023), Eq. 4.1"
    assert faults_of_help(f"{whole}; heads such as 3.0 3.2") == []
