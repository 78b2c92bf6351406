"""The command line: each command is a function here, its options are the function's arguments."""

import io
import os
import signal
import sys
import warnings
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, cast

import torch
import typer
from filelock import Timeout
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from styleinv_book.claims import judge

from styleinv import __version__
from styleinv.checkpoint import DEFAULT_SECONDS, checked_seconds
from styleinv.encoder import LAYERS, SOURCES, load_encoder
from styleinv.errors import InputError, one_line, whole_number
from styleinv.images import BUNDLED, SCIKIT_IMAGE, Fit
from styleinv.inversion import DEFAULT_SIZE, plan
from styleinv.losses import ALPHA, LOSSES, WITH_ALPHA
from styleinv.optim import Iterate
from styleinv.protocol import CHAPTER_ITERATIONS, PROTOCOLS, Protocol
from styleinv.runs import store
from styleinv.runs.record import Result
from styleinv.runs.reference import make_reference_runs
from styleinv.runs.sweeps import MOST_THREADS, Cluster, Execution, make_runs, plan_sweep
from styleinv.runs.verification import verify as verify_runs
from styleinv.styles import PAINTED, PHOTOGRAPHS

MOST_SEEDS = 10_000

console = Console(stderr=True)
app = typer.Typer(
    help="Which style does a summary statistic of a VGG-19 layer hold? Invert it and look.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"styleinv {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


EncoderOption = Annotated[
    str, typer.Option(help=f"{', '.join(SOURCES)}, or a .safetensors/.pth weights file.")
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(PROTOCOLS)}. `fast` is our L-BFGS, `scipy` SciPy's; `unbounded` and "
        "`clamped` are PyTorch's. `chapter` and `released` are Adam with up to 850,000 iterations: "
        "days on a CPU. The MMD as printed can turn negative; `chapter` then stops, below theta."
    ),
]
SizeOption = Annotated[int, typer.Option(help="Shorter side in pixels, 16 to 4096.")]
IterationsOption = Annotated[
    int | None,
    typer.Option(help="Replace the protocol's budget and drop its extra rounds."),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or mps; no silent fallback.")]
CheckpointOption = Annotated[
    float,
    typer.Option(
        help="Seconds between two checkpoints, beside the record; the same command again goes on "
        "from there. (`scipy`, `unbounded` and `clamped` have none.)"
    ),
]


@app.command()
def invert(
    style: Annotated[
        str,
        typer.Argument(help=f"An image file, {BUNDLED}NAME or {SCIKIT_IMAGE}NAME (see `styles`)."),
    ],
    layer: Annotated[str, typer.Option(help=f"Layer to invert: {', '.join(LAYERS)}.")] = "relu_2_1",
    loss: Annotated[str, typer.Option(help=f"Style loss: {', '.join(LOSSES)}.")] = "gram",
    encoder: EncoderOption = "bundled",
    protocol: ProtocolOption = "fast",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the noise image; default: the protocol's own.")
    ] = None,
    size: SizeOption = DEFAULT_SIZE,
    fit: Annotated[
        str, typer.Option(help="crop (to the central square) or keep (the aspect ratio).")
    ] = "crop",
    iterations: IterationsOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Stop after so much wall time; such a run is not repeatable. Default: 1800, for "
            "`chapter` and `released` none, unless --iterations is given, else none."
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help=f"Kernel width of {' and '.join(WITH_ALPHA)}.")
    ] = ALPHA,
    device: DeviceOption = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the PNG and its JSON record.")] = Path(
        "out"
    ),
    checkpoint_every: CheckpointOption = DEFAULT_SECONDS,
    again: Annotated[
        bool, typer.Option("--again", help="Make the run anew, even if it is there already.")
    ] = False,
) -> None:
    """Invert one style image and write the picture with its record.

    Example: styleinv invert painting.jpg --layer relu_2_2 --loss gram --size 256

    Ctrl-C finishes the current iteration and saves what is there; the same command goes on with it.
    """
    checked_seconds("checkpoint-every", checkpoint_every)
    task = plan(
        style,
        layer=layer,
        loss=loss,
        encoder=encoder,
        protocol=protocol,
        seed=seed,
        size=size,
        fit=cast(Fit, fit),  # `load_style` checks it
        iterations=iterations,
        seconds=seconds,
        alpha=alpha,
        device=device,
    )
    _check_writable(out)
    if not store.path_of(task, out).exists():
        _report(f"{task.check_memory()}.")
    budget = task.protocol.budget(loss, layer)
    with _progress(f"{task.style_name} {layer} {loss}", budget) as show, _interrupts() as asked_to:
        by_evaluations = task.protocol.method != "adam"

        def callback(iterate: Iterate) -> bool:
            show(iterate.evaluations if by_evaluations else iterate.iteration, iterate.loss)
            return asked_to()

        run, found = store.obtain(
            task,
            out,
            callback=callback,
            stop=asked_to,
            every=checkpoint_every,
            again=again,
            unfinished=True,
        )
        result = run.record.result
        show(result.evaluations if by_evaluations else result.iterations, result.loss)
    if run.path is not None:
        print(run.path.with_suffix(".png"))
        print(run.path)
    _report(
        f"loss {result.loss:.3g}, iterations {result.iterations}, "
        f"evaluations {result.evaluations}, {result.seconds:.1f} s; "
        f"stopped by: {_reason(result)}"
        + "; kept from an earlier run (--again makes it anew)"
        * found
    )
    if run.was_stopped:
        _report(_how_to_go_on(task.protocol))
    raise typer.Exit({"stopped": 130, "not finite": 1}.get(result.stop_reason, 0))


