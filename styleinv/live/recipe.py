"""Recipes: the files in which the live page says how to make its runs again.

`share.js` writes them, in the browser; `styleinv invert --recipe` reads them. A recipe can come
from anybody. Only what is listed here is accepted, a style is a name or a picture inside the
recipe, and no field is a path.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from PIL import Image

from styleinv.encoder import load_encoder
from styleinv.errors import InputError, shorten
from styleinv.images import BUNDLED, SCIKIT_IMAGE
from styleinv.inversion import Task, plan
from styleinv.losses import ALPHA
from styleinv.runs.record import Number, Plain

FORMAT = 1
LARGEST_RECIPE = 2**27  # bytes: a picture of 4096 x 4096 pixels is smaller

Text = Annotated[str, msgspec.Meta(max_length=100)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class MadeWith(Plain, frozen=True):
    """What computed the runs: Python or the engine in the browser, and styleinv's version."""

    engine: Literal["python", "browser"]
    version: Text


class Reached(Plain, frozen=True):
    """Where a run ended; `stop` as in `styleinv.optim.Monitor`."""

    loss: Number
    evaluations: Count
    stop: Text


class Picture(Plain, frozen=True):
    """A reader's own image, cut and resized for the run: a PNG file, in JSON as base64."""

    png: bytes


class Run(Plain, frozen=True):
    """What the runs of a recipe differ in; `alpha` is the kernel width of the MMD."""

    layer: Text
    loss: Text
    reached: Reached
    alpha: Number = ALPHA


class _Version(msgspec.Struct):
    format: int


class Recipe(Plain, frozen=True):
    """The runs of one start.

    Attributes:
        format: the version of this format.
        style: the name of a style that everybody has, or a square picture of `size` pixels.
        protocol: a name of `styleinv.protocol.PROTOCOLS`.
        iterations: a budget other than the protocol's, see `styleinv.inversion.invert`.
        encoder: ``"file"`` stands for a file of weights that the recipe does not have.
    """

    format: Literal[1]
    made_with: MadeWith
    style: Text | Picture
    protocol: Text
    size: int
    seed: int
    encoder: Literal["bundled", "vgg19", "vgg19-normalised", "random", "file"]
    runs: Annotated[tuple[Run, ...], msgspec.Meta(min_length=1, max_length=4)]
    iterations: int | None = None

    def plan(
        self, given: Mapping[str, Any], *, seconds: float | None = None, device: str = "cpu"
    ) -> list[Task]:
        """The tasks of the runs, in order.

        Args:
            given: arguments of `plan` that the reader has given beside the recipe.
            seconds, device: see `styleinv.inversion.invert`.

        Raises:
            InputError: the recipe asks for what cannot be run, or for something else than `given`.
        """
        for run in self.runs:
            self._check(given, run)
        encoder = given.get("encoder") if self.encoder == "file" else self.encoder
        if encoder is None:
            raise InputError("the recipe's encoder is a file of weights: give it with --encoder")
        style = self._style()
        loaded = load_encoder(encoder, device=device)
        return [
            plan(
                style,
                layer=run.layer,
                loss=run.loss,
                encoder=loaded,
                protocol=self.protocol,
                seed=self.seed,
                size=self.size,
                iterations=self.iterations,
                seconds=seconds,
                alpha=run.alpha,
            )
            for run in self.runs
        ]

    def _style(self) -> str | Image.Image:
        if isinstance(self.style, Picture):
            return _picture(self.style, self.size)
        if not self.style.startswith((BUNDLED, SCIKIT_IMAGE)):
            raise InputError(
                f"style is {self.style!r} in the recipe, but must be a picture in the recipe or a "
                "name of `styleinv styles`"
            )
        return self.style

    def _check(self, given: Mapping[str, Any], run: Run) -> None:
        """Refuse what was given beside the recipe and is not what it says."""
        own = {name: getattr(self, name) for name in ("style", "protocol", "iterations", "size")}
        own |= {name: getattr(run, name) for name in ("layer", "loss", "alpha")}
        own |= {"seed": self.seed, "fit": "crop"}
        if self.encoder != "file":
            own["encoder"] = self.encoder
        for name, value in given.items():
            if name in own and own[name] != value:
                known = {type(None): "the protocol's own", Picture: "a picture"}
                said = known.get(type(own[name])) or shorten(own[name])
                raise InputError(
                    f"{name} is {shorten(value)}, but {said} in the recipe: leave it out"
                )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: there is no such file, or it is no recipe of this format.
    """
    name = f"recipe {str(path)!r}"
    try:
        if not path.is_file():
            raise InputError(f"{name} is not an existing file")
        if path.stat().st_size > LARGEST_RECIPE:
            raise InputError(f"{name} must have at most {LARGEST_RECIPE >> 20} MB")
        content = path.read_bytes()
        version = msgspec.json.decode(content, type=_Version).format
        if version != FORMAT:
            raise InputError(f"{name} has format {version}, but must have {FORMAT}")
        return msgspec.json.decode(content, type=Recipe)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # what msgspec raises is a ValueError
        raise InputError(f"{name} cannot be used: {error}") from error


def _picture(picture: Picture, size: int) -> Image.Image:
    try:
        found = Image.open(BytesIO(picture.png), formats=["PNG"])
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"the picture in the recipe is no PNG file: {error}") from error
    if found.size != (size, size):
        width, height = found.size
        raise InputError(
            f"the picture in the recipe has {width} x {height} pixels, but must have the recipe's "
            f"size, {size} x {size}"
        )
    return found
