"""Do the measures see what eyes see? Pairs of pictures, answers without labels, the agreement.

`python benchmarks/eye_study.py draw` draws pairs: two pictures of one style and size, at
random over layers and losses, and some of which both are the Gram matrix's. `sheets` makes contact
sheets that say neither layer nor loss, and an empty form, in _build/eye_study. Whoever answers
looks at nothing else, and saves the form as results/eye_study/round-N/answers-NAME.json.
`agreement` compares the answers with the measures and writes results/eye_study.json. A measure that
was chosen by the answers of a round is put to the test in the next ones, with other pairs.
"""

import argparse
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy.optimize import isotonic_regression
from scipy.stats import binomtest
from styleinv_book.claims import TESTED
from ways import write_record

from styleinv.files import write_text
from styleinv.runs import store
from styleinv.runs.record import Record

ROOT = Path(__file__).parents[1]
RESULTS, SHEETS = ROOT / "results", ROOT / "_build" / "eye_study"
STUDY = RESULTS / "eye_study"
# Sweeps whose pictures the main figures show.
SWEEPS = ("chapter", "from-noise-128")
# The first round is 1. Its seed, and one more for every further round, draws the pairs.
COUNT, SEED = 72, 2026
# As many of them compare layers of the Gram matrix, as the claims about layers do.
GRAM = 24
PER_SHEET, SIDE, MARGIN, LINE = 4, 256, 10, 16
QUESTIONS = {
    "structures": "Which has the larger structures of the style: left, right, or tie?",
    "artefacts": "Which has more places that do not belong to the style: left, right, or tie?",
    "colours": "Whose colours, wherever they lie, are closer to the style's: left, right, or tie?",
    "noise": "Which has more fine noise, pixel by pixel: left, right, or tie?",
}
ANSWERS = {"left": 1, "tie": 0, "right": -1}
# The measure that answers a question, and others that could.
MEASURES = {
    "structures": ("structure", "largest_kept"),
    "artefacts": ("artefact_excess", "artefact_area"),
    "colours": ("colour_distance",),
    "noise": ("noise",),
}
# The last round whose answers had a part in the choice of a measure. Only later ones test it.
CHOSEN = {"structure": 1, "artefact_excess": 2, "artefact_area": 2, "colour_distance": 3}
OF_GRAM = "Gram's pairs of these"
# Less of it is closer.
DISTANCES = {"colour_distance"}
# The agreement that counts as reliable, and from how many answers on it is told.
RELIABLE, FEWEST = 0.9, 20

Pair = dict[str, str]
Answers = dict[str, list[int]]


def draw(
    runs: Path, seed: int = SEED, count: int = COUNT, gram: int = 0, known: Sequence[Pair] = ()
) -> list[Pair]:
    """Pairs of pictures of one sweep and one style, each pair as likely as any other.

    At least `gram` of them are from those of which both are the Gram matrix's, if there are so many
    left. Pairs that are `known` from earlier rounds are not drawn.
    """
    chance, pairs = random.Random(seed), []
    for sweep in SWEEPS:
        for one, other in itertools.combinations(pictures(runs / sweep).items(), 2):
            style = one[1][1].source
            if style == other[1][1].source:
                left, right = chance.sample((one[0], other[0]), 2)
                pairs.append({"sweep": sweep, "style": style, "left": left, "right": right})
    drawn = {sides(pair) for pair in known}
    new = [pair for pair in pairs if sides(pair) not in drawn]
    of_gram = [pair for pair in new if is_gram(pair)]
    some = chance.sample(of_gram, min(gram, len(of_gram)))
    some += chance.sample([pair for pair in new if pair not in some], count - len(some))
    chance.shuffle(some)
    return some


def sides(pair: Pair) -> frozenset[str]:
    """The two pictures of a pair, whichever is on the left."""
    return frozenset((pair["left"], pair["right"]))


def is_gram(pair: Pair) -> bool:
    """Whether both pictures are the Gram matrix's."""
    return all(pair[side].split()[1] == "gram" for side in ("left", "right"))


