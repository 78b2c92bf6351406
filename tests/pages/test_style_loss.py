"""The page on style losses: its comparison fails where it should, and its numbers are right."""

import numpy as np
import pytest
from bs4 import BeautifulSoup
from scipy.stats import skew
from styleinv_book.pages import style_loss

from styleinv.losses import GramLoss, MomentLoss


def cells(content: str) -> list[list[str]]:
    rows = BeautifulSoup(content, "html.parser").select("tbody tr")
    return [[cell.get_text() for cell in row.select("td")] for row in rows]


def test_compare_tells_a_wrong_loss_from_a_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    s, n = np.array([[[1.0, 2.0]]]), np.array([[[3.0, 0.0]]])
    by_hand = (5 - 9) ** 2 / 2**2
    style_loss.compare(by_hand, GramLoss, s, n)
    assert capsys.readouterr().out == "by hand:  4\nstyleinv: 4\n"
    with pytest.raises(AssertionError):
        style_loss.compare(by_hand * (1 + 1e-8), GramLoss, s, n)


@pytest.mark.parametrize("n_high", [50, 500, 900])
def test_two_valued_maps_differ_in_skewness_alone(n_high: int) -> None:
    values = style_loss.two_valued(n_high).numpy().ravel()
    assert values.mean() == pytest.approx(1)
    assert values.std(ddof=1) == pytest.approx(1)
    assert (values == values.max()).sum() == n_high
    share = n_high / values.size
    assert skew(values) == pytest.approx((1 - 2 * share) / np.sqrt(share * (1 - share)))


def test_psi_table_shows_a_negative_weight() -> None:
    maps = style_loss.two_valued(900)[0].numpy()
    ((layer, *psi, skewed),) = cells(style_loss.psi_table({"relu_1_1": maps}).data)
    loss = MomentLoss(style_loss.two_valued(900), 4, negative_psi="as printed")
    assert loss.psi[2] < 0
    assert [float(x.replace("\N{MINUS SIGN}", "-")) for x in psi] == pytest.approx(
        loss.psi.tolist(), abs=5e-4
    )
    assert (layer, skewed) == ("relu_1_1", "1 of 1")


def test_loss_table_compares_every_map_with_the_style() -> None:
    style = np.zeros((1, 1, 2))
    others = {"itself": style, "another": np.array([[1500.0, -3.0]])}
    table = style_loss.loss_table(
        style, others, {"first": lambda s, n: (n - s)[0, 0, 0], "last": lambda s, n: n[0, 0, 1]}
    )
    assert cells(table.data) == [["itself", "0", "0"], ["another", "1,500", "\N{MINUS SIGN}3"]]
