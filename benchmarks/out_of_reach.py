"""Where no run of `fast` has brought the Gram matrix to theta, from finished runs.

`python benchmarks/out_of_reach.py FOLDER...` reads the records in these folders and writes
`styleinv/out_of_reach.json`, from which `styleinv check` warns. The present file was made from
`results/runs`.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence

from evaluations import FEWEST, usual_runs

from styleinv.files import write_text
from styleinv.preflight import OUT_OF_REACH


def main(folders: Sequence[str]) -> None:
    """Read, keep the cells without a run that passed theta, write."""
    cells = defaultdict(list)
    for record in usual_runs(folders):
        asked = record.asked
        if asked.loss == "gram":
            cells[asked.encoder_sha256, asked.layer, str(asked.height)].append(record.result)
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (encoder, layer, size), results in sorted(cells.items()):
        if len(results) >= FEWEST and all(x.stop_reason != "theta" for x in results):
            losses = [result.loss for result in results]
            row = {"runs": len(losses), "least": min(losses), "most": max(losses)}
            found.setdefault(encoder, {}).setdefault(layer, {})[size] = row
    write_text(OUT_OF_REACH, json.dumps(found, indent=1) + "\n")
    print(f"kept in {OUT_OF_REACH}")


if __name__ == "__main__":
    main(sys.argv[1:])
