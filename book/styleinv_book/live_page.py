"""The live page of the published book: the front end of `styleinv.live`, without Python.

The notebook has `fragment`; the Sphinx extension calls `write` for the files that it refers to. The
front end is that of Python's own page, with a model (`engine/page_model.js`) that computes in the
browser. All files are scripts, even those that hold bytes: a page that is opened from a folder may
load nothing else. The engine and the pixels of a style are loaded when a run needs them. Addresses
end in a hash of the content (`page.js?0123abcd`), so that no browser uses one of its kept files
beside new ones.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from styleinv import __version__
from styleinv.encoder import LAYERS, load_encoder
from styleinv.files import write_text
from styleinv.images import BUNDLED, load_style, public_name, to_uint8
from styleinv.live.choices import CHOICE, OPTIONS
from styleinv.live.labels import COLOURS, TITLES
from styleinv.live.view import SHADES
from styleinv.live.widget import FRONT_END, STYLE_SHEET, png, tile
from styleinv.protocol import PROTOCOLS, Protocol
from styleinv.styles import PAINTED
from styleinv_book import engine
from styleinv_book.rendering import render

# The files as seen from a page; all pages are one folder down.
FOLDER = "live"
ENGINE = Path(__file__).with_name("engine")
# In pixels. The painted styles are painted at each of them, because that is what Python does.
SIZES = (32, 64, 96, 128, 160, 192)
SIZE = 64
ALLOWED = (
    f"Sizes: {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}; larger ones would take too "
    "long, because the page computes with one thread of the browser."
)
# The engine's generator takes 32 bits of a seed, as PyTorch's does.
LARGEST_SEED = 2**32 - 1
LARGEST_UPLOAD = 64 * 2**20


def fragment(styles: Sequence[str], *, instead: str, **choice: Any) -> str:
    """The live page as a fragment of HTML.

    Args:
        styles: the first is chosen. Those that are not painted are embedded, at the largest size.
        instead: what is shown without JavaScript, HTML.
        choice: initial choices that replace those of `styleinv.live.choices.CHOICE`.

    Raises:
        InputError: one of the styles cannot be read.
    """
    own = [style for style in styles if not style.startswith(BUNDLED)]
    embedded = [
        _json_tile(style) | {"content": _base64(png(to_uint8(load_style(style, SIZES[-1]))))}
        for style in own
    ]
    given = {"choice": {"style": public_name(styles[0]), **choice}, "styles": embedded}
    files = {
        "style_sheet": _hashed("page.css", STYLE_SHEET),
        "script": _hashed("page.js", _script()),
    }
    return render("live.html.j2", folder=f"../{FOLDER}", given=given, instead=instead, **files)


def write(folder: Path) -> None:
    """Write the files of the page into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "page.css", STYLE_SHEET)
    write_text(folder / "page.js", _script())
    write_text(folder / "engine.js", _engine())
    for name in PAINTED:
        for size in SIZES:
            pixels = to_uint8(load_style(BUNDLED + name, size))
            text = _said(f"{name}-{size}", _base64(pixels.tobytes()))
            write_text(folder / f"{name}-{size}.js", text)


def _hashed(name: str, content: str) -> str:
    """The address of a file, which changes with the content."""
    return f"{name}?{hashlib.sha256(content.encode()).hexdigest()[:8]}"


@functools.cache
def _script() -> str:
    """What makes the page: the front end, the tables and the model, in scopes of their own."""
    # A module's `export` has no place in a script.
    front_end = FRONT_END.replace("export default", "frontEnd =")
    model = (ENGINE / "page_model.js").read_text("utf-8")
    return (
        "(() => {\n'use strict';\nlet frontEnd;\n"
        f"{{\n{front_end}\n}}\nconst page = {json.dumps(_tables())};\n{{\n{model}\n}}\n}})();\n"
    )


def _tables() -> dict[str, Any]:
    """What the page's model needs to know of the module, as JSON values."""
    own = [PROTOCOLS[name] for name in engine.OFFERED]
    encoder = load_encoder("bundled")
    styles = [_json_tile(BUNDLED + name) for name in PAINTED]
    options = OPTIONS | {
        "engine": {"name": "browser", "version": __version__},
        "address": True,
        "size": {
            "min": SIZES[0],
            "max": SIZES[-1],
            "step": 32,
            "offered": SIZES,
            "note": f"Up to {SIZES[-1]} pixels, or fewer if this device is slow. {ALLOWED}",
            "allowed": ALLOWED,
        },
        "largest_upload": LARGEST_UPLOAD,
        "loss": [option for option in OPTIONS["loss"] if option[0] in engine.LOSSES],
        "pairing": OPTIONS["pairing"][:1],
        "protocol": [option for option in OPTIONS["protocol"] if option[0] in engine.OFFERED],
        "encoder": [("bundled", "bundled")],
        "adam": [p.name for p in own if p.method == "adam"],
    }
    return {
        "options": options,
        "choice": CHOICE | {"size": SIZE},
        "styles": styles,
        "addresses": _addresses(styles),
        "titles": TITLES,
        "colours": {loss: COLOURS[loss] for loss in engine.LOSSES} | {"gram": "var(--ink)"},
        "shades": SHADES,
        "encoder": {"name": encoder.name, "sha256": encoder.sha256[:12]},
        "largest_seed": LARGEST_SEED,
        "budgets": {p.name: {loss: _budgets(p, loss) for loss in engine.LOSSES} for p in own},
        "thetas": {p.name: {loss: p.theta_of(loss) for loss in engine.LOSSES} for p in own},
    }


def _budgets(protocol: Protocol, loss: str) -> dict[str, int]:
    return {layer: protocol.budget(loss, layer) for layer in LAYERS}


def _addresses(styles: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The addresses of the files that are loaded when they are needed.

    Those of a style's pixels have the hash of its tile, which the same painter paints: a page needs
    not paint all sizes to name them.
    """
    return {"engine": _hashed("engine.js", _engine())} | {
        f"{name}-{size}": _hashed(f"{name}-{size}.js", style["picture"])
        for name, style in zip(PAINTED, styles, strict=True)
        for size in SIZES
    }


def _engine() -> str:
    """What computes: the programs of its workers, the kernel, the weights."""
    content = {
        "program": engine.worker_script(),
        "ownImage": (ENGINE / "own_image.js").read_text("utf-8"),
        "wasm": _base64(engine.KERNEL.read_bytes()),
        "weights": _base64(engine.weights()),
    }
    return _said("engine", content)


def _said(name: str, content: Any) -> str:
    """A script that holds a content for the page's model."""
    return f"styleinvFiles[{json.dumps(name)}] = {json.dumps(content)};\n"


def _json_tile(source: str) -> dict[str, Any]:
    """The style's tile, with its picture as JSON can hold it, and without a file's folder."""
    own = tile(source)
    return own | {"value": public_name(source), "picture": _base64(own["picture"])}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
