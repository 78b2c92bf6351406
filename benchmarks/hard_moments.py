"""Make the runs of the sweeps n4-* and look at the feature maps that they leave dead.

`python benchmarks/hard_moments.py ENCODER RUNS`: the reference runs' weights, and a folder for
the runs with pictures. The features are those of the images before they are rounded to 8 bits.
About an hour on one core; finished runs are not made again. What is found lands in
results/hard_moments.json, by the runs' addresses.
"""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from styleinv_book.ablation import ABLATION
from torch import Tensor

import styleinv
from styleinv.encoder import Encoder, load_encoder
from styleinv.files import write_text
from styleinv.inversion import RESULTS_VERSION, Task, noise_image
from styleinv.losses import MomentLoss, moments
from styleinv.protocol import PROTOCOLS
from styleinv.runs import store
from styleinv.runs.reference import REFERENCE, Entry, read_reference
from styleinv.runs.sweeps import plan_sweep, summary

RESULTS = Path(__file__).parents[1] / "results"
RECORD = RESULTS / "hard_moments.json"
N_MOMENTS = 4


def look(task: Task, image: Tensor) -> dict[str, Any]:
    """Count the dead feature maps of an image (3, H, W); name the one with most of its loss.

    A feature map is dead if the style activates it and the image does so nowhere.
    """
    style = task.style[None]
    start = noise_image(style, task.protocol, task.seed).clamp(0, 1)
    with torch.no_grad():
        wanted, begun, found = (
            task.encoder(x, task.layer).double() for x in (style, start, image[None])
        )
        exact = MomentLoss(wanted, N_MOMENTS)
        squared = (exact.target - moments(found, N_MOMENTS)).square()
        loss = (exact.psi[:, None] * squared).sum(dim=0) / exact.channels
    active = (wanted > 0).sum(dim=(0, 2, 3))
    dead_at_start, dead = ((active > 0) & (x <= 0).all(3).all(2)[0] for x in (begun, found))
    heaviest = int(loss.argmax())
    return {
        "channels": exact.channels,
        "dead_at_start": int(dead_at_start.sum()),
        "dead": int(dead.sum()),
        "loss_of_dead": loss[dead].sum().item(),
        "loss": loss.sum().item(),
        # The one channel that carries most of the loss.
        "heaviest": {
            "channel": heaviest,
            "loss": loss[heaviest].item(),
            "dead": bool(dead[heaviest]),
            "active": int(active[heaviest]),
            "active_in_image": int((found[0, heaviest] > 0).sum()),
            "positions": found[0, heaviest].numel(),
            "skewness": exact.target[2, heaviest].item(),
            "kurtosis": exact.target[3, heaviest].item(),
        },
    }


def planned(sweeps: dict[str, Entry], encoder: Encoder) -> Iterator[tuple[str, Task]]:
    """The runs of the sweeps n4-* by the sweep's name.

    They come seed by seed, so that strategies can be compared as soon as one seed is done.
    """
    protocols = PROTOCOLS | ABLATION
    found = [
        (name, task)
        for name, entry in sweeps.items()
        if name.startswith("n4-") and not entry.pictures
        for task in plan_sweep(
            entry.styles,
            layers=entry.layers,
            losses=entry.losses,
            encoder=encoder,
            protocol=protocols[entry.protocol],
            seeds=entry.seeds,
            size=entry.size,
            iterations=entry.iterations[:1],
        )
    ]
    yield from sorted(found, key=lambda pair: pair[1].seed)


def keep(seen: dict[str, Any], task: Task) -> None:
    """Write the record: what is seen in the runs, and what made them."""
    record = {
        "styleinv": styleinv.__version__,
        "results": RESULTS_VERSION,
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "encoder": task.encoder.name,
        "encoder_sha256": task.encoder.sha256,
        "size": min(task.style.shape[1:]),
        "runs": seen,
    }
    write_text(RECORD, json.dumps(record, indent=1) + "\n")


def main(encoder_file: str, runs: Path) -> None:
    """Make the runs that are missing, and the record."""
    reference = read_reference(RESULTS / REFERENCE)
    encoder = load_encoder(encoder_file)
    if encoder.sha256 != reference.encoder_sha256:
        raise SystemExit(f"{encoder_file} has other weights than the reference runs need")
    seen = json.loads(RECORD.read_text(encoding="utf-8"))["runs"] if RECORD.exists() else {}
    for name, task in planned(reference.sweeps, encoder):
        if task.address in seen and store.find(task, runs / name) is not None:
            continue
        inversion = task.run()
        run = store.run_of(inversion)
        store.save(run, runs / name)
        seen[task.address] = look(task, inversion.image)
        dead = seen[task.address]["dead"]
        print(f"{name} seed {task.seed}: {summary(run, False)}, {dead} dead", flush=True)
        keep(seen, task)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
