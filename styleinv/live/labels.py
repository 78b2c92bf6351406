"""The name and the colour of each loss on pages, in tables and in figures."""

TITLES = {
    "gram": "Gram",
    **{f"moment-{n}": f"N = {n}" for n in range(1, 5)},
    "mmd": "MMD",
    "mmd-random": "MMD, random pairs",
    "mmd-vector": "MMD, whole vectors",
    "histogram": "histograms",
    "sliced-wasserstein": "sliced Wasserstein",
    "central-moments": "central moments",
}

# Okabe and Ito's palette, which colour-blind readers can tell apart; the same colours everywhere.
COLOURS = {
    "gram": "#000000",
    "moment-1": "#56b4e9",
    "moment-2": "#0072b2",
    "moment-3": "#e69f00",
    "moment-4": "#d55e00",
    "mmd": "#cc79a7",
}


def title_of(stage: str) -> str:
    """The name of a loss, or of a stage named after one, in tables and figures.

    An unknown loss keeps its own; "moment-3 compressed" is "N = 3 compressed".
    """
    loss, *more = stage.split(" ")
    return " ".join((TITLES.get(loss, loss), *more))
