"""The command line: each command is a function here, and its options are the arguments.

Starting it loads only the core and Typer; a command imports the room that it needs.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from typer import Argument, Option

from styleinv import __version__, terminal
from styleinv.checkpoint import DEFAULT_SECONDS, check_seconds
from styleinv.encoder import LAYERS, SOURCES, load_encoder
from styleinv.errors import InputError, whole_number
from styleinv.files import check_writable, make_folder
from styleinv.images import BUNDLED, SCIKIT_IMAGE, Fit
from styleinv.inversion import DEFAULT_SIZE, Task, plan
from styleinv.losses import ALPHA, LOSSES, WITH_ALPHA
from styleinv.optim import Iterate
from styleinv.preflight import preflight
from styleinv.protocol import CHAPTER_ITERATIONS, PROTOCOLS
from styleinv.styles import PAINTED, PHOTOGRAPHS
from styleinv.terminal import report

if TYPE_CHECKING:
    from styleinv.runs.cluster import DaskCluster

GOES_ON = "Run the same command again to continue from here."
STARTS_AGAIN = "The same command would start from the beginning: protocol {!r} has no checkpoints."
OUT = Path("out")
# The values of an option that can be repeated.
Texts = list[str] | None

app = typer.Typer(
    help="Which style does a summary statistic of a VGG-19 layer hold? Invert it and look.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# --- options that several commands have

LayerOption = Annotated[str, Option(help=f"Layer to invert: {', '.join(LAYERS)}.")]
LossOption = Annotated[str, Option(help=f"Style loss: {', '.join(LOSSES)}.")]
EncoderOption = Annotated[str, Option(help=f"{', '.join(SOURCES)}, or a file of weights.")]
ProtocolOption = Annotated[str, Option(help=f"{', '.join(PROTOCOLS)}; see `invert --help`.")]
SizeOption = Annotated[int, Option(help="Shorter side in pixels, 16 to 4096.")]
FitOption = Annotated[Fit, Option(help="Crop to a square, or keep the aspect ratio.")]
IterationsOption = Annotated[int | None, Option(help="Replace the protocol's budget, see above.")]
DeviceOption = Annotated[str, Option(help="cpu, cuda or mps; no silent fallback.")]
OutOption = Annotated[Path, Option(help="Folder for the PNGs and their JSON records.")]
CheckpointOption = Annotated[float, Option(help="Seconds between two checkpoints of a run.")]


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, Option("--version")] = False) -> None:
    if version:
        print(f"styleinv {__version__}")
        raise typer.Exit


# --- invert


@app.command()
def invert(
    context: typer.Context,
    style: Annotated[
        str | None, Argument(help=f"Image file, {BUNDLED}NAME or {SCIKIT_IMAGE}NAME.")
    ] = None,
    layer: LayerOption = "relu_2_1",
    loss: LossOption = "gram",
    encoder: EncoderOption = "bundled",
    protocol: ProtocolOption = "fast",
    seed: Annotated[int | None, Option(help="Seed of the noise; default: the protocol's.")] = None,
    size: SizeOption = DEFAULT_SIZE,
    fit: FitOption = "crop",
    iterations: IterationsOption = None,
    seconds: Annotated[float | None, Option(help="Stop after this much time, see above.")] = None,
    alpha: Annotated[float, Option(help=f"Kernel width of {' and '.join(WITH_ALPHA)}.")] = ALPHA,
    device: DeviceOption = "cpu",
    out: OutOption = OUT,
    checkpoint_every: CheckpointOption = DEFAULT_SECONDS,
    again: Annotated[bool, Option("--again", help="Make a run again that is there.")] = False,
    recipe: Annotated[Path | None, Option(help="File from the live page, see above.")] = None,
) -> None:
    """Invert one style image and write the picture with its record.

    Example: styleinv invert painting.jpg --layer relu_2_2 --loss gram --size 256

    Protocols: `fast` is our L-BFGS with first stages that know no more than the loss,
    `from-noise` the same without them; `quantiles` starts N > 2 from a stronger statistic.
    `scipy` is SciPy's L-BFGS-B; `unbounded` and `clamped` are PyTorch's. `chapter` and `released`
    are Adam with up to 850,000 iterations: days on a CPU. The MMD as printed can turn negative;
    `chapter` then stops, below theta. --iterations replaces the protocol's budget and drops its
    extra rounds. A run that --seconds stops is not repeatable; the limit is 1800 by default, and
    there is none for `chapter`, `released` or with --iterations.

    Ctrl-C finishes the current iteration and saves the picture; the same command then continues.
    After a crash, it continues from the last checkpoint, which is beside the record (`scipy`,
    `unbounded` and `clamped` have none).

    --recipe FILE makes the runs again that Save on the live page has described in FILE, and says
    what they reached there. Only --seconds, --device, --out, --checkpoint-every and --again can
    change something then, and --encoder where a file of weights was used.
    """
    check_seconds("checkpoint-every", checkpoint_every)
    if recipe is not None:
        raise typer.Exit(_run_recipe(recipe, context))
    if style is None:
        raise InputError("invert needs a style image, or a --recipe")
    task = plan(
        style,
        layer=layer,
        loss=loss,
        encoder=encoder,
        protocol=protocol,
        seed=seed,
        size=size,
        fit=fit,
        iterations=iterations,
        seconds=seconds,
        alpha=alpha,
        device=device,
    )
    _make_out(out)
    _announce([task], [style], fit, out, again)
    raise typer.Exit(_run(task, out, checkpoint_every, again))


def _run_recipe(file: Path, context: typer.Context) -> int:
    """Make the runs of a recipe, and say what it has of them; returns the exit code."""
    from styleinv.live.recipe import read_recipe

    recipe, options = read_recipe(file), context.params
    given = {name: value for name, value in options.items() if _is_typed(context, name)}
    tasks = recipe.plan(given, seconds=options["seconds"], device=options["device"])
    out, again = options["out"], options["again"]
    _make_out(out)
    _announce(tasks, [recipe.style] if isinstance(recipe.style, str) else [], "crop", out, again)
    for task, run in zip(tasks, recipe.runs, strict=True):
        code = _run(task, out, options["checkpoint_every"], again)
        reached, made_with = run.reached, recipe.made_with
        report(
            f"In the recipe: loss {reached.loss:.2g} after {reached.evaluations:,} evaluations, "
            f"{reached.stop} ({made_with.engine}, styleinv {made_with.version})"
        )
        if code:
            return code
    return 0


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether the reader has typed an option, rather than left it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _announce(tasks: list[Task], styles: list[str], fit: Fit, out: Path, again: bool) -> None:
    """Say what there is to know before the runs that have to be made."""
    from styleinv.runs import store

    if missing := [task for task in tasks if again or not store.path_of(task, out).exists()]:
        report(*preflight(missing, styles, fit))


def _run(task: Task, out: Path, checkpoint_every: float, again: bool) -> int:
    """Find the run of a task in `out` or make it, and say what came out; returns the exit code."""
    from styleinv.runs import store, sweeps

    with terminal.progress(task) as show, terminal.interrupts() as asked_to_stop:

        def callback(iterate: Iterate) -> bool:
            show(iterate.iteration, iterate.evaluations, iterate.loss)
            return asked_to_stop()

        run, found = store.obtain(
            task,
            out,
            callback=callback,
            stop=asked_to_stop,
            every=checkpoint_every,
            again=again,
            unfinished=True,
        )
        result = run.record.result
        show(result.iterations, result.evaluations, result.loss)
    if run.path is not None:
        print(run.path.with_suffix(".png"), run.path, sep="\n")
    report(sweeps.summary(run, found) + (" (--again makes it again)" if found else ""))
    if run.was_stopped:
        report(GOES_ON if task.protocol.can_go_on else STARTS_AGAIN.format(task.protocol.name))
    return {"stopped": 130, "not finite": 1}.get(result.stop_reason, 0)


@app.command()
def check(
    images: Annotated[list[str], Argument(help="Style images, as for `invert`.")],
    layer: LayerOption = "relu_2_1",
    loss: LossOption = "gram",
    encoder: EncoderOption = "bundled",
    protocol: ProtocolOption = "fast",
    size: SizeOption = DEFAULT_SIZE,
    fit: FitOption = "crop",
    iterations: IterationsOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Tell what `invert` would do with images: what it reads, cuts off and needs, and for how long.

    Example: styleinv check painting.jpg --layer relu_2_2 --size 256

    The time is measured by the first evaluations of the run; nothing is kept. The exit code is 2 if
    an image, or the run, would be refused.
    """
    weights, refused = load_encoder(encoder, device=device), False
    for image in images:
        try:
            task = plan(
                image,
                layer=layer,
                loss=loss,
                encoder=weights,
                protocol=protocol,
                size=size,
                fit=fit,
                iterations=iterations,
            )
            print(*preflight([task], [image], fit), sep="\n", flush=True)
        except InputError as error:
            refused = True
            report(f"Error: {error}.")
    raise typer.Exit(2 if refused else 0)


