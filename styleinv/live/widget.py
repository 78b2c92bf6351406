"""The live page: an ipywidget that inverts a style while the reader watches.

The browser shows the state and sends wishes. A thread sends the state of the session a few times a
second, but only after the browser has answered the last time, so that a slow browser gets fewer
pictures. If no window answers for `SILENCE` seconds, the run is stopped.
"""

import threading
import time
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from PIL import Image

from styleinv import __version__
from styleinv.errors import InputError, one_of
from styleinv.images import STYLE_NAMES, Pixels, load_style, public_name, short_name, to_uint8
from styleinv.live.choices import CHOICE, ENCODERS, MOST_UPLOADS, OPTIONS, runs_of
from styleinv.live.session import Session
from styleinv.live.view import References, View, sentence

# Large pictures come less often: showing them takes a fifth of the time at most.
FRAME_SECONDS, FRAME_SHARE = 0.25, 0.2
SILENCE = 8.0
THUMBNAIL = 128
PICTURES = tuple(f"picture_{number}" for number in range(4))
LARGEST_UPLOAD = 256 * 2**20
# What computes, as recipes say it.
ENGINE = {"name": "python", "version": __version__}


def _sources(*names: str) -> str:
    return "".join(Path(__file__).with_name(name).read_text("utf-8") for name in names)


FRONT_END = _sources("parts.js", "share.js", "live.js")
STYLE_SHEET = _sources("viewer.css", "live.css")


def page(
    styles: Sequence[str | Path] = (),
    *,
    references: str | Path | None = None,
    out: str | Path = "out",
    is_alone: bool = False,
    **choice: Any,
) -> "LivePage":
    """The live page, to be the last value of a notebook's cell.

    Args:
        styles: the reader's own image files, or names of styles; the first one is chosen.
        references: the folder of the reference runs, if there is one.
        out: the folder for what the reader saves.
        is_alone: whether nothing else is in the browser's page. Then its address is the choice.
        choice: initial choices that replace those of `choices.CHOICE`; `encoder` may be the path of
            a weights file.

    Raises:
        InputError: one of the styles cannot be read.
    """
    sources = list(dict.fromkeys([*map(str, styles), *STYLE_NAMES]))
    chosen = {**CHOICE, "style": sources[0], **choice}
    if chosen["encoder"] not in ENCODERS:
        chosen |= {"encoder": "file", "weights": str(chosen["encoder"])}
    view = View(Session(), References(None if references is None else Path(references)))
    options = {**OPTIONS, "largest_upload": LARGEST_UPLOAD, "engine": ENGINE, "address": is_alone}
    tiles = [tile(source) for source in sources]
    return LivePage(view, Path(out), styles=tiles, choice=chosen, options=options)


