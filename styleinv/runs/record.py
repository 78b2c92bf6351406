"""What records say, in words and numbers for tables."""

from collections.abc import Mapping
from typing import Any

from styleinv.protocol import get_protocol

Record = Mapping[str, Any]


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


def duration(seconds: float) -> str:
    """Some seconds, in words that fit a table."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}:{minutes:02} h"
    if minutes:
        return f"{minutes}:{rest:02} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
