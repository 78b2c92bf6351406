"""An animation of a run: its iterates at log-spaced evaluations, and the loss below them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, features

from styleinv.errors import InputError
from styleinv.files import write_atomically
from styleinv.images import Pixels, to_uint8
from styleinv.inversion import Inversion, Task
from styleinv.optim import Iterate

# By the ending of the file: what Pillow calls the format, and how it is to write it. A GIF has 256
# colours; a lossless WebP has the pixels as they are.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".gif": ("GIF", {}),
    ".webp": ("WEBP", {"lossless": True}),
}
MOST_FRAMES = 500
# In milliseconds: how long a frame is seen, and the last one.
FRAME, LAST = 80, 2500
# In pixels: pictures are enlarged by a whole factor up to this width; the loss below them.
WIDTH, HEIGHT_OF_LOSS, MARGIN = 256, 64, 6
PAPER, INK, FAINT = "#ffffff", "#222222", "#b0b0b0"


@dataclass(frozen=True)
class Frame:
    """An iterate: its picture, (H, W, 3), and its exact loss after so many evaluations."""

    evaluations: int
    loss: float
    pixels: Pixels


def check_format(out: Path) -> None:
    """Find out before the run whether the animation can be made after it.

    Raises:
        InputError: the file's ending is none of `FORMATS`, or Pillow lacks the format.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"out is {str(out)!r}, but must end in {' or '.join(FORMATS)}")
    if out.suffix.lower() == ".webp" and not features.check("webp"):
        raise InputError(
            f"out is {str(out)!r}, but the Pillow of this machine cannot write WebP; .gif it can"
        )


def frames_of(
    task: Task, evaluations: int, count: int, callback: Callable[[Iterate], bool]
) -> tuple[list[Frame], Inversion]:
    """Run a task and keep iterates: about `count`, log-spaced from the first to the last.

    Args:
        evaluations: how many the run will have; it ends with what it is told to, all the same.
        callback: called with every `Iterate`; returns True to stop the run.
    """
    due = sorted({round(x) for x in np.geomspace(1, max(1, evaluations), count)})
    kept: list[Frame] = []

    def keep(iterate: Iterate) -> bool:
        if due and iterate.evaluations >= due[0]:
            due[:] = [later for later in due if later > iterate.evaluations]
            kept.append(Frame(iterate.evaluations, iterate.loss, to_uint8(iterate.image)))
        return callback(iterate)

    found = task.run(keep)
    last = Frame(found.evaluations, found.loss, to_uint8(found.image))
    return [*(x for x in kept if x.evaluations < last.evaluations), last], found


def write(frames: Sequence[Frame], out: Path) -> None:
    """Write frames to a file, whole or not at all, in the format of its ending.

    Raises:
        InputError: the file cannot be written.
    """
    name, options = FORMATS[out.suffix.lower()]
    first, *others = drawn(frames)
    options |= {"save_all": True, "append_images": others, "loop": 0}
    options["duration"] = [*len(others) * [FRAME], LAST]
    write_atomically(out, lambda part: first.save(part, format=name, **options))


def drawn(frames: Sequence[Frame]) -> list[Image.Image]:
    """Each frame's picture, pixel by pixel, above its loss and the curve that led there."""
    height, width = frames[0].pixels.shape[:2]
    zoom = max(1, WIDTH // width)
    room = max(WIDTH, zoom * width)
    curve = _curve([(frame.evaluations, frame.loss) for frame in frames], room, zoom * height)
    images = []
    for number, frame in enumerate(frames, start=1):
        image = Image.new("RGB", (room, zoom * height + HEIGHT_OF_LOSS), PAPER)
        picture = Image.fromarray(frame.pixels).resize(
            (zoom * width, zoom * height), Image.Resampling.NEAREST
        )
        image.paste(picture, ((room - zoom * width) // 2, 0))
        draw = ImageDraw.Draw(image)
        unit = "evaluation" if frame.evaluations == 1 else "evaluations"
        text = f"loss {frame.loss:.2g} after {frame.evaluations:,} {unit}"
        draw.text((MARGIN, zoom * height + MARGIN // 2), text, fill=INK)
        draw.line(curve, fill=FAINT)
        draw.line(curve[:number], fill=INK, width=2)
        x, y = curve[number - 1]
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=INK)
        images.append(image)
    return images


def _curve(points: Sequence[tuple[int, float]], room: int, top: int) -> list[tuple[float, float]]:
    """Where the losses are in an image: over log evaluations, and logs if all are above 0."""
    across = [math.log(evaluations) for evaluations, _ in points]
    losses = [loss for _, loss in points]
    if min(losses) > 0:
        losses = [math.log(loss) for loss in losses]
    high, low = top + HEIGHT_OF_LOSS // 3 + MARGIN, top + HEIGHT_OF_LOSS - MARGIN
    right = _between(across, MARGIN, room - MARGIN)
    return list(zip(right, _between(losses, low, high), strict=True))


def _between(values: Sequence[float], first: float, last: float) -> list[float]:
    """The values, moved and stretched so that the least becomes `first` and the greatest `last`."""
    least, span = min(values), (max(values) - min(values)) or 1
    return [first + (last - first) * (value - least) / span for value in values]
