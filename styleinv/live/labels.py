"""What pages, tables and figures call a loss, and the colour they draw it in."""

TITLES = {
    "gram": "Gram",
    "moment-1": "N = 1",
    "moment-2": "N = 2",
    "moment-3": "N = 3",
    "moment-4": "N = 4",
    "mmd": "MMD",
    "mmd-random": "MMD, random pairs",
    "mmd-vector": "MMD, whole vectors",
    "histogram": "histograms",
    "sliced-wasserstein": "sliced Wasserstein",
    "central-moments": "central moments",
}

# The same colour everywhere: Okabe and Ito's palette, told apart by the colour-blind.
COLOURS = {
    "gram": "#000000",
    "moment-1": "#56b4e9",
    "moment-2": "#0072b2",
    "moment-3": "#e69f00",
    "moment-4": "#d55e00",
    "mmd": "#cc79a7",
}


def title_of(loss: str) -> str:
    """The name of a loss in tables and figures; an unknown loss keeps its own."""
    return TITLES.get(loss, loss)
