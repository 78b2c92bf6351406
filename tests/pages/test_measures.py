"""What the page on measures makes of numbers whose order is known."""

import pytest
from styleinv_book.claims import read_claims
from styleinv_book.pages import measured
from styleinv_book.pages import measures as page

from styleinv.images import SCIKIT_IMAGE, load_style
from styleinv.styles import PHOTOGRAPHS
from tests.conftest import ROOT


def test_a_share_of_planted_pictures_is_told_apart() -> None:
    """2 exceeds 1 and equals 2, which counts as half; 3 exceeds both; 0.5 exceeds none."""
    assert page.told_apart([1, 2], [2, 3, 0.5]) == pytest.approx(3.5 / 6)


def test_sides_of_the_painted_size_are_judged_apart() -> None:
    found = {"factors": [0.25, 0.5, 1, 2, 4], "painted": [[0.1], [0.5], [1], [0.2], [0.6]]}
    assert page.towards_the_style(found, -1) == pytest.approx(1)
    assert page.towards_the_style(found, 1) == pytest.approx(0.5)
    assert page.towards_the_style({}, 1) is None


def test_structure_counts_for_no_style_of_which_it_cannot_be_told() -> None:
    """Those whose mosaics are not ordered by their pieces, and those without colours."""
    found = page.exceptions(measured.read("measures", str(ROOT / "results"))).split(", ")
    grey = [
        name for name in PHOTOGRAPHS if load_style(SCIKIT_IMAGE + name, 64).std(dim=0).max() == 0
    ]
    unfit = read_claims(ROOT / "book" / "claims.yml").unfit["structure"]
    assert sorted(unfit) == sorted({SCIKIT_IMAGE + name for name in (*found, *grey)})
