"""What is said to whoever checks the claims: commands, costs, and what is not as expected."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from styleinv_book import artifacts
from styleinv_book.claims import judge

from styleinv import InputError
from styleinv.runs import store
from styleinv.runs.sweeps import sweep
from tests.conftest import ROOT


def test_a_check_names_the_sweeps_and_adds_up_their_runs(tmp_path: Path) -> None:
    cell: dict[str, Any] = {"losses": ["gram"], "size": 16, "iterations": 1}
    for name, layers in {"chapter": ["relu_1_1", "relu_1_2"], "chapter-more": ["relu_2_1"]}.items():
        sweep(["bundled:dots"], layers=layers, folder=tmp_path / "runs" / name, **cell)
    rows, _ = judge(tmp_path, ROOT / artifacts.CLAIMS, ["C2", "C13"])
    gram, seeds = artifacts.checks(rows, tmp_path)
    assert (gram.sweeps, gram.runs) == (["chapter", "chapter-more"], 3)
    assert gram.quickest in gram.sweeps
    spent = sum(float(x.result.seconds) for x in store.read_records(tmp_path).values())
    assert gram.minutes == pytest.approx(spent / 60)
    assert gram.repeat == 'make repeat CLAIMS=C2 ONLY="chapter chapter-more"'
    assert gram.recompute == "styleinv claims C2"
    assert gram.commands == (gram.recompute, gram.sample, gram.repeat)
    assert seeds.commands == ("styleinv claims C13",)
    assert (seeds.sweeps, seeds.runs, seeds.minutes) == ([], 0, 0)


def test_the_claims_are_compared_with_what_was_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words must be the same, numbers within 2%; without runs, all claims have too few."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError, match=r"must hold claims\.txt"):
        artifacts.compare(tmp_path)
    rows, _ = judge(tmp_path, artifacts.CLAIMS)
    text = "\n".join(artifacts.lines(rows)) + "\n"
    for change, wrong in (
        (text.replace("1.15", "1.151"), 0),
        (text.replace("above 1.15", "above 1.25", 1), 1),
        (text.replace("C2  TOO FEW RUNS", "C2  SUPPORTED"), 1),
        (text.rstrip().rpartition("\n")[0], 1),
    ):
        assert change != text
        (tmp_path / artifacts.EXPECTED).write_text(change, encoding="utf-8")
        judged, found = artifacts.compare(tmp_path)
        assert (judged, len(found)) == (len(rows), wrong)


def test_the_manifest_lists_every_figure_where_it_is() -> None:
    """The chapter's figures and its table, each once, on the page that has it."""
    manifest = yaml.safe_load((ROOT / "codecheck.yml").read_text(encoding="utf-8"))["manifest"]
    pages = {
        part: ROOT / "notebooks" / Path(entry["file"]).with_suffix(".md").name
        for entry in manifest
        for part in re.findall(r"^(?:Figure|Table) [\dA]\.\d", entry["comment"])
    }
    figures = [f"Figure 1.{n}" for n in range(1, 8)] + [f"Figure A.{n}" for n in range(1, 4)]
    assert sorted(pages) == sorted([*figures, "Table 1.1"])
    assert len(manifest) == len(pages) + 2  # and the claims, and section A.1
    for part, page in pages.items():
        number = part.rpartition(" ")[2]
        assert re.search(rf'{part}[. ]|"{number}"', page.read_text(encoding="utf-8")), part
