"""The viewer: every run is in it, and a reader finds it by mouse, keyboard, URL or without."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page
from styleinv_book import viewer

import styleinv
from styleinv import InputError
from styleinv.encoder import NORMALISED_NAME, NORMALISED_SHA256, Encoder
from styleinv.runs import store
from styleinv.runs.record import TracePoint, sealed
from tests.conftest import refuse_others, served

LINK = "../results/runs"
STROKES, COFFEE = "bundled:strokes", "skimage:coffee"
# A record may say what no file is called.
ODD = "a </script><b> & $b$.png"
ALT = "strokes, relu_2_2, Gram, seed 3, fast, 2 evaluations, bundled, 16 px"
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    *(("main", STROKES, {"layer": layer}) for layer in styleinv.LAYERS),
    ("main", STROKES, {"layer": "relu_1_1", "loss": "mmd"}),
    ("main", STROKES, {"layer": "relu_1_1", "loss": "moment-4", "iterations": 9}),
    ("main", COFFEE, {"layer": "relu_2_2"}),
    ("more/seeds", STROKES, {"layer": "relu_2_2", "iterations": 1}),
    ("other", STROKES, {"layer": "relu_1_1", "size": 24}),
    ("other", STROKES, {"layer": "relu_1_1", "protocol": "chapter"}),
    ("more/seeds", STROKES, {"layer": "relu_2_2", "seed": 3}),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Path:
    """A folder of tiny runs, some of them packed, and an odd one that claims another source."""
    folder = tmp_path_factory.mktemp("site") / "results" / "runs"
    for sweep, style, asked in RUNS:
        arguments = {"size": 16, "iterations": 2, "encoder": bundled, **asked}
        path = store.save(store.run_of(styleinv.invert(style, **arguments)), folder / sweep)
    odd = msgspec.structs.replace(store.read_record(path), source=ODD, style="odd")
    store.save(replace(store.read(path), record=sealed(odd)), folder)
    store.pack(folder / "main")
    (folder / "styles").mkdir()
    for style, size in ((STROKES, 16), (STROKES, 24), (COFFEE, 16), (ODD, 16)):
        pixels = styleinv.load_style(STROKES if style == ODD else style, size)
        styleinv.save_png(pixels, folder / "styles" / store.style_file_name(style, size))
    return folder


@pytest.fixture(scope="module")
def fragment(runs: Path) -> str:
    return viewer.page(runs, LINK)


@pytest.fixture(scope="module")
def data(fragment: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', fragment, re.DOTALL)
    loaded: dict[str, Any] = json.loads(found)
    return loaded


@pytest.fixture(scope="module")
def address(runs: Path, fragment: str) -> Iterator[str]:
    """The fragment as a page beside the results, served."""
    site = runs.parents[1]
    (site / "book").mkdir()
    (site / "book" / "page.html").write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Viewer</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<body style="margin: 16px">{fragment}</body></html>'
    )
    with served(site) as address:
        yield f"{address}/book/page.html"


def test_every_run_is_in_the_grid_and_in_the_data(
    runs: Path, fragment: str, data: dict[str, Any]
) -> None:
    images = BeautifulSoup(fragment, "html.parser").find_all("img")
    records = {f"{LINK}/{path.relative_to(runs)}" for path in store.read_records(runs)}
    assert len(records) == len(RUNS) + 1
    assert {unquote(run["record"]) for run in data["runs"]} == records
    pictures = {unquote(str(image["src"])) for image in images}
    assert pictures == {record.replace(".json", ".png") for record in records}
    alts = {str(image["alt"]) for image in images}
    assert len(alts) == len(images)
    assert ALT in alts
    assert re.findall("<h3>(.*?)</h3>", fragment) == ["runs", "main", "more/seeds", "other"]
    # An odd name stays text.
    assert fragment.count("</script>") == 2
    assert "<b>" not in fragment


def test_options_come_in_the_order_of_the_chapter(data: dict[str, Any]) -> None:
    labels = {name: [label for _, label in found] for name, found in data["options"].items()}
    assert data["options"]["style"][0][0] == ODD
    assert labels["style"][1:] == ["strokes", "coffee"]
    assert labels["layer"] == list(styleinv.LAYERS)
    assert labels["loss"] == ["Gram", "N = 4", "MMD"]
    assert data["options"]["size"] == [["16", "16 px"], ["24", "24 px"]]
    budgets = ["fast, 1 evaluation", "fast, 2 evaluations", "fast, 9 evaluations"]
    assert labels["protocol"] == ["chapter, 2 iterations", *budgets]


@pytest.mark.parametrize(
    ("asked", "protocol", "options"),
    [
        ({}, {}, " --encoder bundled --iterations 2"),
        (
            {"encoder": "painters", "width": 30, "device": "cuda", "alpha": 0.5},
            {"seconds": 5},
            " --encoder FILE --alpha 0.5 --fit keep --iterations 2 --seconds 5 --device cuda",
        ),
        ({}, {"budget": 1000, "seconds": 1800}, " --encoder bundled"),
        (
            {"encoder": NORMALISED_NAME, "encoder_sha256": NORMALISED_SHA256},
            {},
            " --encoder vgg19-normalised --iterations 2",
        ),
        ({}, {"name": "my own"}, None),
    ],
)
def test_command_makes_a_run_again(
    runs: Path, asked: dict[str, Any], protocol: dict[str, Any], options: str | None
) -> None:
    (record,) = (store.read_record(path) for path in runs.glob("odd*.json"))
    settings = msgspec.structs.replace(record.asked.protocol, **protocol)
    other = msgspec.structs.replace(record.asked, protocol=settings, **asked)
    record = msgspec.structs.replace(record, asked=other)
    start = (
        f"styleinv invert '{ODD}' --layer relu_2_2 --loss gram --protocol fast --seed 3 --size 16"
    )
    assert viewer.command(record) == ("" if options is None else start + options)
    # A protocol's own budget needs no number.
    assert ("protocol=fast&" in viewer.link_to(record)) == (protocol.get("budget") == 1000)


def test_long_traces_are_thinned() -> None:
    stages = ["pre-activations"] * 37 + ["moment-3"] * 4963
    trace = [TracePoint(n, n, 1.0, 0.0, stage) for n, stage in enumerate(stages, start=1)]
    kept = [point.evaluations for point in viewer.thin(trace)]
    assert {1, 2, 3, 38, 5000} <= set(kept)
    assert 40 < len(kept) <= 61


def test_what_cannot_be_shown(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(InputError, match="must hold run records"):
        viewer.page(tmp_path, LINK)
    copy = Path(shutil.copytree(runs / "main", tmp_path / "runs" / "main")).parent
    with pytest.raises(InputError, match=r"style image .*bundled-strokes-16\.png' is not"):
        viewer.page(copy, LINK)


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Page]:
    """A tab that must end without an error in its console or a question to another host."""
    with browser.new_context(viewport={"width": 900, "height": 1000}) as context:
        opened = context.new_page()
        problems = refuse_others(opened, address.removesuffix("book/page.html"))
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda line: problems.append(line.text))
        opened.goto(address)
        yield opened
        assert problems == []


def visit(tab: Page, address: str) -> None:
    """Load the page anew; where only the fragment changes, a browser does not."""
    tab.goto("about:blank")
    tab.goto(address)


def shown(tab: Page) -> dict[str, str]:
    """What the page shows: the picture's file, the curve, the note, the choice in the URL."""
    picture = tab.get_by_role("img", name=re.compile("^Inversion of"))
    return {
        "picture": str(picture.get_attribute("src")).rpartition("/")[2],
        "curve": str(tab.locator(".viewer-curve path").get_attribute("d")),
        "note": tab.get_by_role("status").inner_text(),
        **{name: values[0] for name, values in parse_qs(tab.url.partition("#")[2]).items()},
    }


