"""The record of a finished run: what was asked for, what came out, and what computed it.

In a file, a record is JSON (see `styleinv.runs.store`). Fields that only some runs have are absent
from the others; here they are `UNSET`.
"""

import re
import unicodedata
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from styleinv.inversion import RESULTS_VERSION, Task, json_sha256
from styleinv.protocol import PROTOCOLS, told_beyond

# No integer is larger than a float can be.
Number = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float
# What is refused in names by Windows' file systems, which most USB sticks have, or by UTF-8.
_REFUSED = re.compile(r'[\x00-\x1f\x7f"*/:<>?\\|\ud800-\udfff]')
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
# A part of a file's name.
Name = Annotated[str, msgspec.Meta(pattern=r"^[^/\x00]*$")]


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable typed values. A file with any other field is refused."""


class WarmupStage(Plain, frozen=True):
    """A stage that precedes the exact loss, see `styleinv.protocol.Warmup`."""

    loss: str
    share: Number
    enough: Number


class Settings(Plain, frozen=True):
    """A protocol's settings for one layer and loss, see `styleinv.protocol.Protocol.settings`.

    Attributes:
        budget: the largest number of iterations (Adam) or evaluations (L-BFGS).
        theta: the run stops once the loss times `weight` is below it; None for no such rule.
        seconds: limit of the wall time; None for no limit.
    """

    name: str
    convention: str
    method: str
    noise: str
    budget: int
    theta: Number | None
    weight: Number
    seconds: Number | None
    # Only L-BFGS has these.
    memory: int | UnsetType = UNSET
    warmups: tuple[WarmupStage, ...] | UnsetType = UNSET
    # Only losses with `Protocol.least_gains` have this.
    least_gain: Number | UnsetType = UNSET
    # Only Adam has these.
    extra_rounds: int | UnsetType = UNSET
    extra_iterations: int | UnsetType = UNSET
    extra_above: Number | UnsetType = UNSET
    learning_rate: Number | UnsetType = UNSET
    betas: tuple[Number, Number] | UnsetType = UNSET


class Asked(Plain, frozen=True):
    """Everything that determines a result, see `styleinv.inversion.Task.asked`.

    Attributes:
        style_sha256: hash of the style image's float32 values.
        height, width: size of the picture in pixels.
        alpha: the kernel width of the MMD, where it is not the default.
    """

    style_sha256: str
    height: int
    width: int
    layer: Name
    loss: Name
    encoder: str
    encoder_sha256: str
    device: str
    dtype: str
    seed: int
    protocol: Settings
    alpha: Number | UnsetType = UNSET

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages before the exact loss."""
        return tuple(stage.loss for stage in self.protocol.warmups or ())

    @property
    def told(self) -> tuple[str, ...]:
        """What the run was told beyond its loss, see `styleinv.protocol.told_beyond`."""
        return told_beyond(self.loss, self.protocol.noise, self.stages)

    @property
    def address(self) -> str:
        """SHA-256 of these values in canonical JSON."""
        return json_sha256(msgspec.to_builtins(self))


class Result(Plain, frozen=True):
    """What came out of a run.

    Attributes:
        loss: the exact loss of the picture, without the protocol's weight.
        seconds: wall time.
        stop_reason: see `styleinv.optim.Monitor`.
        pixels_sha256: hash of the 8-bit picture.
        not_finite: what was not a finite number first, where that ended the run.
        negative_psi: the moments whose psi is an absolute value, see `styleinv.losses.MomentLoss`.
    """

    loss: Number
    iterations: int
    evaluations: int
    seconds: Number
    stop_reason: str
    pixels_sha256: str
    not_finite: str | UnsetType = UNSET
    negative_psi: tuple[int, ...] | UnsetType = UNSET


class MadeWith(Plain, frozen=True):
    """What computed a run.

    Attributes:
        results: version of the results, `styleinv.inversion.RESULTS_VERSION`. It alone decides
            whether a kept run is still valid; the other fields are information.
        code: hash of the source files, which only releases before 0.2 recorded.
        together: the largest number of runs that were made side by side, and that share the
            seconds, if this one was in a batch.
    """

    results: int
    styleinv: str
    torch: str
    python: str
    device: str
    processor: str
    threads: Annotated[int, msgspec.Meta(ge=1)]
    date: str
    code: str | UnsetType = UNSET
    together: int | UnsetType = UNSET


class TracePoint(Plain, frozen=True, array_like=True):
    """The exact loss at one iterate, see `styleinv.optim.TracePoint`. In JSON it is an array."""

    iteration: int
    evaluations: int
    loss: Number
    seconds: Number
    stage: str


class _OfStructures:
    """What `Measures` and `Along` have in common. The order of their fields is that in files."""

    structures: tuple[Number, ...]

    @property
    def structure(self) -> float:
        """How well structures of all sizes are kept: the mean of `structures`."""
        return sum(self.structures) / len(self.structures)


