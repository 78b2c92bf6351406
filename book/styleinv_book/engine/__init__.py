"""The engine that inverts images in a reader's browser, without a server.

The mathematics is the module's: the bundled encoder, the chapter's losses, projected L-BFGS and
Adam, with the settings of `styleinv.protocol`. It computes in one thread of WebAssembly with SIMD
(`kernel.c`): several threads would need shared memory, for which a page must be served with headers
that static hosts do not let one set. WebGPU is not used, because no machine with a GPU was at hand
to check that a golden evaluation agrees.

Its memory belongs to a run and goes with it: about 3 kB per pixel at the deepest layer.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from styleinv.encoder import LAYERS, load_encoder
from styleinv.protocol import PROTOCOLS

_FOLDER = Path(__file__).parent
KERNEL = _FOLDER / "kernel.wasm"
# In the order in which they use each other; classic scripts that share one scope.
_ENGINE = ("noise.js", "features.js", "statistics.js", "descent.js", "engine.js")
# What the engine has of the module.
LOSSES = ("gram", "moment-1", "moment-2", "moment-3", "moment-4", "mmd")
OFFERED = ("fast", "from-noise", "chapter")


def engine_script() -> str:
    """The source of the engine: a classic script that defines `createEngine` and `uniformNoise`."""
    settings = {
        name: {
            loss: {layer: PROTOCOLS[name].settings(loss, layer) for layer in LAYERS}
            for loss in LOSSES
        }
        for name in OFFERED
    }
    own = f"const PROTOCOLS = {json.dumps(settings)};"
    sources = (_FOLDER.joinpath(name).read_text(encoding="utf-8") for name in _ENGINE)
    return "\n".join(('"use strict";', own, *sources))


def worker_script() -> str:
    """The source of the Web Worker: the engine, and the loop around it."""
    return f"{engine_script()}\n{_FOLDER.joinpath('worker.js').read_text(encoding='utf-8')}"


def weights() -> bytes:
    """The bundled encoder for the engine: float32, little-endian, 1 MB.

    For each convolution in turn its kernels (D, C, 3, 3) and its biases (D,). The 1x1 convolution
    of the pixels is merged into the first, as borders by reflection allow. With float16, gradients
    would be wrong by up to 2%.
    """
    parts = [values.ravel() for pair in _convolutions() for values in pair]
    return np.concatenate(parts).astype("<f4").tobytes()


def _convolutions() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Kernels and biases of the bundled encoder."""
    state = {
        key: value.double().numpy() for key, value in load_encoder("bundled").state_dict().items()
    }
    pairs = [(state[f"convs.{k}.weight"], state[f"convs.{k}.bias"]) for k in range(len(LAYERS))]
    kernels, bias = pairs[0]
    shift = np.einsum("ocyx,c->o", kernels, state["input_bias"])
    mixed = np.einsum("ocyx,ci->oiyx", kernels, state["input_weight"][:, :, 0, 0])
    return [(mixed, bias + shift), *pairs[1:]]
