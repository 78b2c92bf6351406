"""How many evaluations runs of `fast` take, by encoder, size, layer and loss, from finished runs.

`python benchmarks/evaluations.py FOLDER...` reads the records in these folders and writes
`styleinv/evaluations.json`, from which `styleinv check` tells how long a run will take. The present
file was made from `results/runs` and from a sweep with the bundled encoder over strokes, coffee,
mosaic and immunohistochemistry, every loss at 64 pixels.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from styleinv.files import write_text
from styleinv.preflight import KNOWN
from styleinv.protocol import FAST
from styleinv.runs.record import Record
from styleinv.runs.store import read_records

# Of the runs of a cell, these percentiles: the fewest, the median, the most.
LOW, LIKELY, HIGH = 0, 50, 100
FEWEST = 4
# With random weights every run is another case.
WITHOUT = "random"


def main(folders: Sequence[str]) -> None:
    """Read, summarise, write."""
    cells = defaultdict(list)
    for record in usual_runs(folders):
        asked = record.asked
        cell = asked.encoder_sha256, str(asked.height), asked.layer, asked.loss
        cells[cell].append(record.result.evaluations)
    found: dict[str, dict[str, dict[str, dict[str, list[int]]]]] = {}
    for (encoder, size, layer, loss), numbers in sorted(cells.items()):
        if len(numbers) >= FEWEST and FAST.theta_of(loss) is not None:
            row = [round(value) for value in np.percentile(numbers, [LOW, LIKELY, HIGH])]
            layers = found.setdefault(encoder, {}).setdefault(size, {})
            layers.setdefault(layer, {})[loss] = row
    lines = json.dumps({"percentiles": [LOW, LIKELY, HIGH], "evaluations": found}, indent=1)
    write_text(KNOWN, lines + "\n")
    print(f"kept in {KNOWN}")


def usual_runs(folders: Sequence[str]) -> Iterator[Record]:
    """The runs of `fast` over square pictures, with its own budget and with trained weights."""
    for folder in folders:
        for record in read_records(Path(folder)).values():
            asked = record.asked
            is_usual = asked.protocol.name == FAST.name and record.iterations_asked is None
            if is_usual and asked.height == asked.width and not asked.encoder.startswith(WITHOUT):
                yield record


if __name__ == "__main__":
    main(sys.argv[1:])
