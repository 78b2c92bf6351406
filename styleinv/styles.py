"""Style images painted by seeded code, and photographs that ship inside scikit-image.

Every painted style has one known length, its *structure* in pixels, and a known palette, so that
what an inversion recovers can be measured against truth. Lengths never depend on the size of the
picture: a larger picture shows more of the same texture. The names, lengths and palettes of the
styles are in ``styles.toml``, with the credits of the photographs.
"""

import math
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from styleinv.errors import InputError, one_of, whole_number

Floats = NDArray[np.floating]
Painter = Callable[[int, float, Floats, np.random.Generator], Floats]

MIN_SIZE, MAX_SIZE = 16, 4096
LARGEST_SEED = 2**63 - 1
SMALLEST_STRUCTURE = 2

# Painters work on a canvas this many times finer in each direction; `paint` averages it down.
FINENESS = 3
# Pillow fills every fine pixel that a polygon's edge touches: shapes grow by this many pixels.
BLEED = 0.5 / FINENESS


# Building blocks ------------------------------------------------------------------------------


class _Field:
    """A smooth stationary random function of position: a sum of plane waves, of variance 1."""

    def __init__(
        self, rng: np.random.Generator, period: float, count: int = 12, wind: float = 0
    ) -> None:
        # Evenly spread directions keep every seed isotropic; only the wavelengths vary freely.
        direction = np.pi * (np.arange(count) + rng.random(count)) / count
        number = 2 * np.pi / (period * rng.uniform(0.7, 1.6, count))
        offset = rng.uniform(0, 2 * np.pi, count)
        waves = [number * np.cos(direction), number * np.sin(direction), offset]
        self._waves = np.stack(waves, axis=1).astype(np.float32)
        self._amplitude = math.sqrt(2 / count)
        self._wind = wind * 2 * np.pi / period

    def __call__(self, x: Floats, y: Floats) -> Floats:
        heights = np.zeros_like(x)
        for kx, ky, offset in self._waves:
            heights += self._amplitude * np.cos(kx * x + ky * y + offset)
        return heights

    def slope_angle(self, x: Floats, y: Floats) -> Floats:
        """The direction of steepest ascent in radians; `wind` tilts the field along y."""
        dx, dy = np.zeros_like(x), np.full_like(y, self._wind)
        for kx, ky, offset in self._waves:
            slope = -self._amplitude * np.sin(kx * x + ky * y + offset)
            dx, dy = dx + kx * slope, dy + ky * slope
        return np.arctan2(dy, dx)


class _Patches:
    """Regions of colour. Each colour has a random field, and the highest one at a point wins.

    A broader field raises the early colours of the palette in some parts of the picture and the
    late ones in others, which makes light and dark masses of a palette that runs dark to light.
    """

    def __init__(self, palette: Floats, period: float, rng: np.random.Generator) -> None:
        # A generator of its own, so that the palette's length cannot change the geometry.
        self._rng = rng.spawn(1)[0]
        self._palette = palette
        self._fields = [_Field(self._rng, period) for _ in palette]
        self._light = _Field(self._rng, 2 * period)

    def __call__(self, points: Floats, straying: float) -> Floats:
        """Colours (n, 3) at points (n, 2); `straying` is the noise, relative to the fields."""
        heights = np.stack([_equalise(field(*points.T)) for field in self._fields])
        lateness = np.linspace(-0.45, 0.45, len(self._palette))[:, None]
        heights += lateness * (2 * _equalise(self._light(*points.T)) - 1)
        heights += 0.3 * straying * self._rng.standard_normal(heights.shape)
        return np.asarray(self._palette[heights.argmax(axis=0)])


class _Canvas:
    """A fine canvas on which polygons and lines are drawn in pixels of the final picture."""

    def __init__(self, size: int, ground: Floats) -> None:
        self._image = Image.new("RGB", (size * FINENESS, size * FINENESS), _ink(ground))
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Floats, colour: Floats) -> None:
        self._draw.polygon((points * FINENESS - 0.5).ravel().tolist(), _ink(colour))

    def line(self, points: Floats, width: float, colour: Floats) -> None:
        thickness = max(1, round(width * FINENESS))
        self._draw.line((points * FINENESS - 0.5).ravel().tolist(), _ink(colour), thickness)

    def pixels(self) -> Floats:
        return np.asarray(self._image, dtype=np.float32) / 255