# --- sweep


@app.command()
def sweep(
    style: Annotated[Texts, Option(help="Style image, as for `invert`; repeatable.")] = None,
    layer: Annotated[Texts, Option(help="Layer to invert; repeatable; default: all.")] = None,
    loss: Annotated[Texts, Option(help="Style loss; repeatable; default: the chapter's.")] = None,
    seeds: Annotated[int, Option(min=1, max=10_000, help="Number of seeds, from 0 up.")] = 1,
    encoder: EncoderOption = "bundled",
    protocol: ProtocolOption = "fast",
    size: SizeOption = DEFAULT_SIZE,
    iterations: IterationsOption = None,
    device: DeviceOption = "cpu",
    out: OutOption = OUT,
    reference: Annotated[Path | None, Option(help="File that lists runs, see above.")] = None,
    only: Annotated[Texts, Option(help="One of its sweeps; repeatable; default: all.")] = None,
    workers: Annotated[int | None, Option(help="Number of runs at once, a process each.")] = None,
    scheduler: Annotated[str | None, Option(help="A Dask scheduler's address, see above.")] = None,
    tls_ca: Annotated[Path | None, Option(help="Who has signed its certificate, PEM.")] = None,
    tls_cert: Annotated[Path | None, Option(help="Your certificate for it, PEM.")] = None,
    tls_key: Annotated[Path | None, Option(help="Your key for it, PEM.")] = None,
    threads: Annotated[int | None, Option(help="Threads per run, see above.")] = None,
    batch: Annotated[int | None, Option(help="Most runs side by side, see above.")] = None,
    checkpoint_every: CheckpointOption = DEFAULT_SECONDS,
) -> None:
    """Invert every style through every loss at every layer; what is there already is kept.

    Example: styleinv sweep --style painting.jpg --style bundled:strokes --seeds 3 --workers 2

    With --reference FILE, the file lists the runs, and they are saved in runs/ beside it. --only,
    --encoder, --device and the options from --workers on have an effect then, no other. By default
    one process takes as many threads as the machine offers, and workers share them; another number
    can change a result's last digits. The runs of the book: --reference results/reference.yml
    --encoder vgg19-normalised makes those that are missing, and with a copy of that file alone in
    another folder all of them.

    Whoever reaches a scheduler can run programs as you. --workers starts one with credentials that
    only its own processes have. --scheduler tls://HOST:PORT takes yours from --tls-ca, --tls-cert
    and --tls-key, or from Dask's own configuration; tcp://HOST:PORT has none.

    With `chapter` and `released`, runs of one layer and size share their passes through the encoder
    where that is faster: on a GPU, and for small pictures. --batch says how many at most, 1: none.
    Each ends as it would alone; its seconds are those of the batch. Workers make single runs.

    Ctrl-C finishes the current iteration; the same command then continues.
    """
    from styleinv.runs import store
    from styleinv.runs.reference import make_reference_runs
    from styleinv.runs.sweeps import Execution, make_runs, plan_sweep

    if (reference is None) == (not style):
        raise InputError("sweep needs either --style, once or more, or --reference")
    check_seconds("checkpoint-every", checkpoint_every)
    if reference is None:
        _check_batch(batch, protocol)
        tasks = plan_sweep(
            style or [],
            layers=layer or LAYERS,
            losses=loss or tuple(CHAPTER_ITERATIONS),
            encoder=load_encoder(encoder, device=device),
            protocol=protocol,
            seeds=range(seeds),
            size=size,
            iterations=[iterations],
        )
    tls = tls_ca, tls_cert, tls_key
    with (
        terminal.interrupts() as asked_to_stop,
        _cluster(workers, scheduler, threads, tls) as cluster,
    ):
        execution = Execution(asked_to_stop, checkpoint_every, cluster, batch)
        if reference is None:
            _make_out(out)
            if missing := [task for task in tasks if not store.path_of(task, out).exists()]:
                report(*preflight(missing, style or []))
            complete = len(make_runs(tasks, out, report=report, execution=execution)) == len(tasks)
        else:
            from styleinv_book.ablation import KNOWN

            complete = make_reference_runs(
                reference, encoder, device, report, execution, KNOWN, only or ()
            )
    if not complete:
        report(GOES_ON)
        raise typer.Exit(130)
    print(out if reference is None else reference.with_name("runs"))


