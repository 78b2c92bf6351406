"""Make a kept run again: the task that its record describes, on as many threads."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from styleinv.encoder import Encoder
from styleinv.errors import InputError
from styleinv.images import Fit
from styleinv.inversion import Task, plan
from styleinv.losses import ALPHA
from styleinv.runs import store
from styleinv.runs.record import Asked, Record, asked_of

# Encoders that need neither a file nor a download.
OFFLINE = ("bundled", "random")
# What a difference is called where it is not called as in the record.
WORDS = {"style_sha256": "style image", "encoder_sha256": "encoder"}


def read_record(path: Path) -> Record:
    """The record at `path`, a JSON file, or of the picture at `path`; it may be a packed one.

    Raises:
        InputError: there is no such record, or it cannot be read.
    """
    file = path.with_suffix(".json") if path.suffix == ".png" else path
    if not file.exists() or file.is_file():
        with suppress(FileNotFoundError):
            return store.read_record(file)
    raise InputError(f"record {str(path)!r} is not an existing file, nor packed in its folder")


def task_again(record: Record, weights: Encoder | None = None, style: str | None = None) -> Task:
    """The task whose run has the same address as the record.

    Args:
        weights: what the record's encoder is, where that is neither of `OFFLINE`.
        style: the style image, where the record's own name of it does not lead to it.

    Raises:
        InputError: the run cannot be repeated, its encoder or its style image is not at hand, or
            the task would be another one; the message says what is different.
    """
    asked, (size, fit) = record.asked, size_and_fit(record)
    name = asked.encoder.partition(" ")[0]
    is_given = weights is not None and weights.sha256 == asked.encoder_sha256
    if not is_given and name not in OFFLINE:
        raise InputError(
            f"the run was made with encoder {asked.encoder!r}, sha256 {asked.encoder_sha256[:12]}: "
            "give it with --encoder, by its name or as a file"
        )
    if not record.is_repeatable:
        raise InputError(
            f"the run cannot be made again: it was ended by {record.result.stop_reason!r} and made "
            f"by version {record.made_with.results} of the results"
        )
    iterations = record.iterations_asked
    task = plan(
        record.source if style is None else style,
        layer=asked.layer,
        loss=asked.loss,
        encoder=weights.named(asked.encoder) if weights is not None and is_given else name,
        protocol=asked.protocol.name,
        seed=asked.seed,
        size=size,
        fit=fit,
        iterations=iterations,
        seconds=None if iterations is None else asked.protocol.seconds,
        alpha=asked.alpha or ALPHA,
        device=asked.device,
    )
    planned = asked_of(task)
    names = Asked.__struct_fields__
    if other := [x for x in names if getattr(planned, x) != getattr(asked, x)]:
        different = " and ".join(WORDS.get(x, x) for x in other)
        raise InputError(f"the run cannot be made again: here it would have another {different}")
    return task


def size_and_fit(record: Record) -> tuple[int, Fit]:
    """What `plan` is given for pictures of the record's height and width."""
    height, width = record.asked.height, record.asked.width
    return min(height, width), "crop" if height == width else "keep"


@contextmanager
def threads_of(record: Record) -> Iterator[None]:
    """As many threads as the record's: others would sum in another order, and round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(record.made_with.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
