"""Print the peak resident memory, in bytes, of a process that only runs one short inversion.

python benchmarks/peak_memory.py ENCODER STYLE SIZE LAYER LOSS
"""

import resource
import sys

from styleinv.invert import invert
from styleinv.protocol import FAST

encoder, style, size, layer, loss = sys.argv[1:]
short = FAST.limited_to(30)
invert(style, encoder=encoder, size=int(size), layer=layer, loss=loss, protocol=short)
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