def _check_batch(batch: int | None, protocol: str) -> None:
    """Refuse runs side by side where there is no such thing."""
    able = [name for name, one in PROTOCOLS.items() if one.method == "adam"]
    if batch not in (None, 1) and protocol in PROTOCOLS and protocol not in able:
        raise InputError(
            f"batch is {batch}, but protocol {protocol!r} makes one run at a time; runs side by "
            f"side need one of: {', '.join(able)}"
        )


def _cluster(
    workers: int | None, scheduler: str | None, threads: int | None, tls: tuple[Path | None, ...]
) -> "AbstractContextManager[DaskCluster | None]":
    """Where the runs of a sweep are made: None for this process."""
    from styleinv.runs.sweeps import MOST_THREADS

    if workers is not None and scheduler is not None:
        raise InputError("sweep takes --workers or --scheduler, not both")
    if any(tls) and not all((scheduler, *tls)):
        raise InputError("--tls-ca, --tls-cert and --tls-key go together, and with --scheduler")
    if workers is None and scheduler is None:
        if threads is not None:
            torch.set_num_threads(whole_number("threads", threads, 1, MOST_THREADS))
        return nullcontext()
    with _needs("cluster"):
        from styleinv.runs.cluster import local_cluster, remote_cluster
    if scheduler is not None:
        return remote_cluster(scheduler, threads, *tls)
    return local_cluster(workers or 0, threads)


