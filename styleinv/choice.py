"""What a reader chooses to see a run, control by control, and where the explorer shows it."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from styleinv import gallery
from styleinv.encoder import LAYERS, SOURCES
from styleinv.images import BUNDLED, SCIKIT_IMAGE, short_name
from styleinv.losses import LOSSES, TITLES
from styleinv.protocol import KNOWN, get_protocol

Record = Mapping[str, Any]

STYLES = (
    *(BUNDLED + name for name in gallery.STYLES),
    *(SCIKIT_IMAGE + name for name in gallery.SCIKIT_IMAGE),
)


class Option(NamedTuple):
    """One value of a control, what it is called, and its place among the others."""

    value: str
    label: str
    place: tuple[int, ...]


def link_to(record: Record) -> str:
    """The URL fragment, with its #, at which the explorer shows a record."""
    return "#" + urlencode({name: option.value for name, option in options_of(record).items()})


def options_of(record: Record) -> dict[str, Option]:
    """What a reader would have to choose to see a record, by control."""
    asked, source = record["asked"], record["source"]
    layer, loss, seed, encoder = (asked[key] for key in ("layer", "loss", "seed", "encoder"))
    height, width = asked["height"], asked["width"]
    size = str(width) if width == height else f"{width}x{height}"
    protocol, budget = asked["protocol"]["name"], asked["protocol"]["budget"]
    place = _place(protocol, KNOWN)
    optimiser = Option(protocol, protocol, (*place, 0))
    if protocol in KNOWN and budget != KNOWN[protocol].budget(loss, layer):
        label = f"{protocol}, {budget_of(asked['protocol'])}"
        optimiser = Option(f"{protocol}-{budget}", label, (*place, budget))
    return {
        "style": Option(source, short_name(source), _place(source, STYLES)),
        "layer": Option(layer, layer, _place(layer, LAYERS)),
        "loss": _loss_of(asked),
        "seed": Option(str(seed), str(seed), (seed,)),
        "protocol": optimiser,
        # A seed follows the name of random weights: the control comes last.
        "encoder": Option(encoder, encoder, _place(encoder.partition(" ")[0], SOURCES)),
        "size": Option(size, f"{size.replace('x', ' x ')} px", (width, height)),
    }


def _loss_of(asked: Record) -> Option:
    loss, place = asked["loss"], _place(asked["loss"], LOSSES)
    if "alpha" not in asked:
        return Option(loss, title_of(loss), place)
    alpha = f"{asked['alpha']:g}"
    return Option(f"{loss}-{alpha}", f"{title_of(loss)}, alpha {alpha}", (*place, 1))


def _place(name: str, known: Iterable[str]) -> tuple[int, ...]:
    """Where `name` comes in the order of `known`; what is not known comes first."""
    return (list(known).index(name) + 1 if name in known else 0, *name.encode())


def theta_of(record: Record) -> float | None:
    """Theta on the scale of the trace, which holds the loss without the protocol's weight."""
    protocol = record["asked"]["protocol"]
    return None if protocol["theta"] is None else protocol["theta"] / protocol["weight"]


def iterations_of(record: Record) -> int | None:
    """The `iterations` that a run was asked for with; None for its protocol's own budget."""
    asked = record["asked"]
    given = asked["protocol"]
    own = get_protocol(given["name"]).settings(asked["loss"], asked["layer"])
    # Asking for iterations also takes the protocol's limit of time and its extra rounds away.
    untouched = given["seconds"] is not None or own["seconds"] is None
    same = all(given.get(name) == own.get(name) for name in ("budget", "extra_rounds"))
    return None if untouched and same else given["budget"]


def unit_of(protocol: Record) -> str:
    """What the budget in a protocol's settings counts."""
    return "iteration" if protocol["method"] == "adam" else "evaluation"


def budget_of(protocol: Record) -> str:
    """The budget in a protocol's settings, with its unit."""
    return f"{protocol['budget']:,} {unit_of(protocol)}{'s' * (protocol['budget'] != 1)}"


def title_of(loss: str) -> str:
    """What tables and figures call a loss, known here or not."""
    return TITLES.get(loss, loss)


def duration(seconds: float) -> str:
    """Some seconds, in words that fit a table."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}:{minutes:02} h"
    if minutes:
        return f"{minutes}:{rest:02} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
