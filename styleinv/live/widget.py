"""The live page: an ipywidget that inverts a style while the reader watches, and its snapshot.

The browser shows what it is told and sends wishes. A thread looks at the session a few times a
second and sends what it sees, and nothing more before the browser has answered: a slow browser
gets fewer pictures, and a run that no window answers for `SILENCE` seconds is stopped.
"""

import html
import json
import os
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import HTML
from PIL import Image
from styleinv_book.figures import credit_line, provenance

from styleinv.encoder import LAYERS
from styleinv.errors import InputError, one_of
from styleinv.images import STYLE_NAMES, Pixels, load_style, public_name, short_name, to_uint8
from styleinv.live import STATIC
from styleinv.live.board import Board, References, sentence, wishes_of
from styleinv.losses import ALPHA, LOSSES, title_of
from styleinv.protocol import PROTOCOLS
from styleinv.runs.store import run_of

# Large pictures come less often: showing them takes a fifth of the time at most.
FRAME_SECONDS, FRAME_SHARE = 0.25, 0.2
SILENCE = 8.0
MOST_RUNS = 4
# As large as the preview that is made of it; in the snapshot there is none.
THUMBNAIL, SMALL_THUMBNAIL = 128, 72
LARGEST_UPLOAD = 256 * 2**20

ENCODERS = {
    "bundled": "bundled",
    "vgg19": "VGG-19 (downloads 548 MB once)",
    "random": "random weights",
    "file": "a weights file",
}
METHODS = {
    "l-bfgs": "our L-BFGS",
    "l-bfgs-b": "SciPy's L-BFGS-B",
    "adam": "Adam",
    "l-bfgs unbounded": "L-BFGS, no bounds",
    "l-bfgs clamped": "L-BFGS, clamped",
}
OPTIONS: dict[str, Any] = {
    "layer": [(layer, layer) for layer in LAYERS],
    "loss": [(loss, title_of(loss)) for loss in LOSSES if loss != "mmd-random"],
    "pairing": [("adjacent", "neighbours"), ("random", "drawn anew (Adam)")],
    "protocol": [(p.name, f"{p.name} ({METHODS[p.method]})") for p in PROTOCOLS.values()],
    "adam": [p.name for p in PROTOCOLS.values() if p.method == "adam"],
    "encoder": list(ENCODERS.items()),
    "largest_upload": LARGEST_UPLOAD,
    "frozen": False,
}
CHOICE: dict[str, Any] = {
    "show": "one",
    "style": STYLE_NAMES[0],
    "layer": "relu_2_1",
    "loss": "gram",
    "other_layer": "relu_2_1",
    "other_loss": "moment-3",
    "pairing": "adjacent",
    "alpha": ALPHA,
    "protocol": "fast",
    "size": 128,
    "seed": 0,
    "encoder": "bundled",
    "weights": "",
}

_FOLDER = Path(__file__).parent
SCRIPT = "".join((_FOLDER / name).read_text("utf-8") for name in ("parts.js", "live.js"))
SHEET = "".join((_FOLDER / name).read_text("utf-8") for name in ("viewer.css", "live.css"))


def page(
    styles: Sequence[str | Path] = (),
    *,
    references: str | Path | None = None,
    out: str | Path = "out",
    evaluations: int | None = None,
    **choice: Any,
) -> "LivePage | HTML":
    """The live page; while a static book is built, a snapshot of it that says so.

    Args:
        styles: the reader's own image files, or names, of which the first is chosen.
        references: the folder of the reference runs, if there is one.
        out: the folder for what the reader saves.
        evaluations: the budget of the snapshot's run; by default the protocol's own.
        choice: what is chosen at first, in place of `CHOICE`; an encoder may be a weights file.
    """
    board = Board(References(None if references is None else Path(references)))
    sources = list(dict.fromkeys([*map(str, styles), *STYLE_NAMES]))
    chosen = {**CHOICE, "style": sources[0], **choice}
    if chosen["encoder"] not in ENCODERS:
        chosen |= {"encoder": "file", "weights": str(chosen["encoder"])}
    if os.environ.get(STATIC):
        return HTML(snapshot(board, sources, chosen, evaluations))
    return LivePage(board, Path(out), styles=[tile(s) for s in sources], choice=chosen)


