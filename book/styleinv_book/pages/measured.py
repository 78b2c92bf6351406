"""What benchmarks have measured: the JSON files in results/."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from styleinv_book.figures import RESULTS

# A benchmark's record, or one measurement in it, as its JSON has it.
Json = Mapping[str, Any]


def read(name: str, results: str = RESULTS) -> Any:
    """The record `results/NAME.json`."""
    return json.loads(Path(results, f"{name}.json").read_text(encoding="utf-8"))