def _ink(colour: Floats) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in colour.tolist())
    return red, green, blue


def _equalise(values: Floats) -> Floats:
    """Map values to their quantile in [0, 1], so that every tone covers the same area."""
    sample = np.sort(values.ravel()[:: 1 + values.size // 4096])
    return np.asarray((np.searchsorted(sample, values) + 0.5) / len(sample))


def _pick(palette: Floats, tone: Floats) -> Floats:
    """The palette's colour for each tone in [0, 1]; steps, not blends, so colours stay true."""
    steps = np.clip((tone * len(palette)).astype(int), 0, len(palette) - 1)
    return np.asarray(palette[steps])


def _shade(colours: Floats, amount: Floats | float) -> Floats:
    """Move colours towards white (amount > 0) or black (amount < 0) by that fraction."""
    share = np.clip(amount, -1, 1)[..., None]
    return np.where(share > 0, colours + share * (1 - colours), colours * (1 + share))


def _grid(size: int) -> tuple[Floats, Floats]:
    """The x and y of every point of the fine canvas, in pixels of the final picture."""
    axis = (np.arange(size * FINENESS, dtype=np.float32) + 0.5) / FINENESS
    x, y = np.meshgrid(axis, axis)
    return x, y


def _scattered(size: int, spacing: float, jitter: float, rng: np.random.Generator) -> Floats:
    """Points (n, 2) of a brick lattice that reaches beyond the picture, each point moved."""
    axis = np.arange(-4 * spacing, size + 5 * spacing, spacing)
    x, y = np.meshgrid(axis, axis)
    x[::2] += spacing / 2
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    return points + rng.uniform(-jitter, jitter, points.shape) * spacing


def _level_lines(height: Floats, distance: float) -> Floats:
    """Count the level lines of `height` from 0, if they lie `distance` px apart on average."""
    steepness = np.hypot(*np.gradient(height)).mean() * FINENESS
    return np.asarray((height - height.min()) / (distance * steepness))


# Painters: (size, structure, palette, rng) -> fine canvas -------------------------------------


def _strokes(size: int, structure: float, palette: Floats, rng: np.random.Generator) -> Floats:
    canvas = _Canvas(size, palette[0])
    swirl = _Field(rng, min(14 * structure, 0.8 * size), count=7, wind=0.8)
    light = _Field(rng, min(14 * structure, 0.8 * size))
    for broadness, coverage, straying in ((1.7, 2.2, 0.5), (1.0, 2.2, 0.9), (0.6, 0.25, 1.5)):
        width = broadness * structure
        starts = _scattered(size, width * math.sqrt(5.5 / coverage), 0.5, rng)
        paths, normals = _follow(swirl, rng.permutation(starts), 5.5 * width, 20)
        middles = paths[:, 10].T
        tone = 0.8 * swirl(*middles) + 0.8 * light(*middles)
        tone = _equalise(tone + straying * rng.standard_normal(len(paths)))
        colours = _shade(_pick(palette, tone), 0.05 * rng.standard_normal(len(paths)))
        _brush(canvas, paths, normals, width, colours, rng)
    return canvas.pixels()


def _follow(field: _Field, starts: Floats, length: float, steps: int) -> tuple[Floats, Floats]:
    """Walk along the level lines of `field`; return points and unit normals (n, steps + 1, 2)."""
    points, normals = [starts], []
    for _ in range(steps + 1):
        angle = field.slope_angle(*points[-1].T)
        normals.append(np.stack([np.cos(angle), np.sin(angle)], axis=1))
        ahead = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
        points.append(points[-1] + length / steps * ahead)
    return np.stack(points[:-1], axis=1), np.stack(normals, axis=1)


def _brush(
    canvas: _Canvas,
    paths: Floats,
    normals: Floats,
    width: float,
    colours: Floats,
    rng: np.random.Generator,
) -> None:
    """Draw each path as a bundle of bristles of its colour, with a round and ragged end."""
    strokes, points = paths.shape[:2]
    count = int(np.clip(round(width * FINENESS / 3), 3, 9))
    bristle = 1.3 * width / count
    across = np.linspace(-1, 1, count)
    narrowing = 1 - 0.5 * np.linspace(0, 1, points) ** 3
    offsets = across[:, None, None] * narrowing[:, None] * (width - bristle) / 2
    roundness = 2 * (1 - np.sqrt(1 - 0.9 * across**2))
    cuts = np.rint(roundness + rng.exponential(1.0, (2, strokes, count))).astype(int)
    shades = 0.05 * across + 0.09 * rng.standard_normal((strokes, count))
    inks = _shade(colours[:, None], shades)
    for path, normal, ink, begin, end in zip(
        paths, normals, inks, cuts[0], points - cuts[1], strict=True
    ):
        lines = path + offsets * normal
        for i in np.flatnonzero(end - begin > 1):
            canvas.line(lines[i, begin[i] : end[i]], bristle, ink[i])


def _dots(size: int, structure: float, palette: Floats, rng: np.random.Generator) -> Floats:
    canvas = _Canvas(size, palette[0])
    period = min(16 * structure, 0.7 * size)
    flow, patches = _Field(rng, period), _Patches(palette[1:], period, rng)
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    for spacing, straying in ((1.05, 0.6), (1.3, 0.8), (1.9, 1.6)):
        centres = rng.permutation(_scattered(size, spacing * structure, 0.32, rng))
        colours = _shade(patches(centres, straying), 0.06 * rng.standard_normal(len(centres)))
        lengths = structure / 2 * rng.uniform(0.95, 1.2, len(centres))
        widths = structure / 2 * rng.uniform(0.8, 1.05, len(centres))
        tilt = flow.slope_angle(*centres.T)[:, None]
        along, across = lengths[:, None] * np.cos(turn), widths[:, None] * np.sin(turn)
        x = along * np.cos(tilt) - across * np.sin(tilt)
        y = along * np.sin(tilt) + across * np.cos(tilt)
        outlines = centres[:, None] + np.stack([x, y], axis=-1)
        for outline, colour in zip(outlines, colours, strict=True):
            canvas.polygon(outline, colour)
    return canvas.pixels()


def _mosaic(size: int, structure: float, palette: Floats, rng: np.random.Generator) -> Floats:
    from scipy.spatial import Voronoi

    canvas = _Canvas(size, palette[0])
    period = min(16 * structure, 0.7 * size)
    bends = _Field(rng, period), _Field(rng, period)
    points = _scattered(size, structure, 0.14, rng)
    points += 0.035 * period * np.stack([bend(*points.T) for bend in bends], axis=1)
    colours = _Patches(palette[1:], period, rng)(points, 0.45)
    colours = _shade(colours, 0.09 * rng.standard_normal(len(points)))
    cells = Voronoi(points)
    shrinks = rng.uniform(0.8, 0.9, len(points)) - 2 * BLEED / structure
    for region, colour, shrink in zip(cells.point_region, colours, shrinks, strict=True):
        corners = cells.vertices[cells.regions[region]]
        if -1 in cells.regions[region]:
            continue  # an open cell at the rim of the lattice, outside of the picture
        middle = corners.mean(axis=0)
        canvas.polygon(middle + shrink * (corners - middle), _shade(colour, -0.13))
        lit = middle + 0.95 * shrink * (corners - middle) - 0.025 * structure
        canvas.polygon(lit, colour)
    return canvas.pixels()


def _woodcut(size: int, structure: float, palette: Floats, rng: np.random.Generator) -> Floats:
    from scipy.ndimage import gaussian_filter, map_coordinates

    x, y = _grid(size)
    period = min(12 * structure, 0.6 * size)
    swell, light, tint = (_Field(rng, period) for _ in range(3))
    lines = _level_lines(y + 0.1 * period * swell(x, y), structure)
    gouges = rng.random((int(lines.max()) + 1, 2 + math.ceil(size / structure)))
    gouge = map_coordinates(gouges, [np.floor(lines), x / (3 * structure)], order=1)
    inked = 0.12 + 0.6 * _equalise(light(x, y)) + 0.4 * (gouge - 0.5)
    # In the coordinates of the lines, so that the flat blocks of colour follow the waves.
    tone = _equalise(tint(0.4 * x, lines * structure))
    blocks = _pick(np.concatenate([palette[:1], palette[2:]]), tone)
    printed = np.abs(lines % 1 - 0.5) < inked / 2
    grain = gaussian_filter(rng.standard_normal(x.shape), (0.4 * FINENESS, 6 * FINENESS))
    return _shade(np.where(printed[..., None], palette[1], blocks), 0.05 * grain / grain.std())


def _rectangles(size: int, structure: float, palette: Floats, rng: np.random.Generator) -> Floats:
    canvas = _Canvas(size, palette[0])
    boxes = np.array(_split(np.array([0.0, 0.0, size, size]), structure, rng))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    period = min(5 * structure, 0.6 * size)
    crowd = _Field(rng, period)(*centres.T) + 0.7 * rng.standard_normal(len(boxes))
    vivid = _Patches(palette[min(2, len(palette) - 1) :], period, rng)(centres, 0.8)
    colours = np.where((_equalise(crowd) > 0.52)[:, None], vivid, palette[1])
    colours = _shade(colours, -0.05 * rng.random(len(boxes)))
    insets = structure / 13 * rng.uniform(0.7, 1.3, len(boxes)) + BLEED
    for box, colour, inset in zip(boxes, colours, insets, strict=True):
        left, top, right, bottom = box + inset * np.array([1, 1, -1, -1])
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        canvas.polygon(corners, colour)
    return canvas.pixels()


def _split(box: Floats, side: float, rng: np.random.Generator) -> list[Floats]:
    """Cut the box (left, top, right, bottom) in two until its area is about `side` squared."""
    extent = box[2:] - box[:2]
    share, whim, patience = rng.uniform([0.28, 0.5, 0.6], [0.72, 2.0, 2.8])
    if extent.prod() < patience * side**2:
        return [box]
    axis = 0 if extent[0] > whim * extent[1] else 1
    first, second = box.copy(), box.copy()
    first[2 + axis] = second[axis] = box[axis] + share * extent[axis]
    return [*_split(first, side, rng), *_split(second, side, rng)]


def _marbling(size: int, structure: float, palette: Floats, rng: np.random.Generator) -> Floats:
    x, y = _grid(size)
    period = min(14 * structure, 0.6 * size)
    sway, drift = _Field(rng, period), _Field(rng, period)
    combed = (x + 0.06 * period * sway(x, y)) / (3.5 * structure)
    combed -= combed.min()
    pulls = 3 * structure * rng.uniform(0.6, 1.4, int(combed.max()) + 1)
    comb = pulls[combed.astype(int)] * (np.exp(-3 * np.abs(2 * (combed % 1) - 1)) - math.exp(-3))
    bands = _level_lines(y + 0.1 * period * drift(x, y) + comb, structure)
    knots = np.arange(int(bands.max()) + 3)
    bands = np.interp(bands, knots, knots + rng.uniform(0.15, 0.85, len(knots)))
    # Steps of less than half the palette, so that neighbours differ and every colour has its turn.
    tones = np.cumsum(rng.uniform(0.34, 0.46, len(knots))) % 1
    colours = _pick(palette[1:], tones)[bands.astype(int)]
    veins = np.abs(bands - np.rint(bands)) < 0.08
    return np.asarray(np.where(veins[..., None], palette[0], colours))


# The gallery ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """A style that can be painted.

    Attributes:
        title: its name as that of a picture.
        description: what it shows, in a sentence.
        structure: its default length in pixels.
        structure_meaning: what that length measures.
        palette: colours "#rrggbb", the ground (canvas, grout, paper, lines, veins) first. The
            second colour of woodcut is the ink of its lines, and that of rectangles is white. The
            others run from dark to light where light and dark masses are wanted.
        painter: the function that paints it.
    """

    name: str
    title: str
    description: str
    structure: float
    structure_meaning: str
    palette: list[str]
    painter: Painter


_PAINTERS: dict[str, Painter] = {
    "strokes": _strokes,
    "dots": _dots,
    "mosaic": _mosaic,
    "woodcut": _woodcut,
    "rectangles": _rectangles,
    "marbling": _marbling,
}
_GALLERY = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))

PAINTED: dict[str, Style] = {
    name: Style(name=name, painter=_PAINTERS[name], **entry)
    for name, entry in _GALLERY["painted"].items()
}

_HEX_COLOUR = re.compile("#[0-9a-fA-F]{6}")


def paint(
    name: str,
    size: int = 256,
    *,
    structure: float | None = None,
    palette: Sequence[str] | None = None,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Paint a style image: (size, size, 3), float32, RGB in [0, 1].

    The same arguments always paint the same picture, and another palette with the same seed
    changes the colours only.

    Args:
        name: A key of `PAINTED`.
        size: Side of the picture in pixels, 16 to 4096.
        structure: The style's known length in pixels (see `Style.structure_meaning`), from 2 to
            `size`. None stands for the style's own, or for `size` if that is smaller.
        palette: Two or more colours "#rrggbb", in the order of `Style`. None stands for the style's
            own.
        seed: A non-negative integer.

    Raises:
        InputError: An argument is outside of what is allowed above.
    """
    style = PAINTED[one_of("name of the painted style", name, tuple(PAINTED))]
    whole_number("size", size, MIN_SIZE, MAX_SIZE)
    whole_number("seed", seed, 0, LARGEST_SEED)
    default = min(style.structure, size)
    length = _checked_structure(default if structure is None else structure, size)
    colours = _parsed_palette(style.palette if palette is None else palette)
    fine = style.painter(size, length, colours, np.random.default_rng(seed))
    picture = fine.reshape(size, FINENESS, size, FINENESS, 3).mean(axis=(1, 3))
    return np.asarray(picture.clip(0, 1), dtype=np.float32)


def _checked_structure(structure: float, size: int) -> float:
    is_number = isinstance(structure, int | float | np.number) and not isinstance(structure, bool)
    if not is_number or not SMALLEST_STRUCTURE <= structure <= size:
        raise InputError(
            f"structure is {structure!r}, but must be a number of pixels from "
            f"{SMALLEST_STRUCTURE} to the size, {size}"
        )
    return float(structure)


def _parsed_palette(palette: Sequence[str]) -> Floats:
    colours = [palette] if isinstance(palette, str) else list(palette)
    for colour in colours:
        if not (isinstance(colour, str) and _HEX_COLOUR.fullmatch(colour)):
            raise InputError(f"palette has {colour!r}, but its colours must look like '#1a2b3c'")
    if len(colours) < 2:
        raise InputError(f"palette has {len(colours)} colours, but must have at least 2")
    return np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255


# Photographs ----------------------------------------------------------------------------------

PHOTOGRAPHS: dict[str, str] = {
    name: entry["credit"] for name, entry in _GALLERY["photographs"].items()
}
"""The usable pictures inside the scikit-image wheel, each with its credit."""


def photograph(name: str) -> NDArray[np.uint8]:
    """Read a picture of `PHOTOGRAPHS`: (height, width, 3), uint8; a grey one has equal channels.

    It is read from the installed package, because `skimage.data` would download what it lacks.

    Raises:
        InputError: The name is unknown, or the installed scikit-image lacks the picture.
    """
    one_of("name of the photograph", name, tuple(PHOTOGRAPHS))
    file = _GALLERY["photographs"][name]["file"]
    resource = resources.files("skimage").joinpath("data", file)
    if not resource.is_file():
        raise InputError(
            f"name is {name!r}, but the installed scikit-image does not contain its file {file}"
        )
    with resource.open("rb") as stream, Image.open(stream) as image:
        return np.array(image.convert("RGB"), dtype=np.uint8)
