"""All committed runs, checked as `styleinv verify results/` does, and the claims by them."""

import pytest
from styleinv_book.artifacts import compare

from styleinv.runs.verification import verify
from tests.conftest import ROOT


def test_every_committed_picture_is_measured_again() -> None:
    found = verify(ROOT / "results")
    assert found.wrong == []
    assert found.measured == found.pictures > 200
    assert set(found.unmeasured) == {"the picture is not kept"}


def test_the_claims_are_what_is_said_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make reference` writes results/claims.txt anew."""
    monkeypatch.chdir(ROOT)
    assert compare(ROOT / "results")[1] == []
