"""Train the bundled encoder: VGG-19's first four convolutions on small images.

Two objectives share the trunk: a classifier behind `relu_2_2` asks for features that tell things
apart, a small decoder asks that the image can be painted back from `relu_2_2`. With the classifier
alone the features forget colour and the textures are useless; the reconstruction keeps colour and
fine structure. Each convolution is followed by batch normalisation, which is folded into it at the
end: every channel then has a comparable scale, which is what makes the style losses converge fast.
Last, every channel is rescaled to a mean activation of 1 over training images, as Gatys et al.
(2015) did with VGG-19: the network's function stays, and a threshold on a loss means about the same
for both.

    python training/train_encoder.py --data FOLDER                        # images, see below
    python training/train_encoder.py --data FOLDER --torchvision-cifar10  # downloads CIFAR-10

Images lie in FOLDER/train/<class>/ and FOLDER/test/<class>/; torchvision arranges its own download.
Writes `bundled.safetensors` and `bundled.json` (what the model card quotes) to --out.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.layouts import STYLEINV, imagenet_normalisation

SIZE = 32
CHANNELS = ((3, 64), (64, 64), (64, 128), (128, 128))


def conv_block(c_in: int, c_out: int) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False, padding_mode="reflect")
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class TwoTasks(nn.Module):
    """Trunk to relu_2_2 (the part that is kept), a classifier and a decoder (thrown away)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(conv_block(*pair) for pair in CHANNELS)
        self.classifier = nn.Sequential(
            nn.MaxPool2d(2),
            *conv_block(128, 256),
            nn.ReLU(),
            nn.MaxPool2d(2),
            *conv_block(256, 256),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(256, n_classes),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(128, 64, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(64, 32, 3, padding=1, padding_mode="reflect"),
            nn.ReLU(),
            nn.Conv2d(32, 3, 3, padding=1, padding_mode="reflect"),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for index, block in enumerate(self.trunk):
            if index == 2:
                x = F.max_pool2d(x, 2)
            x = F.relu(block(x))
        return self.classifier(x), self.decoder(x)


def load_split(root: Path, split: str, use_torchvision: bool) -> tuple[Tensor, Tensor, list[str]]:
    """All images of a split as uint8 (N, 3, SIZE, SIZE), their class indices, the class names."""
    dataset: torchvision.datasets.CIFAR10 | torchvision.datasets.ImageFolder
    if use_torchvision:
        dataset = torchvision.datasets.CIFAR10(str(root), train=split == "train", download=True)
    else:
        dataset = torchvision.datasets.ImageFolder(str(root / split))
    resize = v2.Compose([v2.PILToTensor(), v2.Resize(SIZE), v2.CenterCrop(SIZE)])
    images = torch.stack([resize(image.convert("RGB")) for image, _ in dataset])
    return images, torch.tensor(dataset.targets), list(dataset.classes)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image or not, and shift the batch by up to four pixels, edges reflected."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    dy, dx = torch.randint(0, 9, (2,), generator=generator).tolist()
    return F.pad(images, (4, 4, 4, 4), mode="reflect")[:, :, dy : dy + SIZE, dx : dx + SIZE]


def normalise(images: Tensor) -> Tensor:
    return F.conv2d(images.float() / 255, *imagenet_normalisation())


def evaluate(model: TwoTasks, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy, and mean squared error of the reconstruction in normalised units."""
    model.eval()
    right, error = 0, 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(images), 500):
            x = normalise(images[start : start + 500])
            logits, painted = model(x.contiguous(memory_format=torch.channels_last))
            right += int((logits.argmax(1) == labels[start : start + 500]).sum())
            error += float(F.mse_loss(painted.float(), x)) * len(x)
    model.train()
    return right / len(images), error / len(images)


def fold(model: TwoTasks) -> dict[str, Tensor]:
    """The trunk as plain convolutions: w' = w g / s, b' = b - m g / s (s^2 = variance + eps)."""
    weight, bias = imagenet_normalisation()
    state = {"input.weight": weight.contiguous(), "input.bias": bias}
    for key, (conv, norm) in zip(STYLEINV.conv_keys, model.trunk, strict=True):
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        state[f"{key}.weight"] = (conv.weight * gain[:, None, None, None]).detach().contiguous()
        state[f"{key}.bias"] = (norm.bias - norm.running_mean * gain).detach().contiguous()
    return state


def normalise_activations(state: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Rescale every channel to a mean of 1 over `images`; the next layer undoes it.

    A ReLU keeps positive factors: dividing a channel's weights and bias by its mean activation and
    multiplying what reads it by the same leaves all later features as they were.
    """
    state = dict(state)
    for index, (layer, key) in enumerate(zip(LAYERS, STYLEINV.conv_keys, strict=True)):
        encoder = Encoder("in training", STYLEINV, state)
        batches = images.split(500)
        means = [encoder(batch.float() / 255, layer).mean(dim=(2, 3)) for batch in batches]
        mean = torch.cat(means).mean(dim=0)
        mean[mean == 0] = 1  # a channel that is never active has no scale
        state[f"{key}.weight"] = state[f"{key}.weight"] / mean[:, None, None, None]
        state[f"{key}.bias"] = state[f"{key}.bias"] / mean
        if index + 1 < len(LAYERS):
            reader = f"{STYLEINV.conv_keys[index + 1]}.weight"
            state[reader] = state[reader] * mean[None, :, None, None]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def train(args: argparse.Namespace) -> None:
    """Train, and write the weights with what the model card quotes."""
    torch.manual_seed(args.seed)
    images, labels, classes = load_split(args.data, "train", args.torchvision_cifar10)
    test_images, test_labels, _ = load_split(args.data, "test", args.torchvision_cifar10)
    model = TwoTasks(len(classes)).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    for epoch in epochs(model, images, labels, args):
        accuracy, error = evaluate(model, test_images, test_labels)
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch}: accuracy {accuracy:.4f}, mse {error:.4f}, {seconds:.0f} s",
            flush=True,
        )
    args.out.mkdir(parents=True, exist_ok=True)
    weights = args.out / "bundled.safetensors"
    # Every 25th image: a sample of all classes, which lie one after another.
    save_file(normalise_activations(fold(model), images[::25]), weights)
    card = {
        "classes": classes,
        "training_images": len(images),
        "test_images": len(test_images),
        "activation_images": len(images[::25]),
        "epochs": args.epochs,
        "batch": args.batch,
        "learning_rate": args.lr,
        "reconstruction_weight": args.reconstruction_weight,
        "seed": args.seed,
        "test_accuracy": accuracy,
        "test_reconstruction_mse": error,
        "training_seconds": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sha256": load_encoder(weights).sha256,
    }
    (args.out / "bundled.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def epochs(
    model: TwoTasks, images: Tensor, labels: Tensor, args: argparse.Namespace
) -> Iterator[int]:
    """Train the model; yields the number of each epoch, from 1 up, when it is over."""
    generator = torch.Generator().manual_seed(args.seed)
    steps = args.epochs * (len(images) // args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps)
    for epoch in range(1, args.epochs + 1):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: len(order) // args.batch * args.batch].split(args.batch):
            x = augment(normalise(images[batch]), generator)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits, painted = model(x)
            classification = F.cross_entropy(logits.float(), labels[batch], label_smoothing=0.05)
            reconstruction = F.mse_loss(painted.float(), x)
            optimizer.zero_grad()
            (classification + args.reconstruction_weight * reconstruction).backward()
            optimizer.step()
            schedule.step()
        yield epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--torchvision-cifar10", action="store_true", help="use (and download) CIFAR-10"
    )
    parser.add_argument("--out", type=Path, default=Path("styleinv/weights"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--reconstruction-weight", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