# --- the other commands


@app.command()
def book(
    parameter: Annotated[Texts, Option("--parameter", "-p", help="NAME=VALUE, see above.")] = None,
    file: Annotated[Path | None, Option("--parameters-file", "-f", help="The same, YAML.")] = None,
    root: Annotated[Path, Option(help="The project's folder, with _toc.yml.")] = Path(),
) -> None:
    """Run every notebook and render the book to _build/html.

    Example: styleinv book -p styles=painting.jpg -p size=256

    -p sets a parameter in the grey cell at the top of the pages, for every page that has it. Lists
    take commas, or the same -p again (for a file whose own name has a comma, too).
    --parameters-file reads them from a file instead.
    """
    with _needs("book"):
        from styleinv_book.build import build_book
        from styleinv_book.parameters import read_parameters

    terminal.end_as_by_ctrl_c()
    index = build_book(root, read_parameters(parameter or [], file))
    print(f"The book is ready: open {index}")


@app.command()
def verify(
    folder: Annotated[Path, Argument(help="Folder of records; its subfolders count as well.")],
    measure: Annotated[
        int | None, Option(min=0, help="Measure this many pictures again; default: all.")
    ] = None,
    rerun: Annotated[int, Option(min=0, help="Make this many small runs again.")] = 0,
    encoder: Annotated[
        str | None,
        Option(help="Weights of the runs of VGG-19: vgg19-normalised for results/, or a file."),
    ] = None,
    seed: Annotated[int | None, Option(help="Seed of the draw; default: a new one.")] = None,
    quick: Annotated[bool, Option("--quick", help="Of the book's runs, see above.")] = False,
) -> None:
    """Check every hash and every measure of kept runs; with --rerun, make some of them again.

    Example: styleinv verify results/ --measure 40 --rerun 3 --encoder vgg19-normalised

    --quick checks the book in less than ten minutes: every hash, 40 pictures measured again, three
    runs made again, and every claim judged by the records and compared with results/claims.txt.

    Images of your own are looked for in the current folder, by their names.
    """
    from styleinv.runs import verification

    claims, differences = 0, list[str]()
    if quick:
        from styleinv_book.artifacts import compare

        measure, rerun = 40 if measure is None else measure, rerun or 3
        claims, differences = compare(folder)
        report(f"{claims} claims judged by the records: {len(differences) or 'nothing'} different")
    found = verification.verify(
        folder, measure=measure, rerun=rerun, encoder=encoder, seed=seed, report=report
    )
    found.wrong += differences
    print(
        f"{found.records} records, {found.pictures} with their picture, {found.measured} measured "
        f"again, {len(found.reruns)} made again: {len(found.wrong) or 'nothing'} wrong"
    )
    for reason, count in found.unmeasured.items():
        print(f"Not measured: {count}, because {reason}")
    for sentence in found.wrong:
        print(f"Wrong: {sentence}")
    checked = found.measured or found.reruns
    if not checked:
        print("Nothing was measured or made again: only hashes were checked")
    raise typer.Exit(0 if checked and not found.wrong else 1)


