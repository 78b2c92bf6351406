"""The record of a finished run: what was asked, what came out, what computed it, as typed values.

A record is JSON: a file of its own beside the picture, or one line of a sweep's `runs.jsonl`
(`styleinv.runs.store`). Fields that only some runs have are absent from the others.
"""

import msgspec
from msgspec import UNSET, UnsetType

from styleinv.inversion import Task, json_sha256
from styleinv.protocol import get_protocol

Number = int | float


class _Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable; a record with other fields is refused."""


class WarmupStage(_Plain, frozen=True):
    """A stage before the exact loss, see `styleinv.protocol.Warmup`."""

    loss: str
    share: Number
    enough: Number


class Settings(_Plain, frozen=True):
    """What a protocol meant for one cell, see `styleinv.protocol.Protocol.settings`."""

    name: str
    convention: str
    method: str
    noise: str
    budget: int
    theta: Number | None
    weight: Number
    seconds: Number | None
    # L-BFGS alone:
    memory: int | UnsetType = UNSET
    warmups: tuple[WarmupStage, ...] | UnsetType = UNSET
    # Adam alone:
    extra_rounds: int | UnsetType = UNSET
    extra_iterations: int | UnsetType = UNSET
    extra_above: Number | UnsetType = UNSET
    learning_rate: Number | UnsetType = UNSET
    betas: tuple[Number, Number] | UnsetType = UNSET


class Asked(_Plain, frozen=True):
    """Everything that determines a result, see `styleinv.inversion.Task.asked`."""

    style_sha256: str
    height: int
    width: int
    layer: str
    loss: str
    encoder: str
    encoder_sha256: str
    device: str
    dtype: str
    seed: int
    protocol: Settings
    alpha: Number | UnsetType = UNSET

    @property
    def address(self) -> str:
        """SHA-256 of these values in canonical JSON."""
        return json_sha256(msgspec.to_builtins(self))


class Result(_Plain, frozen=True):
    """What came out; `pixels_sha256` is of the 8-bit picture."""

    loss: Number
    iterations: int
    evaluations: int
    seconds: Number
    stop_reason: str
    pixels_sha256: str
    not_finite: str | UnsetType = UNSET
    negative_psi: tuple[int, ...] | UnsetType = UNSET


class MadeWith(_Plain, frozen=True):
    """What computed it.

    `results` is the version that decides (`styleinv.inversion.RESULTS_VERSION`); the others inform.
    `code` is the hash of the source files that releases before 0.2 noted.
    """

    results: int
    styleinv: str
    torch: str
    python: str
    device: str
    processor: str
    threads: int
    date: str
    code: str | UnsetType = UNSET


class TracePoint(_Plain, frozen=True, array_like=True):
    """The exact loss at one iterate, see `styleinv.optim.TracePoint`; in JSON an array."""

    iteration: int
    evaluations: int
    loss: Number
    seconds: Number
    stage: str


class Measures(_Plain, frozen=True):
    """What was measured of the picture, see `styleinv.runs.measures.measure`.

    `version` is that of the code that measured (`styleinv.runs.measures.VERSION`).
    """

    version: int
    structure_size: Number
    size_to_style: Number
    colour_distance: Number
    noise: Number
    artefacts: Number
    artefact_area: Number
    psnr: Number
    psnr_of_pairs: Number
    ssim: Number
    artefact_grid: tuple[Number, ...]


class Record(_Plain, frozen=True, omit_defaults=True):
    """A finished run. `picture` is False where only the record is kept; `sha256` seals the rest."""

    address: str
    style: str
    source: str
    asked: Asked
    result: Result
    made_with: MadeWith
    trace: tuple[TracePoint, ...]
    measures: Measures
    picture: bool = True
    sha256: str = ""

    @property
    def theta(self) -> float | None:
        """Theta on the scale of the trace, which holds the loss without the protocol's weight."""
        protocol = self.asked.protocol
        return None if protocol.theta is None else protocol.theta / protocol.weight

    @property
    def is_repeatable(self) -> bool:
        """Whether the run is what was asked for: not stopped by a reader, nor by the clock."""
        return self.result.stop_reason not in ("time", "stopped")

    @property
    def is_intact(self) -> bool:
        """Whether the record is as it was written."""
        return self.sha256 == seal(self) and self.address == self.asked.address

    @property
    def iterations_asked(self) -> int | None:
        """The `iterations` that the run was asked for with; None for its protocol's own budget."""
        given = self.asked.protocol
        own = get_protocol(given.name).settings(self.asked.loss, self.asked.layer)
        # Asking for iterations also takes the protocol's limit of time and its extra rounds away.
        untouched = given.seconds is not None or own["seconds"] is None
        rounds = own.get("extra_rounds", UNSET)
        same = given.budget == own["budget"] and given.extra_rounds == rounds
        return None if untouched and same else given.budget


def asked_of(task: Task) -> Asked:
    """What the record of a task's run says that it was asked for."""
    return msgspec.convert(task.asked(), Asked)


def seal(record: Record) -> str:
    """SHA-256 of everything else in a record, in canonical JSON: what its `sha256` says."""
    return json_sha256(msgspec.to_builtins(msgspec.structs.replace(record, sha256="")))


def sealed(record: Record) -> Record:
    """The record with its seal."""
    return msgspec.structs.replace(record, sha256=seal(record))


def file_name(record: Record) -> str:
    """The name of a record's file; its picture's differs in the suffix."""
    return name_of(record.style, record.asked)


def name_of(style: str, asked: Asked) -> str:
    """A name that is readable in front, with the address's first digits behind."""
    cell = f"{asked.layer}-{asked.loss}-seed{asked.seed}"
    # File systems allow 255 bytes; a character can take four of them.
    return f"{style[:40]}-{cell}-{asked.address[:8]}.json"


def unit_of(protocol: Settings) -> str:
    """What the budget in a protocol's settings counts."""
    return "iteration" if protocol.method == "adam" else "evaluation"


def budget_of(protocol: Settings) -> str:
    """The budget in a protocol's settings, with its unit."""
    return f"{protocol.budget:,} {unit_of(protocol)}{'s' * (protocol.budget != 1)}"


def duration(seconds: float) -> str:
    """Some seconds, in words that fit a table."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}:{minutes:02} h"
    if minutes:
        return f"{minutes}:{rest:02} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
