"""How to check every claim: what `styleinv claims` says, what making its runs again takes.

`results/claims.txt` is what `styleinv claims` said when the runs were made; `compare` is for
whoever judges the claims again, on another machine or from other runs.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from math import isclose
from pathlib import Path
from statistics import median

from styleinv.errors import InputError
from styleinv.runs import store
from styleinv.runs.record import Plain
from styleinv_book.claims import Effect, Part, Records, Row, judge

CLAIMS, EXPECTED = Path("book/claims.yml"), "claims.txt"
# How far a printed number may be from the expected one: NumPy's releases differ in last digits.
WITHIN = 0.02
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")


class Check(Plain, frozen=True):
    """A row of the table: a claim, and what checking it takes.

    Attributes:
        sweeps: the sweeps whose runs the claim compares.
        quickest: that of them whose runs take least time each.
        runs, minutes: how many runs there are in them all, and what they took.
    """

    row: Row
    sweeps: Sequence[str]
    quickest: str
    runs: int
    minutes: float

    @property
    def recompute(self) -> str:
        """The command that judges the claim by the records."""
        return f"styleinv claims {self.row.id}"

    @property
    def sample(self) -> str:
        """The command that makes two of the runs again."""
        folder = f"results/runs/{self.quickest}"
        return f"styleinv verify {folder} --measure 0 --rerun 2 --encoder vgg19-normalised"

    @property
    def repeat(self) -> str:
        """The command that makes all of the runs again, and judges the claim by them."""
        return f'make repeat CLAIMS={self.row.id} ONLY="{" ".join(self.sweeps)}"'

    @property
    def commands(self) -> tuple[str, ...]:
        """All of them; a claim that no run is about has only the first."""
        return (self.recompute, self.sample, self.repeat) if self.sweeps else (self.recompute,)


def checks(rows: Sequence[Row], results: str | Path) -> list[Check]:
    """What checking each of the judged claims takes."""
    records = store.read_records(Path(results, "runs"))
    seconds = defaultdict(list)
    for path, record in records.items():
        seconds[path.parent.name].append(float(record.result.seconds))
    return [_check(row, records, seconds) for row in rows]


def _check(row: Row, records: Records, seconds: Mapping[str, list[float]]) -> Check:
    used = {name for part in row.claim.parts if not part.beside for name in _sweeps(part, records)}
    spent = [one for name in used for one in seconds[name]]
    quickest = min(used, key=lambda name: (median(seconds[name]), name), default="")
    return Check(row, sorted(used), quickest, len(spent), sum(spent) / 60)


def _sweeps(part: Part, records: Records) -> Iterator[str]:
    among = part.runs.among(records)
    for side in (part.of, part.against):
        if side is not None:
            yield from (path.parent.name for path in side.among(among))


def lines(rows: Sequence[Row]) -> list[str]:
    """The claims, verdicts and effects as `styleinv claims` prints them."""
    return [line for row in rows for line in (_title(row), *map(_line, row.effects))]


def _title(row: Row) -> str:
    return f"{row.id:4}{row.verdict.upper()} ({row.tally}): {row.claim.claim}"


def _line(effect: Effect) -> str:
    mark = f"beside, {effect.finding}" if effect.part.beside else effect.finding
    return (
        f"    {mark}: {effect.part.title}: {effect}; rule: {effect.allowed}; "
        f"{effect.comparisons} comparisons, {effect.styles} styles"
    )


def compare(results: Path) -> tuple[int, list[str]]:
    """Judge the claims by the records in `results`; returns how many, and what is not as expected.

    Raises:
        InputError: there is no `claims.txt` in `results`, or the claims cannot be judged.
    """
    file = results / EXPECTED
    if not file.is_file():
        raise InputError(
            f"folder is {str(results)!r}, but must hold {EXPECTED} to be compared with"
        )
    rows, _ = judge(results, CLAIMS)
    pairs = zip_longest(lines(rows), file.read_text(encoding="utf-8").splitlines(), fillvalue="")
    wrong = [
        f"{file} has {kept!r}, but the records {now!r}" for now, kept in pairs if _differ(now, kept)
    ]
    return len(rows), wrong


def _differ(one: str, other: str) -> bool:
    """Whether two lines differ in their words, or in a number by more than its tolerance."""
    if _NUMBER.sub("", one) != _NUMBER.sub("", other):
        return True
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return not all(isclose(float(a), float(b), rel_tol=WITHIN, abs_tol=1e-6) for a, b in pairs)