@app.command()
def animate(
    record: Annotated[Path, Argument(help="The JSON beside a picture, or the picture.")],
    out: Annotated[Path | None, Option(help="File; default: out/NAME.gif.")] = None,
    frames: Annotated[int, Option(min=2, max=500, help="About how many iterates to show.")] = 60,
    encoder: Annotated[
        str | None, Option(help="The run's weights, where these are not bundled: see `verify`.")
    ] = None,
    style: Annotated[str | None, Option(help="The run's style image, see above.")] = None,
) -> None:
    """Make the run of a record again and write it as an animation: GIF or WebP.

    Example: styleinv animate out/painting-relu_2_1-gram-seed0-01234567.json --out inversion.webp

    Iterates are shown at log-spaced evaluations, with the loss below them; the last frame is the
    record's picture. A .webp has every pixel as it is, a .gif 256 colours. An image of your own
    is looked for in the current folder, by its name; --style says where else it is.

    Ctrl-C stops the run, and nothing is written.
    """
    from styleinv.runs import again, animation, store

    out = OUT / f"{record.stem}.gif" if out is None else out
    kept = again.read_record(record)
    animation.check_format(out)
    weights = None if encoder is None else load_encoder(encoder, device=kept.asked.device)
    task = again.task_again(kept, weights, style)
    check_writable(out)
    with (
        again.threads_of(kept),
        terminal.progress(task) as show,
        terminal.interrupts() as asked_to_stop,
    ):

        def callback(iterate: Iterate) -> bool:
            show(iterate.iteration, iterate.evaluations, iterate.loss)
            return asked_to_stop()

        shown, made = animation.frames_of(task, kept.result.evaluations, frames, callback)
    if made.stop_reason == "stopped":
        report("Stopped: nothing was written")
        raise typer.Exit(130)
    terminal.end_as_by_ctrl_c()
    animation.write(shown, out)
    print(out)
    if store.hash_of(shown[-1].pixels) != kept.result.pixels_sha256:
        report(
            f"Note: the last picture is not the record's bit by bit; its loss is {made.loss:.3g}, "
            f"the record's {kept.result.loss:.3g}: other processors and releases round differently"
        )