def _reason(result: Result) -> str:
    first = f" ({result.not_finite})" if result.not_finite else ""
    return f"{result.stop_reason}{first}"


def _how_to_go_on(protocol: Protocol) -> str:
    if protocol.can_go_on:
        return "The same command again goes on from here."
    return (
        f"The same command again starts from the beginning: protocol {protocol.name!r} has no "
        "checkpoints."
    )


@app.command("sweep")
def sweep_styles(
    style: Annotated[
        list[str] | None, typer.Option(help="A style image, as for `invert`. Repeatable.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A layer; default: all. Repeatable.")
    ] = None,
    loss: Annotated[
        list[str] | None, typer.Option(help="A loss; default: the chapter's six. Repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, counted from 0.")] = 1,
    encoder: EncoderOption = "bundled",
    protocol: ProtocolOption = "fast",
    size: SizeOption = DEFAULT_SIZE,
    iterations: IterationsOption = None,
    device: DeviceOption = "cpu",
    out: Annotated[Path, typer.Option(help="Folder for the PNGs and their JSON records.")] = Path(
        "out"
    ),
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Instead, make the runs that this file asks for, in runs/ beside it; of the other "
            "options, only --encoder and --device count, and those of how it is carried out."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Make so many runs at once, each in a process of its own.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Make the runs on the workers of this Dask scheduler: tcp://HOST:PORT."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of each run. Default: those of one process here, which --workers share; "
            "another number can change a result's last digits."
        ),
    ] = None,
    checkpoint_every: CheckpointOption = DEFAULT_SECONDS,
) -> None:
    """Invert every style through every loss at every layer; what is there already is kept.

    Example: styleinv sweep --style painting.jpg --style bundled:strokes --seeds 3 --workers 2

    Ctrl-C finishes the current iteration; the same command goes on with it.
    """
    if (manifest is None) == (not style):
        raise InputError("sweep needs either --style, once or more, or --manifest")
    whole_number("seeds", seeds, 1, MOST_SEEDS)
    checked_seconds("checkpoint-every", checkpoint_every)
    if manifest is None:
        _check_writable(out)
        tasks = plan_sweep(
            style or [],
            layers=layer or LAYERS,
            losses=loss or tuple(CHAPTER_ITERATIONS),
            encoder=load_encoder(encoder, device=device),
            protocol=protocol,
            seeds=range(seeds),
            size=size,
            iterations=iterations,
        )
    with _interrupts() as asked_to, _cluster(workers, scheduler, threads) as cluster:
        execution = Execution(asked_to, checkpoint_every, cluster)
        if manifest is not None:
            complete = make_reference_runs(manifest, encoder, device, _report, execution)
        else:
            complete = len(make_runs(tasks, out, report=_report, execution=execution)) == len(tasks)
    if not complete:
        _report("The same command again goes on from here.")
        raise typer.Exit(130)
    if manifest is None:
        print(out)


@contextmanager
def _cluster(
    workers: int | None, scheduler: str | None, threads: int | None
) -> Iterator[Cluster | None]:
    """Where the runs of a sweep are made: None for this process."""
    if workers is not None and scheduler is not None:
        raise InputError("sweep takes --workers or --scheduler, not both")
    if workers is None and scheduler is None:
        if threads is not None:
            torch.set_num_threads(whole_number("threads", threads, 1, MOST_THREADS))
        yield None
        return
    # Only this needs Dask, which is slow to import.
    from styleinv.runs.cluster import local_cluster, remote_cluster

    opened = (
        remote_cluster(scheduler, threads)
        if scheduler is not None
        else local_cluster(workers or 0, threads)
    )
    with opened as cluster:
        yield cluster