class LivePage(anywidget.AnyWidget):
    """The page as a widget: `state` and the pictures go to the browser, wishes come from it."""

    _esm = SCRIPT
    _css = SHEET
    options = traitlets.Dict(OPTIONS).tag(sync=True)
    styles: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    style_picture = traitlets.Bytes().tag(sync=True)
    picture_0 = traitlets.Bytes().tag(sync=True)
    picture_1 = traitlets.Bytes().tag(sync=True)
    picture_2 = traitlets.Bytes().tag(sync=True)
    picture_3 = traitlets.Bytes().tag(sync=True)

    def __init__(self, board: Board, out: Path, **traits: Any) -> None:
        self.board, self.session, self.out = board, board.session, out
        self._uploads: dict[str, Path] = {}
        self._upload = bytearray()
        self._sent: dict[str, Pixels] = {}
        self._said: dict[str, Any] = {}
        self._tick = self._seen = 0
        self._heard = 0.0
        self._sending = threading.RLock()
        super().__init__(state=self._state(board.look()[0]), **traits)
        self.on_msg(self._receive)

    # --- Wishes --------------------------------------------------------------------------------

    def _receive(self, _: object, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        """A message from the browser; what is wrong with it is said there."""
        self._heard = time.monotonic()
        wish = content.pop("do")
        if wish == "seen":
            self._seen = content["tick"]
            return
        try:
            if wish == "start":
                self._start(content["choice"])
            elif wish == "upload":
                self._take_upload(buffers=buffers, **content)
            elif wish == "save":
                self._save()
            elif wish == "reset":
                self.session.clear()
                self._said = {}
            elif wish in ("pause", "resume", "skip", "stop"):
                getattr(self.session, wish)()
        except InputError as error:
            self._said = {"message": sentence(str(error)), "bad": True}
        self._show()

    def _start(self, choice: dict[str, Any]) -> None:
        # A name that was not offered could be any file of this machine.
        style = one_of("style", choice["style"], tuple(s["value"] for s in self.styles))
        style = str(self._uploads.get(style, style))
        self.board.start(wishes_of({**choice, "style": style}))
        self._said = {}
        with self._sending:
            self.choice = choice
            self._sent = {}
            for name in ("style_picture", *PICTURES):
                setattr(self, name, b"")
        threading.Thread(target=self._watch, name="styleinv view", daemon=True).start()

    def _take_upload(
        self,
        *,
        name: str,
        total: int,
        start: int,
        choice: dict[str, Any],
        buffers: Sequence[memoryview],
    ) -> None:
        """A piece of a file; with the last one it is among the styles."""
        if total > LARGEST_UPLOAD:
            raise InputError(
                f"file {name!r} has {total / 2**20:,.0f} MB, but must have at most "
                f"{LARGEST_UPLOAD // 2**20}"
            )
        if start == 0:
            self._upload.clear()
        self._upload += buffers[0]
        if len(self._upload) < total:
            return
        path, notes = self.session.take_upload(name, bytes(self._upload))
        self._upload.clear()
        key = f"upload:{len(self._uploads)}"
        self._uploads[key] = path
        if not self.session.is_alive():
            self.session.clear()
        with self._sending:
            self.styles = [{**tile(path), "value": key}, *self.styles]
            self.choice = {**choice, "style": key}
        self._said = {"message": " ".join(map(sentence, notes))}

    def _save(self) -> None:
        records = self.session.save(self.out)
        self._said = {
            "message": f"Saved with {'its record' if len(records) == 1 else 'their records'} in "
            f"the folder {self.out.name}.",
            "saved": [record.with_suffix(".png").name for record in records],
        }

    # --- What is shown -------------------------------------------------------------------------

    def _watch(self) -> None:
        """Show the session until its runs have ended; end them if nobody looks any more."""
        batch, self._heard = self.board.batch, time.monotonic()
        try:
            while self.session.is_alive() and batch == self.board.batch:
                began = time.monotonic()
                if self._seen == self._tick:
                    self.session.want_pictures()
                    self._show()
                elif began - self._heard > SILENCE:
                    self.session.stop()
                cost = time.monotonic() - began
                self.session.join(max(FRAME_SECONDS, cost / FRAME_SHARE))
            self._show()
        except BaseException:
            self.session.stop()  # or it would go on unseen
            raise

    def _show(self) -> None:
        """Send what has changed."""
        with self._sending:
            state, pictures, style = self.board.look()
            with self.hold_sync():
                shown = {"style_picture": style, **dict(zip(PICTURES, pictures, strict=False))}
                for name, pixels in shown.items():
                    if pixels is not None and self._sent.get(name) is not pixels:
                        self._sent[name] = pixels
                        setattr(self, name, png(pixels))
                self.state = self._state(state)

    def _state(self, state: dict[str, Any]) -> dict[str, Any]:
        """A board's state with what was said to the last wish, and counted."""
        self._tick += 1
        return {**state, "saved": [], "tick": self._tick, **self._said}


PICTURES = tuple(f"picture_{number}" for number in range(MOST_RUNS))


def tile(source: str | Path, size: int = THUMBNAIL) -> dict[str, Any]:
    """A style as one can choose it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say is said when it is used
        picture = png(to_uint8(load_style(source, size)))
    label = short_name(public_name(source)).replace("_", " ")
    return {"value": str(source), "label": label, "picture": picture}


def png(pixels: Pixels) -> bytes:
    """The pixels as a PNG file, made quickly rather than small."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()


NEEDS_KERNEL = (
    "The live page as it is after a finished run. Its controls need a kernel; here, only the "
    "divider works."
)


def snapshot(
    board: Board,
    sources: Sequence[str],
    choice: Mapping[str, Any],
    evaluations: int | None = None,
) -> str:
    """The page after a finished run, as HTML that needs no kernel.

    Args:
        board: one without runs.
        sources: the styles to choose from.
        choice: what is run.
        evaluations: the run's budget; by default the protocol's own.

    Raises:
        InputError: the run failed.
    """
    board.start([{**wish, "iterations": evaluations} for wish in wishes_of(choice)])
    board.session.join()
    state, pictures, style = board.look()
    results = [attempt.result for attempt in board.session.attempts]
    if state["bad"] or style is None:
        raise InputError(state["message"])
    runs = [{**run, "provenance": ""} for run in state["runs"]]
    tiles = [tile(source, SMALL_THUMBNAIL) for source in sources]
    values = [f"style {number}" for number in range(len(tiles))]
    data: dict[str, Any] = {
        "options": {**OPTIONS, "frozen": True},
        "styles": [
            {**one, "value": value, "picture": _data_url(one["picture"])}
            for one, value in zip(tiles, values, strict=True)
        ],
        # Not where the reader's file is.
        "choice": {**choice, "style": values[list(sources).index(choice["style"])]},
        "state": {**state, "runs": runs, "message": "", "saved": []},
        "style_picture": _data_url(png(style)),
        **{
            name: _data_url(png(pixels))
            for name, pixels in zip(PICTURES, pictures, strict=False)
            if pixels is not None
        },
    }
    # In a script element only "<" could end the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    alt = html.escape(f"{runs[0]['style']}, inverted: {runs[0]['title']}")
    made = [run_of(result) for result in results if result is not None]
    return (
        f'<div class="live-snapshot"><style>{SHEET}</style>'
        f'<p class="live-static"><strong>{NEEDS_KERNEL}</strong></p><div class="live-app">'
        f'<img class="dark-light" src="{data["picture_0"]}" alt="{alt}"></div>'
        f'<script type="application/json">{text}</script>'
        f'<script type="module">{SCRIPT}{_SHOW_SNAPSHOT}</script></div>'
        f"{provenance(made)}{credit_line([choice['style']])}"
    )


# Scripts of this kind run in the order in which they are on the page.
_SHOW_SNAPSHOT = """
const snapshot = document.querySelector('.live-snapshot:not([data-live])');
snapshot.dataset.live = '';
const data = JSON.parse(snapshot.querySelector('[type="application/json"]').textContent);
const nothing = () => {};
const model = { get: (name) => data[name], on: nothing, off: nothing, send: nothing };
render({ model, el: snapshot.querySelector('.live-app') });
"""


def _data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{b64encode(picture).decode()}"