def pictures(folder: Path) -> dict[str, tuple[Path, Record]]:
    """The runs of a folder that have a picture, by what it shows and the hash of its pixels."""
    return {
        f"{x.asked.layer} {x.asked.loss} {x.result.pixels_sha256[:12]}": (path, x)
        for path, x in store.read_records(folder).items()
        if x.picture
    }


def sheets(pairs: Sequence[Pair], runs: Path, folder: Path) -> None:
    """Contact sheets of four pairs, each beside its style image, and an empty form."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {sweep: pictures(runs / sweep) for sweep in SWEEPS}
    numbered = list(enumerate(pairs, start=1))
    for start in range(0, len(pairs), PER_SHEET):
        some = numbered[start : start + PER_SHEET]
        size = 3 * (SIDE + MARGIN) + MARGIN, len(some) * (SIDE + LINE + MARGIN) + MARGIN
        canvas = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(canvas)
        for row, (number, pair) in enumerate(some):
            top = MARGIN + row * (SIDE + LINE + MARGIN)
            for column, (title, path) in enumerate(shown(pair, known[pair["sweep"]]).items()):
                left = MARGIN + column * (SIDE + MARGIN)
                with Image.open(path) as picture:
                    whole = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
                canvas.paste(whole, (left, top + LINE))
                pen.text((left, top), f"{number} {title}", fill="black")
        canvas.save(folder / f"sheet-{start // PER_SHEET + 1:02}.png")
    empty = [{"pair": number, **dict.fromkeys(QUESTIONS, "")} for number, _ in numbered]
    form = {"who": "", "date": "", "questions": QUESTIONS, "answers": empty}
    write_text(folder / "form.json", json.dumps(form, indent=1) + "\n")


def shown(pair: Pair, known: dict[str, tuple[Path, Record]]) -> dict[str, Path]:
    """The three pictures of a pair, by their titles on the sheet."""
    style = store.style_file_name(pair["style"], known[pair["left"]][1].asked.width)
    ours = {side: known[pair[side]][0].with_suffix(".png") for side in ("left", "right")}
    return {"style": RESULTS / "runs" / "styles" / style, **ours}


def compare(differences: Sequence[float], answers: Sequence[int]) -> dict[str, Any]:
    """How often a measure says what an eye says, among the pairs that the eye does not call a tie.

    `equal` are those of them in which the measure sees no difference; they do not agree.
    `smallest` is the difference from which on the two agree in nine of ten, by isotonic regression:
    the larger the difference, the more often. At least twenty pairs must differ by as much or more.
    """
    pairs = zip(differences, answers, strict=True)
    decided = sorted((abs(d), bool(np.sign(d) == a)) for d, a in pairs if a)
    sizes, agreed = (np.array(column, float) for column in zip(*decided, strict=True))
    size, first, count = np.unique(sizes, return_index=True, return_counts=True)
    fit = isotonic_regression(np.add.reduceat(agreed, first) / count, weights=count).x
    reliable = size[(fit >= RELIABLE) & (len(sizes) - first >= FEWEST)]
    interval = binomtest(int(agreed.sum()), len(agreed)).proportion_ci(method="wilson")
    return {
        "decided": len(agreed),
        "agreed": int(agreed.sum()),
        "equal": int((sizes == 0).sum()),
        "low": float(interval.low),
        "high": float(interval.high),
        "smallest": float(reliable[0]) if len(reliable) else None,
    }


def both(first: Sequence[int], second: Sequence[int]) -> dict[str, int]:
    """How two raters' answers go together."""
    pairs = list(zip(first, second, strict=True))
    return {
        "same": sum(a == b for a, b in pairs),
        "opposite": sum(a * b < 0 for a, b in pairs),
        "decided_by_both": sum(a * b != 0 for a, b in pairs),
        "ties_of_both": sum(a == b == 0 for a, b in pairs),
        "of": len(pairs),
    }


