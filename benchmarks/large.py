"""Peak memory of large inversions beside the estimate: python benchmarks/large.py

Each in a process of its own, with a full history of L-BFGS and a checkpoint, on the CPU. Half an
hour on two cores; the record is results/large.json.
"""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from styleinv.inversion import RESULTS_VERSION
from styleinv.machine import needed_memory
from styleinv.protocol import FAST

ROOT = Path(__file__).parents[1]
STYLE, SIZE, LAYER = "bundled:strokes", 1024, "relu_2_2"
LOSSES = ("gram", "moment-4", "mmd")
# As many as fill the history, and some steps of the line search.
EVALUATIONS = FAST.memory + 10


def peak_memory(loss: str) -> int:
    """Bytes, of the whole process."""
    command = [sys.executable, str(Path(__file__).with_name("peak_memory.py"))]
    asked = ["bundled", STYLE, str(SIZE), LAYER, loss, str(EVALUATIONS)]
    done = subprocess.run([*command, *asked], capture_output=True, encoding="utf-8", check=True)
    return int(done.stdout)


if __name__ == "__main__":
    record = {
        "style": STYLE,
        "size": SIZE,
        "layer": LAYER,
        "evaluations": EVALUATIONS,
        "runs": [
            {
                "loss": loss,
                "peak_bytes": peak_memory(loss),
                "estimated_bytes": needed_memory(SIZE, SIZE, LAYER, loss),
            }
            for loss in LOSSES
        ],
        "made_with": {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "results": RESULTS_VERSION,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processor": f"{platform.system()} {platform.machine()}",
        },
    }
    path = ROOT / "results" / "large.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
