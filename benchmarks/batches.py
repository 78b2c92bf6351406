"""Adam's iterations for runs side by side against one at a time, on this machine's processor.

`python benchmarks/batches.py`: about three minutes, best on a machine that has nothing else to do.
The losses are Table 1.1's, mixed. The record, which the book's page on many runs shows, lands in
`results/batches.json`.
"""

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from ways import LOSSES, compared, made_with, take_turns

from styleinv.batch import Batch
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.files import write_text
from styleinv.inversion import Inversion, Task, plan
from styleinv.protocol import CHAPTER

RECORD = Path(__file__).parents[1] / "results" / "batches.json"
STYLE = "bundled:strokes"
SIZES = (32, 64, 128)
TOGETHER = (8, 24)
# Of all pictures of a way, about; alone, each loss makes as many as one of the largest batch.
ITERATIONS = 48
ALONE = 3
ROUNDS = 3


def main() -> None:
    """Measure, print, keep."""
    made, encoder = made_with(), load_encoder("bundled")
    rows = [measured(encoder, size, layer) for size, layer in itertools.product(SIZES, LAYERS)]
    record = {**made, "style": STYLE, "rounds": ROUNDS, "rows": rows}
    write_text(RECORD, json.dumps(record, indent=1) + "\n")


def measured(encoder: Encoder, size: int, layer: str) -> dict[str, object]:
    """Milliseconds per picture and iteration, and how many times as fast as alone."""
    ways: dict[str, Callable[[], float]] = {
        "1": lambda: statistics.mean(
            milliseconds([task]) for task in tasks(encoder, size, layer, len(LOSSES), ALONE)
        )
    }
    for many in TOGETHER:
        share = max(2, ITERATIONS // many)
        ways[str(many)] = lambda many=many, share=share: milliseconds(
            tasks(encoder, size, layer, many, share)
        )
    row = compared(take_turns(ways, ROUNDS), "1", "ms")
    print(
        f"{size:4} {layer}",
        *(
            f"{name:>3}: {way['ms']['median']:7.2f} ms, {way['times']['median']:.2f} times "
            f"({way['times']['low']:.2f}-{way['times']['high']:.2f})"
            for name, way in row.items()
        ),
        flush=True,
    )
    return {"size": size, "layer": layer, "together": row}


def tasks(encoder: Encoder, size: int, layer: str, many: int, iterations: int) -> list[Task]:
    """Runs of all losses that end after so many iterations and one."""
    protocol = dataclasses.replace(CHAPTER.limited_to(iterations + 1), theta=-math.inf)
    return [
        plan(
            STYLE,
            size=size,
            layer=layer,
            loss=LOSSES[number % len(LOSSES)],
            seed=number,
            encoder=encoder,
            protocol=protocol,
        )
        for number in range(many)
    ]


def milliseconds(together: Sequence[Task]) -> float:
    """Of an iteration, per picture, without the first."""
    trace = side_by_side(together)[0].trace
    first, last = trace[1], trace[-1]
    each = (last.seconds - first.seconds) / (last.iteration - first.iteration)
    return 1000 * each / len(together)


def side_by_side(together: Sequence[Task]) -> list[Inversion]:
    """All of them as one batch."""
    batch, found = Batch(), dict[int, Inversion]()
    for number, task in enumerate(together):
        batch.enter(number, task)
    while len(batch):
        found |= batch.run()
    return [found[number] for number in range(len(together))]


if __name__ == "__main__":
    main()
