"""All committed runs, checked as `styleinv verify results/` does."""

from styleinv.runs.verification import verify
from tests.conftest import ROOT


def test_every_committed_picture_is_measured_again() -> None:
    found = verify(ROOT / "results")
    assert found.wrong == []
    assert found.measured == found.pictures > 200
    assert set(found.unmeasured) == {"the picture is not kept"}
