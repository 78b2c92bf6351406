"""Print the peak resident memory, in bytes, of a process that only runs one short inversion.

python benchmarks/peak_memory.py ENCODER STYLE SIZE LAYER LOSS [EVALUATIONS]

With the number of evaluations given, the run keeps a checkpoint, too.
"""

import resource
import sys
import tempfile
from pathlib import Path

from styleinv.inversion import invert
from styleinv.protocol import FAST

encoder, style, size, layer, loss, *evaluations = sys.argv[1:]
short = FAST.limited_to(int(evaluations[0]) if evaluations else 30)
with tempfile.TemporaryDirectory() as folder:
    invert(
        style,
        encoder=encoder,
        size=int(size),
        layer=layer,
        loss=loss,
        protocol=short,
        checkpoint=Path(folder) / "run.checkpoint" if evaluations else None,
        checkpoint_every=10,
    )
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
