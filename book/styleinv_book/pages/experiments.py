"""Section 1.4: what a layer sees, the chapter's figures, and how their runs ended."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from msgspec import UNSET
from msgspec.structs import replace
from torch import Tensor

from styleinv.encoder import LAYERS, NORMALISED_NAME, Encoder
from styleinv.live.labels import TITLES
from styleinv.runs.record import Record, unit_of
from styleinv.runs.reference import chapter_runs, entry_of
from styleinv.runs.store import read_records
from styleinv_book import figures, interactive
from styleinv_book.claims import larger_seen, read_claims, read_study
from styleinv_book.claims_html import CLAIMS
from styleinv_book.figures import Album, Panel, html_table, subplots
from styleinv_book.growth import SHADES

MOMENTS = ("moment-1", "moment-2", "moment-3", "moment-4")
CHANGE = ("moment-3", "moment-4")
STROKES, MOSAIC = "bundled:strokes", "bundled:mosaic"
CUT = 32  # pixels of a side of what is shown of a style image under the receptive fields


def receptive_fields(encoder: Encoder) -> dict[str, int]:
    """The side, in pixels, of the square on which one value of each layer depends.

    A convolution with a kernel of side k widens it by (k - 1) steps of the layer's grid. Where
    the grid gets coarser, pooling has looked at as many values as make one of the new steps.
    """
    side, step, fields = 1, 1, {}
    image = torch.zeros(1, 3, 64, 64, dtype=encoder.dtype, device=encoder.device)
    maps = encoder.all_layers(image)
    for layer, convolution, features in zip(LAYERS, encoder.convs, maps, strict=True):
        coarser = image.shape[-1] // features.shape[-1]
        side, step = side + coarser - step, coarser
        side += (convolution.state_dict()["weight"].shape[-1] - 1) * step
        fields[layer] = side
    return fields


def fields_on(image: Tensor, fields: Mapping[str, int]) -> Figure:
    """The receptive fields, around one place, on a style image (3, H, W) and on a cut of it."""
    figure, panels = subplots(3.2, 1, 2)
    top, left = ((side - CUT) // 2 for side in image.shape[-2:])
    cut = image[:, top : top + CUT, left : left + CUT]
    for name, axes, shown in zip(("whole", "cut"), panels, (image, cut), strict=True):
        # Of a small image they are the same, and still need ids of their own.
        axes.imshow(shown.permute(1, 2, 0).cpu().numpy(), interpolation="nearest", gid=name)
        axes.set_axis_off()
    panels[0].add_patch(_square(left, top, CUT, "white"))
    for layer, side in fields.items():
        corner = (CUT - side) // 2
        label = f"{layer}: {side} x {side} px"
        panels[1].add_patch(_square(corner, corner, side, SHADES[layer], label))
    height, width = image.shape[-2:]
    panels[0].set_title(f"style image, {width} x {height} px", size="small")
    panels[1].set_title(f"the square in it, {CUT} x {CUT} px", size="small")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def _square(left: int, top: int, side: int, colour: str, label: str = "") -> Rectangle:
    """The frame of some pixels, whose centres have whole coordinates."""
    corner = left - 0.5, top - 0.5
    return Rectangle(corner, side, side, fill=False, color=colour, linewidth=2, label=label)


@dataclass(frozen=True)
class Albums:
    """The reference runs of section 1.4, each a tab of its figures."""

    large: Album
    from_noise: Album
    fewer: Album
    adam: Album

    @property
    def all(self) -> tuple[Album, ...]:
        """Those that have runs."""
        albums = (self.large, self.from_noise, self.fewer, self.adam)
        return tuple(album for album in albums if album.runs)

    @classmethod
    def of(cls, shown: str, first: int = 0) -> Self:
        """Those of three style images of the sweep `shown`, from number `first` on."""
        large = figures.reference(shown)
        large = large.of(large.styles[first : first + 3])
        noise, fewer = (
            figures.reference(name).of(large.styles) for name in ("from-noise-128", "moments-128")
        )
        made = chapter_runs("adam-128", figures.RESULTS)
        done = {key: run for key, run in made.items() if run and key[0] in large.styles}
        adam = Album(done, figures.RESULTS)
        noise.title, fewer.title = "From noise, 128 px", "Through fewer moments, 128 px"
        adam.title = "The chapter's Adam, 128 px"
        return cls(large, noise, fewer, adam)


def setup(*albums: Album) -> str:
    """A table of what each tab shows: images, encoder, optimiser and the budgets of its runs."""
    head = ("tab", "style images", "encoder", "optimiser", "at most")
    rows = []
    for album in albums:
        settings = [run.record.asked.protocol for run in album.runs.values()]
        asked = next(iter(album.runs.values())).record.asked
        unit = f"{unit_of(settings[0])}s"
        budgets = sorted({one.budget for one in settings})
        most = f"{budgets[0]:,}" if len(budgets) == 1 else f"{budgets[0]:,} to {budgets[-1]:,}"
        rounds, more = settings[0].extra_rounds, settings[0].extra_iterations
        if rounds is not UNSET and more is not UNSET and rounds:
            unit += f", then up to {rounds} times {more:,} more"
        rows.append(
            (
                album.title,
                f"{len(album.styles)}, {asked.width} x {asked.height} px",
                "VGG-19, normalised" if asked.encoder == NORMALISED_NAME else asked.encoder,
                {"adam": "Adam", "l-bfgs": "L-BFGS with bounds"}[settings[0].method],
                f"{most} {unit}",
            )
        )
    return html_table(head, rows)


def guess_the_layer() -> str:
    """Four pictures of figure 1.3; which one is from the deepest layer?"""
    album = figures.reference("chapter")
    layers = ("relu_2_1", "relu_1_1", "relu_2_2", "relu_1_2")
    return interactive.prediction(
        "guess-the-layer",
        "Each picture has the style's Gram matrix at another layer. Which one is from the "
        "deepest layer, relu_2_2?",
        album.picture(STROKES),
        {layer: album.picture((STROKES, layer, "gram")) for layer in layers},
        "relu_2_2",
        "Deeper layers see more of the image at once, and their pictures have longer strokes. "
        "The last two are hard to tell apart: over all styles, only the step over the pooling, "
        "from relu_1_2 to relu_2_1, is sure to keep more of the structure "
        '(<a href="claims.html#c2">C2</a>).',
    )


def guess_the_moments(album: Album) -> str:
    """Four pictures of figure 1.6; which one has nothing but the means?"""
    losses = ("moment-3", "moment-2", "moment-4", "moment-1")
    return interactive.prediction(
        "guess-the-moments",
        "From the same noise, the pictures came to one, two, three and four moments of the "
        "style at relu_1_2. Which one has nothing but the mean of each feature map?",
        album.picture(MOSAIC),
        {album.label(loss): album.picture((MOSAIC, "relu_1_2", loss)) for loss in losses},
        album.label("moment-1"),
        "Equal means leave open how far the values spread, so colours and outlines go astray. "
        "What the third and the fourth moment add to the structure is, where runs reach the same "
        'loss, too small to count (<a href="claims.html#c3">C3</a>).',
    )


def loss_figure(number: str, loss: str, *albums: Album) -> str:
    """Figures 1.3 and 1.7: one loss over several style images, layer by layer."""
    titles = {"gram": "Gram matrix loss", "mmd": "MMD loss"}
    caption = (
        f"Figure {number}. {titles[loss]}. Top row: the style images. Below, layer by layer: what "
        "the statistic keeps of them."
    )
    tabs = (album.by_style(loss) for album in albums)
    return figures.figure(f"figure-{number.replace('.', '-')}", caption, *tabs)


def moment_figure(number: str, style: int, *albums: Album) -> str:
    """Figures 1.4 to 1.6: one to four moments of one style image, layer by layer."""
    return _by_loss(number, f"Moment loss, style image {style + 1}", style, MOMENTS, albums)


def losses_figure(number: str, style: int, *albums: Album) -> str:
    """Figures A.1 to A.3: the Gram matrix and one to four moments of one style image."""
    title = f"Gram matrix and moment loss, further style image {style + 1}"
    return _by_loss(number, title, style, ("gram", *MOMENTS), albums)


def _by_loss(
    number: str, title: str, style: int, losses: Sequence[str], albums: Sequence[Album]
) -> str:
    """A tab per album; runs that pass through fewer moments also show what the fourth changes."""
    caption = (
        f"Figure {number}. {title}. Rows: layers. Columns: the style image, then what each "
        "statistic keeps of it. A frame marks a run that failed: it ended at a loss above "
        f"{figures.FAILED} times theta. The fold below says what the runs passed through. Last "
        "column, where there is one: what the fourth moment changes, from the same noise; grey is "
        "no change, lighter is lighter."
    )
    tabs = []
    for album in albums:
        passes = any(run.record.asked.stages for run in album.runs.values())
        tabs.append(album.by_loss(style, losses, CHANGE if passes else None))
    return figures.figure(f"figure-{number.lower().replace('.', '-')}", caption, *tabs)


def seeds_figure(*tabs: Mapping[int, Album]) -> str:
    """One layer of one style image from different noise images: a row per seed, a tab each."""
    return figures.figure(
        "figure-seeds", "The deepest layer from different noise images.", *map(_seeds_panel, tabs)
    )


def reference_seeds() -> dict[int, Album]:
    """The reference runs of that figure, by their seeds."""
    seeds = entry_of("seeds", figures.RESULTS).seeds
    return {seed: figures.reference("seeds", seed=seed) for seed in seeds}


def _seeds_panel(albums: Mapping[int, Album]) -> Panel:
    cells: figures.Cells = {}
    for seed, album in albums.items():
        style, layer, _ = next(iter(album.runs))
        runs = {album.label(loss): (album, (style, layer, loss)) for loss in album.losses}
        cells[f"seed {seed}"] = {"style": (album, style), **runs}
    return figures.panel(cells)


def outcomes(*albums: Album) -> str:
    """A table of how the runs with up to two moments and with more ended, for each album."""
    rows = []
    for album in albums:
        for name, losses in (("N = 1, 2", MOMENTS[:2]), ("N = 3, 4", MOMENTS[2:])):
            found = [run.record for key, run in album.runs.items() if key[2] in losses]
            failed = sum(bool(figures.failure(record)) for record in found)
            below = sum(record.result.stop_reason == "theta" for record in found)
            rows.append((album.title, name, len(found), below, failed))
    head = ("tab", "moments", "runs", "below theta", f"failed (above {figures.FAILED} theta)")
    return html_table(head, rows)


def below_theta(*losses: str) -> str:
    """A table of the runs of the chapter's size, by loss and layer; see `stylised`."""
    content, study = read_claims(Path(CLAIMS)), read_study(figures.RESULTS)
    large = replace(content.claims["C8"].parts[0].runs, loss=losses)
    known = content.fit(read_records(Path(figures.RESULTS, "runs")), "structure")
    smallest = content.smallest | larger_seen(study, content.smallest)
    head = (
        "statistic",
        "layer",
        "runs below theta",
        "their structure kept (median)",
        "with too little to count that does not belong",
    )
    clean = smallest["artefact_excess"]
    return html_table(head, stylised(list(large.among(known).values()), clean))


def stylised(records: Sequence[Record], smallest: float) -> list[tuple[str, ...]]:
    """For each loss and layer: how many runs ended below theta, and what their pictures are like.

    Args:
        smallest: the least of what does not belong to a style (`artefact_excess`) that counts.

    Returns:
        Rows of loss, layer, how many runs ended below theta, the median of their structure kept,
        and in how many of their pictures too little to count does not belong to the style.
    """
    groups = defaultdict[tuple[str, str], list[Record]](list)
    for record in records:
        groups[record.asked.loss, record.asked.layer].append(record)
    rows = list[tuple[str, ...]]()
    for (loss, layer), found in sorted(groups.items()):
        below = [x.measures for x in found if x.result.stop_reason == "theta"]
        seen = [measures for measures in below if measures is not UNSET]
        structure = f"{median(x.structure for x in seen):.2f}" if seen else "none"
        clean = sum(x.artefact_excess < smallest for x in seen if x.artefact_excess is not UNSET)
        shares = f"{len(below)} of {len(found)}", structure, f"{clean} of {len(seen)}"
        rows.append((TITLES[loss], layer, *shares))
    return rows
