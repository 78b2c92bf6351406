"""The choices on the live page, and the runs that a choice stands for."""

from collections.abc import Mapping
from typing import Any

from styleinv.encoder import LAYERS
from styleinv.errors import InputError, one_of, whole_number
from styleinv.images import STYLE_NAMES
from styleinv.live.labels import title_of
from styleinv.losses import ALPHA, LOSSES, WITH_ALPHA
from styleinv.protocol import PROTOCOLS
from styleinv.styles import LARGEST_SEED, MAX_SIZE, MIN_SIZE

ENCODERS = {
    "bundled": "bundled",
    "vgg19": "VGG-19 (downloads 548 MB once)",
    "vgg19-normalised": "VGG-19 of the reference runs (downloads 80 MB once)",
    "random": "random weights",
    "file": "a weights file",
}
# The reader's own images that a page offers; the oldest go.
MOST_UPLOADS = 12
# The options of the page, as lists of (value, title). `adam` lists the protocols that can draw new
# pairs at every iteration; `size` has the bounds of the size and the values to suggest.
OPTIONS: dict[str, Any] = {
    "layer": [(layer, layer) for layer in LAYERS],
    "loss": [(loss, title_of(loss)) for loss in LOSSES if loss != "mmd-random"],
    "pairing": [("adjacent", "neighbours"), ("random", "drawn anew (Adam)")],
    "protocol": [(p.name, f"{p.name} ({p.method})") for p in PROTOCOLS.values()],
    "encoder": list(ENCODERS.items()),
    "size": {
        "min": MIN_SIZE,
        "max": MAX_SIZE,
        "step": 1,
        "offered": [64, 128, 192, 256, 384, 512],
    },
    "adam": [p.name for p in PROTOCOLS.values() if p.method == "adam"],
    "most_uploads": MOST_UPLOADS,
}
# The initial choice.
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


def runs_of(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that a choice stands for, in order, each as the arguments of `inversion.plan`.

    Args:
        choice: a value for every key of `CHOICE`.

    Raises:
        InputError: a number is missing or out of range, the weights file has no name, or `show` is
            unknown.
    """
    cell = (choice["layer"], choice["loss"])
    cells = {
        "one": [cell],
        "compare": [cell, (choice["other_layer"], choice["other_loss"])],
        "layers": [(layer, choice["loss"]) for layer in LAYERS],
        "moments": [(choice["layer"], f"moment-{n}") for n in range(1, 5)],
    }
    shown = cells[one_of("show", choice["show"], tuple(cells))]
    encoder = choice["encoder"]
    if encoder == "file":
        encoder = choice["weights"].strip()
        if not encoder:
            raise InputError("encoder is a weights file, but the field for its name is empty")
    common = {
        "style": choice["style"],
        "protocol": choice["protocol"],
        "size": whole_number("size", choice["size"], MIN_SIZE, MAX_SIZE),
        "seed": whole_number("seed", choice["seed"], 0, LARGEST_SEED),
        "encoder": encoder,
    }
    return [{**common, "layer": layer, **_loss_arguments(loss, choice)} for layer, loss in shown]


def _loss_arguments(loss: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """The loss and, for MMD, the chosen kernel width and pairing."""
    if loss not in WITH_ALPHA:
        return {"loss": loss}
    if not isinstance(choice["alpha"], int | float):
        raise InputError("alpha, the kernel width, must be a number greater than 0")
    is_random = choice["pairing"] == "random"
    return {"loss": "mmd-random" if is_random else "mmd", "alpha": choice["alpha"]}