@dataclass(frozen=True)
class Shown:
    """A pair that was shown: its round, its number there, its two records, and the answers.

    Attributes:
        answers: by question, an answer of each rater: 1 for left, 0 for a tie, -1 for right.
    """

    round: int
    number: int
    pair: Pair
    records: tuple[Record, Record]
    answers: dict[str, list[int]]

    def measured(self, name: str) -> list[float]:
        """A measure of the two pictures."""
        return [float(getattr(one.measures, name)) for one in self.records]

    def difference(self, name: str) -> float:
        """How much more of what is asked for the left picture has, by a measure."""
        left, right = self.measured(name)
        return right - left if name in DISTANCES else left - right


def all_shown(rounds: Sequence[Path], runs: Path) -> list[Shown]:
    """The pairs of all rounds that were answered."""
    known, found = {sweep: pictures(runs / sweep) for sweep in SWEEPS}, []
    for number, folder in enumerate(rounds, start=1):
        forms = read_answers(folder).values()
        for row, pair in enumerate(pairs_of(folder)):
            left, right = (known[pair["sweep"]][pair[side]][1] for side in ("left", "right"))
            answers = {q: [form[q][row] for form in forms] for form in forms for q in form}
            found.append(Shown(number, row + 1, pair, (left, right), answers))
    return found


def agreement(shown: Sequence[Shown]) -> dict[str, Any]:
    """The measures against all raters: round by round, and in the rounds that test a measure."""
    found: dict[str, Any] = {"smallest_seen": {}, "measures": [], "raters": [], "chosen": CHOSEN}
    for question, names in MEASURES.items():
        asked = [one for one in shown if question in one.answers]
        for name in names:
            tested = [one for one in asked if one.round > CHOSEN.get(name, 0)]
            groups = {f"round {n}": [x for x in asked if x.round == n] for n in _rounds(asked)}
            groups |= {TESTED: tested, OF_GRAM: [x for x in tested if is_gram(x.pair)]}
            for among, some in groups.items():
                if some:
                    votes = [(x.difference(name), a) for x in some for a in x.answers[question]]
                    row = compare(*zip(*votes, strict=True))
                    kept = {"question": question, "measure": name, "among": among}
                    found["measures"].append(kept | row)
                    if among == TESTED:
                        found["smallest_seen"][name] = row["smallest"]
        two = [x.answers[question] for x in asked if len(x.answers[question]) == 2]
        found["raters"].append({"question": question, **both(*zip(*two, strict=True))})
    found["pairs"] = [_row(one) for one in shown]
    return found


def _rounds(shown: Sequence[Shown]) -> list[int]:
    return sorted({one.round for one in shown})


def _row(one: Shown) -> dict[str, Any]:
    """A pair with what the measures and the raters say of it."""
    first = [MEASURES[question][0] for question in one.answers]
    measured = {name: one.measured(name) for name in first}
    numbers = {"round": one.round, "pair": one.number}
    return numbers | one.pair | {"answers": one.answers, "measured": measured}


def read_answers(folder: Path) -> dict[str, Answers]:
    """The filled-in forms by who answered: 1 for left, 0 for a tie, -1 for right."""
    forms = [
        json.loads(x.read_text(encoding="utf-8")) for x in sorted(folder.glob("answers-*.json"))
    ]
    return {
        form["who"]: {q: [ANSWERS[row[q]] for row in form["answers"]] for q in form["questions"]}
        for form in forms
    }


def pairs_of(folder: Path) -> list[Pair]:
    """The pairs of a round."""
    pairs: list[Pair] = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))["pairs"]
    return pairs


def main() -> None:
    """Draw, show, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("draw", "sheets", "agreement"))
    parser.add_argument("--runs", type=Path, default=RESULTS / "runs", help="the folder of sweeps")
    given, rounds = parser.parse_args(), sorted(STUDY.glob("round-*"))
    if given.step == "draw":
        seed = SEED + len(rounds)
        known = [pair for folder in rounds for pair in pairs_of(folder)]
        record = {"seed": seed, "pairs": draw(given.runs, seed, gram=GRAM, known=known)}
        write_record(STUDY / f"round-{len(rounds) + 1}" / "pairs.json", record)
    elif given.step == "sheets":
        sheets(pairs_of(rounds[-1]), given.runs, SHEETS)
    else:
        write_record(RESULTS / "eye_study.json", agreement(all_shown(rounds, given.runs)))


if __name__ == "__main__":
    main()
