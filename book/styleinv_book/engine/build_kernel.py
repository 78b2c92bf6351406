"""Compile `kernel.c` to `kernel.wasm`: python -m styleinv_book.engine.build_kernel.

The compiler is the clang of one release of the package `ziglang`, so that the same source gives the
same bytes; it is in no environment of this project: pip install ziglang==0.17.1.
"""

import subprocess
import sys
from pathlib import Path

COMPILER = "ziglang==0.17.1"
SOURCE = Path(__file__).with_name("kernel.c")
KERNEL = Path(__file__).with_name("kernel.wasm")
FLAGS = (
    "-target wasm32-freestanding -mcpu=generic+simd128+bulk_memory -std=c11 -O3 -Wall -Wextra "
    "-Werror -nostdlib -fvisibility=hidden -s -Wl,--no-entry -Wl,--export-dynamic "
    "-Wl,--export=__heap_base -Wl,--export-memory -Wl,-z,stack-size=65536"
)


def build(to: Path = KERNEL) -> None:
    """Write the compiled kernel.

    Raises:
        subprocess.CalledProcessError: the compiler is absent or refuses the source; it has said
            why.
    """
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS.split(), "-o", str(to), SOURCE.name]
    subprocess.run(command, cwd=SOURCE.parent, check=True)


if __name__ == "__main__":
    build()