def pick(tab: Page, name: str) -> None:
    tab.locator("fieldset label", has_text=re.compile(f"^{name}( .no run.)?$")).click()


def select(tab: Page, name: str, value: str) -> None:
    tab.locator("label", has_text=name).get_by_role("combobox").select_option(value)


@pytest.mark.browser
def test_begins_with_the_deepest_layer_and_leaves_the_url_alone(tab: Page, address: str) -> None:
    assert shown(tab)["picture"].startswith("odd-relu_2_2")
    assert tab.get_by_role("radio", name="relu_2_2").is_checked()
    assert tab.url == address
    assert not tab.locator("details").get_attribute("open")
    assert tab.get_by_text("Encoder", exact=True).count() == 0


@pytest.mark.browser
def test_a_layer_by_mouse_and_by_keyboard(tab: Page, address: str) -> None:
    visit(tab, f"{address}#style=bundled:strokes&seed=0")
    before = shown(tab)
    pick(tab, "relu_1_2")
    after = shown(tab)
    assert after["picture"].startswith("strokes-relu_1_2-gram")
    assert after["curve"] != before["curve"]
    assert (after["layer"], after["note"]) == ("relu_1_2", "")
    picture = tab.get_by_role("img", name="Inversion of strokes: relu_1_2, Gram, seed 0")
    tab.wait_for_function("document.querySelector('.viewer-stage img').complete")
    assert picture.evaluate("image => image.clientWidth") == 512  # 32 screen pixels each
    tab.get_by_role("radio", name="relu_1_2").focus()
    tab.keyboard.press("ArrowDown")
    assert shown(tab)["picture"].startswith("strokes-relu_2_1-gram")
    assert tab.get_by_role("radio", name="relu_2_1").is_checked()


