"""Train the bundled encoder: VGG-19's first four convolutions as dictionaries of small images.

Layer by layer, without labels and without gradients (Coates and Ng 2011, 2012): the filters of a
convolution are the prototypes that spherical k-means finds among whitened 3 x 3 patches of the
layer before, and its biases make a stated share of each channel's activations positive. A channel
then answers to one kind of patch, and its mean tells how often that occurs in a picture.

What decides whether a moment of a channel holds colours and shapes is what the channel does *not*
answer to. If it answers to fine coloured noise, noise can give it any mean, and an inversion ends
there. VGG-19 hardly answers to it: it saw photographs whose details are many pixels wide. So the
images are enlarged 1.5 to 3 times, and the whitening is Wiener's: of a patch x with covariance C,
seen with noise of covariance N as y, it whitens the estimate C (C + N)^-1 y. `training/TRIED.md`
has what else was tried.

    python training/train_encoder.py --data FOLDER                        # images, see below
    python training/train_encoder.py --data FOLDER --torchvision-cifar10  # downloads CIFAR-10

Images lie in FOLDER/<class>/; torchvision arranges its own download. Every channel is scaled to a
mean activation of 1 over the patches, as Gatys et al. (2015) did with VGG-19: a threshold on a loss
means about the same for both. Writes `bundled.safetensors` and `bundled.json` (what the model card
quotes) to --out.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms import v2

from styleinv.encoder import load_encoder
from styleinv.layouts import STYLEINV, imagenet_normalisation

SIZE = 32
TOGETHER = 100  # images that are enlarged by the same factor
SMALLEST, LARGEST = 48, 96  # sides of the enlarged images
LEAST_PATCHES = 100  # of a prototype; one that stands for fewer is drawn anew


@dataclass(frozen=True)
class Layer:
    """A convolution: channels in and out, share of positive activations, ridge of the whitening.

    The ridge is a share of the largest variance: directions with less are not brought up to 1.
    """

    channels_in: int
    channels: int
    active: float
    ridge: float


CONVOLUTIONS = (
    Layer(3, 64, 0.5, 0.003),
    Layer(64, 64, 0.5, 0.01),
    Layer(64, 128, 0.5, 0.01),
    Layer(128, 128, 0.35, 0.01),
)


def load_images(root: Path, count: int, use_torchvision: bool, draw: torch.Generator) -> Tensor:
    """At most `count` images, drawn at random, as (N, 3, SIZE, SIZE) in [0, 1]."""
    dataset: torchvision.datasets.CIFAR10 | torchvision.datasets.ImageFolder
    if use_torchvision:
        dataset = torchvision.datasets.CIFAR10(str(root), download=True)
    else:
        dataset = torchvision.datasets.ImageFolder(str(root))
    resize = v2.Compose([v2.PILToTensor(), v2.Resize(SIZE), v2.CenterCrop(SIZE)])
    chosen = torch.randperm(len(dataset), generator=draw)[:count].tolist()
    return torch.stack([resize(dataset[index][0].convert("RGB")) for index in chosen]) / 255


def enlarge(images: Tensor, draw: torch.Generator) -> Tensor:
    """Squares of SIZE pixels out of the enlarged images."""
    cut = []
    for batch in images.split(TOGETHER):
        side = int(torch.randint(SMALLEST, LARGEST + 1, (), generator=draw))
        large = F.interpolate(batch, side, mode="bilinear", align_corners=False)
        y, x = torch.randint(0, side - SIZE + 1, (2,), generator=draw).tolist()
        cut.append(large[:, :, y : y + SIZE, x : x + SIZE])
    return torch.cat(cut)


def add_noise(images: Tensor, most: float, draw: torch.Generator) -> Tensor:
    """Add white noise to every value; its deviation is uniform in [0, most], one for each image."""
    level = most * torch.rand(len(images), 1, 1, 1, generator=draw)
    return images + level * torch.randn(images.shape, generator=draw)


def pad(maps: Tensor) -> Tensor:
    return F.pad(maps, (1, 1, 1, 1), mode="reflect")


def patches_at(places: Tensor, maps: Tensor) -> Tensor:
    """The 3 x 3 patches around places (image, y, x): (N, 9 C), in a convolution's order."""
    image, y, x = places
    padded = pad(maps)
    around = [padded[image, :, y + dy, x + dx] for dy in range(3) for dx in range(3)]
    return torch.stack(around, dim=2).flatten(1)