def _report(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def book(
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            help="NAME=VALUE for the notebooks' parameters cells; lists with commas. Repeatable.",
        ),
    ] = None,
    parameters_file: Annotated[
        Path | None, typer.Option("--parameters-file", "-f", help="The same from a YAML file.")
    ] = None,
    root: Annotated[Path, typer.Option(help="The project's folder, with _toc.yml.")] = Path(),
) -> None:
    """Run every notebook and render the book to _build/html.

    Example: styleinv book -p styles=painting.jpg -p size=128
    """
    # Only this command needs the notebook tools, and they are slow to import.
    from styleinv_book.build import build_book, read_parameters

    index = build_book(root, read_parameters(parameter or [], parameters_file))
    print(f"The book is ready: open {index}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Where records are, also in folders below.")],
    rerun: Annotated[
        int, typer.Option(help="Make so many small runs again, drawn at random.", min=0)
    ] = 0,
    encoder: Annotated[
        str | None, typer.Option(help="Weights file for runs of an encoder that is a file.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the draw; default: another one every time.")
    ] = None,
) -> None:
    """Check every hash and every metric of kept runs; with --rerun, make some of them again.

    Example: styleinv verify results/ --rerun 3
    """
    found = verify_runs(folder, rerun=rerun, encoder=encoder, seed=seed, report=_report)
    print(
        f"{found.records} records, {found.pictures} with their picture, {found.measured} measured "
        f"anew, {len(found.reruns)} made again: {len(found.wrong) or 'nothing'} wrong"
    )
    for sentence in found.wrong:
        print(f"Wrong: {sentence}")
    raise typer.Exit(1 if found.wrong else 0)


@app.command()
def claims(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="C1 to C17; default: all.")
    ] = None,
    results: Annotated[Path, typer.Option(help="The folder with runs/.")] = Path("results"),
    ledger: Annotated[Path, typer.Option(help="Claims, measures and rules.")] = Path(
        "book/claims.yml"
    ),
) -> None:
    """Judge the chapter's claims from the records alone: effects, 95% intervals, verdicts.

    Example: styleinv claims C5 C6
    """
    rows, altered = judge(results, ledger, wanted or [])
    for row in rows:
        print(f"{row.claim.id:4}{row.verdict.upper()}: {row.claim.claim}")
        for effect in row.effects:
            part = effect.part
            ((how, bound),) = part.rule.items()
            mark = f"beside, {effect.finding}" if part.beside else effect.finding
            print(
                f"    {mark}: {part.says}: {effect}; rule: {how} {bound}; "
                f"{effect.comparisons} comparisons, {effect.styles} styles"
            )
    for path in altered:
        _report(f"Note: {path} is not as it was written, see styleinv verify")


@app.command()
def explore(
    port: Annotated[int, typer.Option(help="Where to listen; 0: any port that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for what is saved.")] = Path("out"),
    runs: Annotated[
        Path, typer.Option(help="Folder of reference runs, to compare loss curves with.")
    ] = Path("results/runs"),
) -> None:
    """Invert styles live in the browser: choose, start, watch, compare, save.

    Example: styleinv explore --out pictures

    The page is for this machine only. Closing it ends its run, Ctrl-C ends them all.
    """
    try:
        from styleinv.live.server import serve
    except ImportError as error:
        raise InputError(
            f"explore needs the packages of the book ({error.name} is missing): "
            "pip install 'styleinv[book]'"
        ) from error

    def opened(address: str) -> None:
        print(address, flush=True)
        if browser:
            webbrowser.open(address)

    _check_writable(out)
    serve(out, runs, port, opened)


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
    print("bundled   ships with styleinv; works offline (default)")
    print("vgg19     torchvision's VGG-19 for ImageNet; downloads 548 MB once, keeps 1 MB")
    print("random    He-initialised and seeded: the control")
    print("FILE      .safetensors or .pth: torchvision's key names, or AdaIN's vgg_normalised")


def _check_writable(folder: Path) -> None:
    """Refuse before the long run what would fail after it."""
    absolute = folder.absolute()
    missing = [path for path in (absolute, *absolute.parents) if not os.path.exists(path)]
    existing = missing[-1].parent if missing else absolute
    try:
        if not os.path.isdir(existing) or not os.access(existing, os.W_OK):
            raise NotADirectoryError
        absolute.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # another process may use it already
            for path in missing:
                path.rmdir()
    except (OSError, ValueError) as error:
        raise InputError(
            f"out is {str(folder)!r}, but must be a folder that can be written"
        ) from error


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """A bar with the loss and the time left to the end of the budget (theta may come earlier)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.2e}"),
        TimeElapsedColumn(),
        TextColumn("at most"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(label, total=total, loss=float("nan"))

        def show(completed: int, loss: float) -> None:
            # Extra rounds go beyond the budget.
            progress.update(bar, completed=completed, total=max(total, completed), loss=loss)

        yield show


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """While active, Ctrl-C (and a batch system's SIGTERM) is a wish that can be asked for.

    The second time, it is what it always is.
    """
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_notice(message: Warning | str, *_: object, **__: object) -> None:
    console.print(f"Note: {one_line(str(message))}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line: bad input becomes one sentence and exit code 2."""
    warnings.showwarning = _print_notice
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="surrogateescape")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except InputError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt, Timeout):
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        # PyTorch has a type of its own for a GPU's memory, and none for the computer's.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        _fail("the memory is used up; a smaller --size needs less")
    sys.exit(code or 0)


def _fail(sentence: str) -> NoReturn:
    print(f"Error: {one_line(sentence).rstrip('.')}.", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