class Measures(_OfStructures, Plain, frozen=True):
    """Measures of the picture, see `styleinv.runs.measures.measure`.

    `version` is `styleinv.runs.measures.VERSION` as it was when the picture was measured.
    """

    version: int
    structures: Annotated[tuple[Number, ...], msgspec.Meta(min_length=5, max_length=5)]
    largest_kept: Number
    largest_to_style: Number
    colour_distance: Number
    colour: Number
    noise: Number
    artefacts: Number
    artefact_area: Number
    psnr: Number
    psnr_of_pairs: Number
    ssim: Number
    artefact_grid: Annotated[tuple[Number, ...], msgspec.Meta(min_length=64, max_length=64)]
    in_place: Number | UnsetType = UNSET
    artefact_excess: Number | UnsetType = UNSET


class Along(_OfStructures, Plain, frozen=True, array_like=True):
    """Measures of an iterate that was kept, see `styleinv.optim.Kept`. In JSON it is an array.

    None is what an earlier version measured in another way: the picture is no longer there.
    """

    loss: Number
    iteration: int
    evaluations: int
    structures: tuple[Number, ...]
    largest_kept: Number
    colour_distance: Number | None
    colour: Number | None
    noise: Number
    artefacts: Number | None
    artefact_area: Number | None


class Record(Plain, frozen=True, omit_defaults=True):
    """A finished run.

    Attributes:
        address: `Asked.address` of what was asked for.
        style: short name of the style image.
        source: where the style image came from, see `styleinv.inversion.Task`.
        measures: absent where the picture is not kept and was measured by an older version.
        picture: False if the record is kept without its picture.
        notes: what was done to the style image, such as a conversion of its colours.
        along: measures of the iterates on the way, if the run was asked to keep them.
        sha256: the seal, see `sealed`.
    """

    address: Sha256
    style: Name
    source: str
    asked: Asked
    result: Result
    made_with: MadeWith
    trace: tuple[TracePoint, ...]
    measures: Measures | UnsetType = UNSET
    picture: bool = True
    notes: tuple[str, ...] = ()
    along: tuple[Along, ...] = ()
    sha256: str = ""

    @property
    def theta(self) -> float | None:
        """Theta divided by the protocol's weight, so that it compares with the trace's losses."""
        protocol = self.asked.protocol
        return None if protocol.theta is None else protocol.theta / protocol.weight

    @property
    def is_repeatable(self) -> bool:
        """Whether this version would get the same result: nothing but the run itself ended it."""
        is_current = self.made_with.results == RESULTS_VERSION
        return is_current and self.result.stop_reason not in ("time", "stopped")

    @property
    def is_intact(self) -> bool:
        """Whether nobody has altered the record since it was written."""
        return self == sealed(self) and self.address == self.asked.address

    @property
    def file_name(self) -> str:
        """The name of the record's file. The picture's is the same with the suffix .png."""
        return name_of(self.style, self.asked, self.address)

    @property
    def iterations_asked(self) -> int | None:
        """The argument `iterations` of the run; None if the protocol's own budget was used.

        None as well for a protocol that is not one of `PROTOCOLS`: its own budget is not known.
        """
        given = self.asked.protocol
        if given.name not in PROTOCOLS:
            return None
        own = PROTOCOLS[given.name].settings(self.asked.loss, self.asked.layer)
        return None if given == msgspec.convert(own, Settings) else given.budget


def asked_of(task: Task) -> Asked:
    """What determines the result of `task`, as its record will hold it."""
    return msgspec.convert(task.asked(), Asked)


def sealed(record: Record, **values: object) -> Record:
    """The record with other values of some fields, and its seal.

    The seal is the SHA-256 of all other fields in canonical JSON.
    """
    bare = msgspec.structs.replace(record, **values, sha256="")
    return msgspec.structs.replace(bare, sha256=json_sha256(msgspec.to_builtins(bare)))


def name_of(style: str, cell: Task | Asked, address: str) -> str:
    """The name of a record's file: readable, and unique through the start of the address."""
    # Encrypted folders allow names of 143 bytes, and a character may take four of them.
    plain = _REFUSED.sub("-", unicodedata.normalize("NFC", style)).lstrip(" .-")[:40]
    short = plain.encode()[:72].decode(errors="ignore") or "style"
    return f"{short}-{cell.layer}-{cell.loss}-seed{cell.seed}-{address[:8]}.json"


def unit_of(protocol: Settings) -> str:
    """What a protocol's budget counts: iterations or evaluations, in the singular."""
    return "iteration" if protocol.method == "adam" else "evaluation"


def budget_of(protocol: Settings) -> str:
    """A protocol's budget with its unit, such as "1,000 evaluations"."""
    return f"{protocol.budget:,} {unit_of(protocol)}{'s' * (protocol.budget != 1)}"
