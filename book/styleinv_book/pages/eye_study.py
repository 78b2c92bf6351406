"""Where eyes and measures agree, and the pairs in which they contradict each other.

The numbers are in results/eye_study.json, which `benchmarks/eye_study.py agreement` makes.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from styleinv.live.labels import TITLES
from styleinv.runs import store
from styleinv.runs.store import Run
from styleinv_book import figures
from styleinv_book.claims import TESTED
from styleinv_book.pages.measured import Json

# Those among the pairs of the rounds that test a measure of which both are the Gram matrix's.
OF_GRAM = "Gram's pairs of these"
# The measures whose numbers changed after raters had contradicted them.
REPLACED = ("artefact_area", "colour_distance")


@dataclass(frozen=True)
class Measured:
    """The measure that answers a question.

    Attributes:
        form: how its values are written.
        less: whether less of it is more of what the question asks for.
    """

    name: str
    form: str
    less: bool = False


MEASURED = {
    "structures": Measured("structure", "{:.2f}"),
    "artefacts": Measured("artefact_excess", "{:.2f}"),
    "colours": Measured("colour_distance", "{:.1f}", less=True),
    "noise": Measured("noise", "{:.1f} dB"),
}


def agreement_table(found: Json) -> str:
    """How often each measure says what the raters say, by rounds, as HTML."""
    among = {row["among"]: None for row in found["measures"]}
    rounds = sorted(name for name in among if name.startswith("round"))
    rows: dict[tuple[str, str], dict[str, Json]] = {}
    for row in found["measures"]:
        rows.setdefault((row["question"], row["measure"]), {})[row["among"]] = row
    numbers = (name.removeprefix("round ") for name in rounds)
    head = ("question", "measure", *numbers, "tested (interval)", "Gram's")
    return figures.html_table(
        head,
        [
            (
                *names,
                *(_agreed(groups.get(name)) for name in rounds),
                f"{_agreed(groups[TESTED])} ({100 * groups[TESTED]['low']:.0f} to "
                f"{100 * groups[TESTED]['high']:.0f})",
                _agreed(groups.get(OF_GRAM)),
            )
            for names, groups in rows.items()
        ],
    )


def replaced_table(then: Json) -> str:
    """How often the measures that were replaced agreed, round by round, as HTML."""
    rows = [
        (row["question"], row["measure"], row["among"], _agreed(row))
        for row in then["measures"]
        if row["measure"] in REPLACED and row["among"].startswith("round")
    ]
    return figures.html_table(("asked for", "measure as it was", "pairs", "agreed"), rows)


def raters_table(found: Json) -> str:
    """By question, how far the two raters agree, and from where on a measure can be relied on."""
    head = ("asked for", "both raters decide", "they agree", "the measure is reliable from")
    rows = []
    for row in found["raters"]:
        ours, both = MEASURED[row["question"]], row["decided_by_both"]
        least = found["smallest_seen"][ours.name]
        from_where = "nowhere" if least is None else ours.form.format(least)
        rows.append((row["question"], both, f"{1 - row['opposite'] / both:.0%}", from_where))
    return figures.html_table(head, rows)


def colours_as_artefacts(found: Json) -> float:
    """The share of answers in which closer colours go with fewer places that do not belong."""
    given = [pair["answers"] for pair in found["pairs"] if "colours" in pair["answers"]]
    both = [(c, a) for one in given for c, a in zip(one["colours"], one["artefacts"], strict=True)]
    decided = [c == -a for c, a in both if c and a]
    return float(np.mean(decided))


def contradicted(found: Json, question: str) -> list[Json]:
    """The pairs of which all raters say one thing and the measure another, the surest first.

    Only rounds after the one that chose the measure count.
    """
    ours = MEASURED[question]
    chosen = found["chosen"].get(ours.name, 0)
    wrong: list[tuple[float, Json]] = []
    for pair in found["pairs"]:
        if pair["round"] > chosen and question in pair["answers"]:
            left, right = pair["measured"][ours.name]
            more = right - left if ours.less else left - right
            given = set(pair["answers"][question])
            if given in ({1}, {-1}) and given != {np.sign(more)}:
                wrong.append((-abs(more), pair))
    return [pair for _, pair in sorted(wrong, key=lambda one: one[0])]


def contradictions(found: Json, question: str, most: int = 3) -> figures.Panel | None:
    """A tab with the surest contradictions of a question; None if there is none."""
    ours, rows, runs = MEASURED[question], {}, list[Run]()
    for pair in contradicted(found, question)[:most]:
        two = [_known(pair["sweep"])[pair[side].split()[-1]] for side in ("left", "right")]
        left, right = map(_picture, two)
        runs += two
        style = store.style_file_name(pair["style"], left.width)
        image = f"{figures.RESULTS}/runs/styles/{style}"
        said = "left" if pair["answers"][question][0] > 0 else "right"
        values = ", ".join(map(ours.form.format, pair["measured"][ours.name]))
        rows[f"eye: {said}; measured: {values}"] = {
            "style": figures.Picture(image, pair["style"], left.width, left.height),
            "left": left,
            "right": right,
        }
    return figures.Panel(question, figures.picture_table(rows), runs) if rows else None


def _picture(run: Run) -> figures.Picture:
    asked = run.record.asked
    text = f"{run.record.style}, {asked.layer}, {TITLES[asked.loss]}"
    source = run.path.with_suffix(".png").as_posix() if run.path else ""
    return figures.Picture(source, text, asked.width, asked.height)


@lru_cache
def _known(sweep: str) -> dict[str, Run]:
    """The runs of a sweep by the start of their pixels' hash, as the study names them."""
    records = store.read_records(Path(figures.RESULTS, "runs", sweep)).items()
    return {x.result.pixels_sha256[:12]: Run(x, None, path) for path, x in records}


def _agreed(row: Json | None) -> str:
    return f"{row['agreed'] / row['decided']:.0%}" if row else ""