def whitening(patches: Tensor, noise: Tensor, ridge: float) -> Tensor:
    """The matrix that estimates a patch behind noise and whitens it, see above: (D, D)."""
    clean, noisy = (x.T.double() @ x.double() / len(x) for x in (patches, noise))
    # Nothing is known about directions in which the patches hardly vary.
    floor = 1e-6 * clean.diagonal().mean() * torch.eye(len(clean), dtype=clean.dtype)
    estimate = torch.linalg.solve(clean + noisy + floor, clean).T
    variance, directions = torch.linalg.eigh(estimate @ clean @ estimate.T)
    variance = variance.clamp(min=0)
    scale = (variance + ridge * variance.max()).rsqrt()
    return (directions * scale @ directions.T @ estimate).float()


def prototypes(points: Tensor, count: int, rounds: int, draw: torch.Generator) -> Tensor:
    """Spherical k-means: unit vectors (count, D), each the direction of the points nearest to it.

    Points of less than the usual length, patches of little contrast, count less.
    """
    length = points.norm(dim=1, keepdim=True)
    points = points / (length + 0.3 * length.mean())
    found = F.normalize(points[torch.randperm(len(points), generator=draw)[:count]])
    for _ in range(rounds):
        likeness, nearest = (points @ found.T).max(dim=1)
        sums = torch.zeros_like(found).index_add_(0, nearest, points * likeness[:, None])
        few = nearest.bincount(minlength=count) < LEAST_PATCHES
        sums[few] = points[torch.randint(len(points), (int(few.sum()),), generator=draw)]
        found = F.normalize(sums)
    return found


def learn(
    layer: Layer, clean: Tensor, noisy: Tensor, patches: int, rounds: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weights (channels, channels_in, 3, 3) and biases (channels,) of a convolution."""
    upper = (len(clean), *clean.shape[2:])
    places = torch.stack([torch.randint(most, (patches,), generator=draw) for most in upper])
    seen = patches_at(places, clean)
    noise = patches_at(places, noisy) - seen
    mean = seen.mean(dim=0)
    matrix = whitening(seen - mean, noise, layer.ridge)
    filters = prototypes((seen - mean) @ matrix.T, layer.channels, rounds, draw) @ matrix
    answers = seen @ filters.T
    rank = min(patches, max(1, round((1 - layer.active) * patches)))
    thresholds = answers.kthvalue(rank, dim=0).values
    activation = F.relu(answers - thresholds).mean(dim=0)
    weight = filters / activation[:, None]
    return weight.unflatten(1, (layer.channels_in, 3, 3)).contiguous(), -thresholds / activation


def train(args: argparse.Namespace) -> None:
    """Learn the four convolutions, and write them with what the model card quotes."""
    started = time.perf_counter()
    draw = torch.Generator().manual_seed(args.seed)
    images = load_images(args.data, args.images, args.torchvision_cifar10, draw)
    clean = enlarge(images, draw)
    noisy = add_noise(clean, args.noise, draw)
    weight, bias = imagenet_normalisation()
    state = {"input.weight": weight.contiguous(), "input.bias": bias}
    clean, noisy = (F.conv2d(x, weight, bias) for x in (clean, noisy))
    for index, (layer, key) in enumerate(zip(CONVOLUTIONS, STYLEINV.conv_keys, strict=True)):
        if index == 2:
            clean, noisy = F.max_pool2d(clean, 2), F.max_pool2d(noisy, 2)
        weight, bias = learn(layer, clean, noisy, args.patches, args.rounds, draw)
        state[f"{key}.weight"], state[f"{key}.bias"] = weight, bias
        clean, noisy = (F.relu(F.conv2d(pad(x), weight, bias)) for x in (clean, noisy))
        print(f"{key}: {time.perf_counter() - started:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "bundled.safetensors"
    save_file(state, weights)
    card = {
        "images": len(images),
        "patches": args.patches,
        "rounds": args.rounds,
        "noise": args.noise,
        "convolutions": [asdict(layer) for layer in CONVOLUTIONS],
        "seed": args.seed,
        "training_seconds": round(time.perf_counter() - started),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sha256": load_encoder(weights).sha256,
    }
    (args.out / "bundled.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--torchvision-cifar10", action="store_true", help="use (and download) CIFAR-10"
    )
    parser.add_argument("--out", type=Path, default=Path("styleinv/weights"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--patches", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.1, help="its largest deviation")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