class LivePage(anywidget.AnyWidget):
    """The page as a widget: `state` and the pictures go to the browser, wishes come from it."""

    _esm = FRONT_END
    _css = STYLE_SHEET
    options = traitlets.Dict().tag(sync=True)
    styles: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    style_picture = traitlets.Bytes().tag(sync=True)
    picture_0 = traitlets.Bytes().tag(sync=True)
    picture_1 = traitlets.Bytes().tag(sync=True)
    picture_2 = traitlets.Bytes().tag(sync=True)
    picture_3 = traitlets.Bytes().tag(sync=True)

    def __init__(self, view: View, out: Path, **traits: Any) -> None:
        self.view, self.session, self.out = view, view.session, out
        self._uploads: dict[str, Path] = {}
        self._received = b""
        self._sent: dict[str, Pixels] = {}
        self._reply: dict[str, Any] = {}
        self._tick = self._seen = 0
        self._heard = 0.0
        self._sending = threading.RLock()
        super().__init__(state=self._state(view.look()[0]), **traits)
        self.on_msg(self._receive)

    # --- Wishes --------------------------------------------------------------------------------

    def _receive(self, _: object, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        """Carry out the wish in a message from the browser; if that fails, the page says why."""
        self._heard = time.monotonic()
        wish = content.pop("do")
        if wish == "seen":
            self._seen = content["tick"]
            return
        self._reply = {}
        try:
            if wish in ("start", "upload", "save"):
                getattr(self, f"_{wish}")(*map(bytes, buffers), **content)
            elif wish == "reset":
                self.session.clear()
            elif wish in ("pause", "resume", "step", "skip", "stop"):
                self.session.tell(wish)
        except InputError as error:
            self._reply = {"message": sentence(str(error)), "bad": True}
        self._show()

    def _start(self, choice: dict[str, Any]) -> None:
        # A name that the page does not offer could be any file of this machine.
        style = one_of("style", choice["style"], tuple(s["value"] for s in self.styles))
        self.session.start(runs_of({**choice, "style": str(self._uploads.get(style, style))}))
        with self._sending:
            self._sent = {}
            for name in ("style_picture", *PICTURES):
                setattr(self, name, b"")
        threading.Thread(target=self._watch, name="styleinv view", daemon=True).start()

    def _upload(self, piece: bytes = b"", *, name: str, size: int, start: int) -> None:
        """Take a piece of the reader's file; with the last one, offer it among the styles.

        Jupyter closes a connection over a message of more than 10 MB, hence the pieces.
        """
        if size > LARGEST_UPLOAD:
            raise InputError(
                f"file {name!r} has {size >> 20:,} MB, but must have at most {LARGEST_UPLOAD >> 20}"
            )
        self._received = self._received[:start] + piece
        if len(self._received) < size:
            return
        content, self._received = self._received, b""
        path, notes = self.session.take_upload(name, content)
        key = f"upload:{len(self._uploads)}"
        self._uploads[key] = path
        oldest = list(self._uploads)[:-MOST_UPLOADS]
        if not self.session.is_alive():
            self.session.clear()
        with self._sending:
            kept = [style for style in self.styles if style["value"] not in oldest]
            self.styles = [{**tile(path), "value": key}, *kept]
        self._reply = {"message": " ".join(map(sentence, notes))}

    def _save(self) -> None:
        records = self.session.save(self.out)
        self._reply = {
            "message": f"Saved with a record beside each picture in the folder {self.out.name}.",
            "saved": [record.with_suffix(".png").name for record in records],
        }

    # --- What is shown -------------------------------------------------------------------------

    def _watch(self) -> None:
        """Show the session until its runs have ended; stop them if no window answers any more."""
        batch, self._heard = self.session.batch, time.monotonic()
        try:
            while self.session.is_alive() and batch == self.session.batch:
                began = time.monotonic()
                if self._seen == self._tick:
                    self.session.want_pictures()
                    self._show()
                elif began - self._heard > SILENCE:
                    self.session.tell("stop")
                cost = time.monotonic() - began
                self.session.join(max(FRAME_SECONDS, cost / FRAME_SHARE))
            self._show()
        except BaseException:
            self.session.tell("stop")  # otherwise the run would go on unseen
            raise

    def _show(self) -> None:
        """Send what has changed."""
        with self._sending:
            state, pictures, style = self.view.look()
            with self.hold_sync():
                shown = {"style_picture": style, **dict(zip(PICTURES, pictures, strict=False))}
                for name, pixels in shown.items():
                    if pixels is not None and self._sent.get(name) is not pixels:
                        self._sent[name] = pixels
                        setattr(self, name, png(pixels))
                self.state = self._state(state)

    def _state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The view's state with the reply to the last wish, and the number of this frame."""
        self._tick += 1
        return {**state, "saved": [], "tick": self._tick, **self._reply}


def tile(source: str | Path) -> dict[str, Any]:
    """A style as the page offers it: value, label and a small picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run or an upload shows them
        picture = png(to_uint8(load_style(source, THUMBNAIL)))
    label = short_name(public_name(source)).replace("_", " ")
    return {"value": str(source), "label": label, "picture": picture}


def png(pixels: Pixels) -> bytes:
    """Encode the pixels as a PNG file, for speed rather than for size."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()
