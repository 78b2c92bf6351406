"""A window of the live page that is gone without a word, as when its browser crashes."""

from typing import TYPE_CHECKING

import psutil
import pytest

from styleinv.live.server import ABANDONED_SECONDS, CHECK_SECONDS
from styleinv.live.widget import SILENCE
from tests.conftest import PATIENCE, LivePage

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.browser
def test_its_kernel_ends(browser: "Browser", live: LivePage) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(live.address)
        page.get_by_label("Optimiser").select_option("chapter")
        page.get_by_role("button", name="Start").click()
        page.get_by_alt_text("relu_2_1, Gram, running").wait_for()
        (kernel,) = psutil.Process(live.process.pid).children()
        page.close()  # runs no script of the page
        kernel.wait(SILENCE + ABANDONED_SECONDS + CHECK_SECONDS + PATIENCE)