@pytest.mark.browser
def test_a_choice_without_a_run_keeps_what_was_changed(tab: Page) -> None:
    pick(tab, "strokes")
    pick(tab, "relu_2_1")
    assert tab.get_by_role("radio", name="MMD (no run)").count() == 1
    pick(tab, "MMD")
    state = shown(tab)
    assert state["picture"].startswith("strokes-relu_1_1-mmd")
    assert state["note"] == "No run with MMD and relu_2_1: showing relu_1_1."
    select(tab, "Size", "24")
    assert shown(tab)["note"] == "No run with 24 px and MMD: showing Gram."
    select(tab, "Seed", "3")
    note = "No run with seed 3, relu_1_1, and 24 px: showing relu_2_2 and 16 px."
    assert shown(tab)["note"] == note


@pytest.mark.browser
def test_another_budget_is_nearer_than_another_optimiser(tab: Page, address: str) -> None:
    visit(tab, f"{address}#style=bundled:strokes&layer=relu_1_1&loss=moment-4")
    assert shown(tab)["protocol"] == "fast-9"
    pick(tab, "Gram")
    note = "No run with Gram and fast, 9 evaluations: showing fast, 2 evaluations."
    assert shown(tab)["note"] == note


@pytest.mark.browser
def test_url_restores_a_choice(tab: Page, address: str, runs: Path) -> None:
    for path, record in store.read_records(runs).items():
        link = viewer.link_to(record)
        tab.evaluate("link => { location.hash = link; }", link)
        tab.wait_for_function(
            f"document.querySelector('a[href$=json]').href.endsWith({path.name!r})"
        )
        assert tab.url == address + link
        assert shown(tab)["note"] == ""


@pytest.mark.browser
def test_url_that_asks_for_too_much(tab: Page, address: str) -> None:
    visit(tab, f"{address}#layer=relu_9_9&style=bundled:strokes&colour=red")
    state = shown(tab)
    assert state["note"].startswith("No run with relu_9_9: showing relu_")
    assert state["style"] == STROKES
    assert "colour" not in state
    before = tab.url
    tab.evaluate(
        "() => new Promise(resolve => { onhashchange = resolve; location.hash = 'a-heading'; })"
    )
    assert shown(tab)["note"] == state["note"]
    assert tab.url == before.partition("#")[0] + "#a-heading"


@pytest.mark.browser
def test_divider_moves_by_keyboard_and_by_hand(tab: Page) -> None:
    divider = tab.get_by_role("slider")
    stage = tab.locator(".viewer-stage").bounding_box()
    assert stage

    def at() -> float:
        line = tab.locator(".viewer-line").bounding_box()
        assert line
        return (line["x"] + line["width"] / 2 - stage["x"]) / stage["width"]

    assert at() == pytest.approx(0.5, abs=5e-4)
    divider.focus()
    tab.keyboard.press("ArrowRight")
    assert at() == pytest.approx(0.52, abs=5e-4)
    middle = stage["y"] + stage["height"] / 2
    tab.mouse.move(stage["x"] + 0.1 * stage["width"], middle)
    tab.mouse.down()
    assert at() == pytest.approx(0.1, abs=0.01)
    tab.mouse.move(stage["x"] + 0.8 * stage["width"], middle + 30, steps=4)
    tab.mouse.up()
    assert at() == pytest.approx(0.8, abs=0.01)
    assert divider.get_attribute("aria-valuetext") == "80 % style"


@pytest.mark.browser
def test_numbers_and_curve_of_a_run(tab: Page, address: str) -> None:
    visit(tab, f"{address}#style=bundled:strokes&loss=moment-4")
    numbers = tab.locator("dl").inner_text().split("\n")
    facts = dict(zip(numbers[::2], numbers[1::2], strict=True))
    assert facts["first stages"] == "N = 2, N = 3 compressed, N = 4 compressed"
    assert (facts["budget"], facts["stopped by"]) == ("9 evaluations", "budget")
    curve = tab.get_by_role("img", name=re.compile("^Loss curve: from .* after 9 evaluations$"))
    assert {"N = 2", "N = 4"} <= set(curve.locator("text").all_text_contents())
    assert curve.locator("line.stage").count() >= 2
    assert curve.locator("line.theta").count() == 1
    visit(tab, f"{address}#style=bundled:strokes&loss=mmd")
    assert curve.locator("line.theta").count() == 0


@pytest.mark.browser
def test_without_javascript_the_grid_remains(browser: Browser, address: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        tab = context.new_page()
        tab.goto(address)
        assert tab.locator(".viewer-grid img").count() == len(RUNS) + 1
        assert tab.get_by_alt_text(ALT).is_visible()
        assert not tab.locator(".viewer-app").is_visible()