@app.command()
def claims(
    wanted: Annotated[Texts, Argument(metavar="[ID]...", help="Default: all.")] = None,
    results: Annotated[Path, Option(help="The folder with runs/.")] = Path("results"),
    file: Annotated[Path, Option(help="Claims and their rules.")] = Path("book/claims.yml"),
) -> None:
    """Judge the chapter's claims from the records alone: effects, 95% intervals, verdicts.

    Example: styleinv claims C5 C6
    """
    from styleinv_book.artifacts import lines
    from styleinv_book.claims import judge

    rows, altered = judge(results, file, wanted or [])
    print(*lines(rows), sep="\n")
    for path in altered:
        report(f"Note: {path} is not as it was written, see styleinv verify")


@app.command()
def explore(
    port: Annotated[int, Option(help="Where to listen; 0: any port that is free.")] = 0,
    browser: Annotated[bool, Option(help="Open the page in the browser.")] = True,
    out: OutOption = OUT,
    runs: Annotated[Path, Option(help="Runs to compare curves with.")] = Path("results/runs"),
) -> None:
    """Invert styles live in the browser: choose, start, watch, compare, save.

    Example: styleinv explore --out pictures

    Only programs on this machine can open the page, and only with its address, which has a token:
    other users of the machine cannot. On a machine that you reach by ssh, use --no-browser --port
    8866 there, `ssh -L 8866:localhost:8866 HOST` at home, and the address that is printed. On a
    JupyterHub, open notebooks/live.md in JupyterLab instead. Closing the page ends its run; Ctrl-C
    ends all runs.
    """
    if sys.flags.optimize > 1:
        raise InputError("PYTHONOPTIMIZE is 2, but must be less: Jupyter's server needs docstrings")
    with _needs("book"):
        from styleinv.live.server import serve

    terminal.end_as_by_ctrl_c()
    serve(out, runs, port, partial(print, flush=True), browser)


@app.command()
def styles() -> None:
    """List the style images that need no file."""
    for name, style in PAINTED.items():
        print(f"{BUNDLED}{name:20} {style.description}")
    for name, credit in PHOTOGRAPHS.items():
        print(f"{SCIKIT_IMAGE}{name:20} {credit}")


@app.command()
def encoders() -> None:
    """List where the encoder's weights can come from."""
    print("bundled            ships with styleinv; works offline (default)")
    print("vgg19              torchvision's VGG-19 for ImageNet; downloads 548 MB once")
    print("vgg19-normalised   that of the reference runs, made for AdaIN; downloads 80 MB once")
    print("random             He-initialised and seeded: the control")
    print("FILE               .safetensors or .pth with the names of torchvision, AdaIN or Gatys")


# --- what the commands share


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Name the extra of the package that a command needs, if an import inside fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"this command needs {error.name}: pip install 'styleinv[{extra}]'"
        ) from error


def _make_out(folder: Path) -> None:
    """Make the folder for the results now rather than after the long run."""
    try:
        make_folder(folder)
    except InputError as error:
        raise InputError(f"out must be a folder that can be written, but {error}") from error


def main() -> None:
    """Run the command line: bad input becomes one sentence and exit code 2."""
    terminal.report_notes()
    terminal.prepare_streams()
    with terminal.errors_as_sentences():
        code = app(terminal.words() or ["--help"], standalone_mode=False)
        print(end="", flush=True)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
