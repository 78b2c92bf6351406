"""An inversion from end to end: what it finds, what it reports, and that it is repeatable."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from styleinv.fingerprint import json_sha256

import styleinv
from styleinv import InputError, invert, load_style
from styleinv.encoder import BUNDLED_WEIGHTS, STYLEINV, Encoder
from styleinv.inversion import noise_image, plan
from styleinv.losses import REDRAWN, GramLoss, make_loss
from styleinv.protocol import ABLATION, CHAPTER, FAST, PROTOCOLS, RELEASED, get_protocol
from styleinv.runs import store
from tests.conftest import ROOT

SIZE = 32


@pytest.fixture(scope="module")
def style() -> torch.Tensor:
    return load_style("bundled:mosaic", SIZE)


@pytest.mark.parametrize("loss", ["gram", "moment-2"])
@pytest.mark.parametrize("layer", styleinv.LAYERS)
def test_the_statistic_is_matched(
    style: torch.Tensor, bundled: Encoder, layer: str, loss: str
) -> None:
    result = invert(style, layer=layer, loss=loss, encoder=bundled, iterations=150)
    assert result.loss < 0.01 * result.trace[0].loss
    assert result.image.shape == style.shape
    assert result.image.min() >= 0
    assert result.image.max() <= 1


@pytest.mark.parametrize("loss", [name for name in styleinv.LOSSES if name not in REDRAWN])
@pytest.mark.parametrize("name", styleinv.PROTOCOLS)
def test_starts_as_the_protocol_says(
    style: torch.Tensor, bundled: Encoder, name: str, loss: str
) -> None:
    """Its convention of the loss, its seed, its noise, clamped to the bounds."""
    protocol = styleinv.PROTOCOLS[name]
    convention = "released" if name == "released" else "chapter"
    start = noise_image(style[None], protocol, 13 if name == "released" else 0).clamp(0, 1)
    criterion = make_loss(loss, bundled(style[None], "relu_1_1"), convention)
    expected = criterion(bundled(start, "relu_1_1")).item()
    # The trace holds the exact loss, also where a warm-up is what is descended.
    result = invert(
        style, layer="relu_1_1", loss=loss, encoder=bundled, protocol=name, iterations=1
    )
    assert result.trace[0].loss == pytest.approx(expected, rel=1e-4)


def test_released_theta_is_on_the_weighted_loss(style: torch.Tensor, bundled: Encoder) -> None:
    """Theta just above 100 times the loss at the start: no step is made."""
    first = invert(style, encoder=bundled, protocol="released", iterations=1).trace[0].loss
    for theta, steps in ((101 * first, 0), (99 * first, 1)):
        protocol = dataclasses.replace(styleinv.PROTOCOLS["released"].limited_to(1), theta=theta)
        assert invert(style, encoder=bundled, protocol=protocol).iterations == steps


def test_signed_mmd_turns_negative(style: torch.Tensor, bundled: Encoder) -> None:
    """As printed it passes theta that way under `chapter`; `fast` goes on to its budget."""
    arguments = {"layer": "relu_1_1", "loss": "mmd", "encoder": bundled, "iterations": 40}
    assert invert(style, protocol="fast", **arguments).loss < -1
    assert invert(style, protocol="fast", **arguments).stop_reason == "budget"
    low = dataclasses.replace(styleinv.PROTOCOLS["chapter"], learning_rate=0.1)
    stopped = invert(style, protocol=low, **arguments)
    assert stopped.stop_reason == "theta"
    assert stopped.loss < 0


def test_a_picture_that_is_not_square(bundled: Encoder, tmp_path: Path) -> None:
    result = invert("skimage:coffee", size=SIZE, fit="keep", encoder=bundled, iterations=2)
    assert result.image.shape == (3, 32, 48)
    styleinv.save_png(result.image, str(tmp_path / "wide.png"))
    with Image.open(tmp_path / "wide.png") as picture:
        assert picture.size == (48, 32)


def test_activations_beyond_all_numbers(style: torch.Tensor, bundled: Encoder) -> None:
    loud = Encoder(
        "loud",
        STYLEINV,
        {name: 1e9 * value for name, value in load_file(BUNDLED_WEIGHTS).items()},
    )
    with pytest.raises(InputError, match="the loss of the noise image is"):
        invert(style, encoder=loud)


def test_the_reported_loss_is_that_of_the_image(style: torch.Tensor, bundled: Encoder) -> None:
    result = invert(style, encoder=bundled, iterations=20)
    criterion = GramLoss(bundled(style[None], "relu_2_1"))
    assert criterion(bundled(result.image[None], "relu_2_1")).item() == pytest.approx(
        result.loss, rel=1e-4
    )


def test_four_moments_by_continuation(style: torch.Tensor, bundled: Encoder) -> None:
    """One call, one trace with its stages, one count, and the exact loss at the end."""
    result = invert(style, loss="moment-4", encoder=bundled)
    stages = list(dict.fromkeys(point.stage for point in result.trace))
    order = ["pre-activations", "moment-4 compressed", "moment-4"]
    assert stages == order[: len(stages)]
    assert len(stages) >= 2
    criterion = make_loss("moment-4", bundled(style[None], "relu_2_1"))
    exact = criterion(bundled(result.image[None], "relu_2_1")).item()
    assert exact == pytest.approx(result.loss, rel=1e-3)
    assert result.trace[-1].loss == result.loss
    assert result.trace[-1].evaluations == result.evaluations <= 2500


def test_random_pairs_are_for_adam(style: torch.Tensor, bundled: Encoder) -> None:
    arguments = {"loss": "mmd-random", "encoder": bundled, "iterations": 3}
    for protocol in ("fast", "scipy"):
        with pytest.raises(InputError, match=f"line search of protocol '{protocol}' cannot"):
            invert(style, protocol=protocol, **arguments)
    assert invert(style, protocol="chapter", **arguments).iterations == 3


def test_a_limit_in_seconds(style: torch.Tensor, bundled: Encoder) -> None:
    endless = dataclasses.replace(CHAPTER, theta=0.0)
    result = invert(style, encoder=bundled, protocol=endless, seconds=0.5)
    assert result.stop_reason == "time"
    assert 0.5 <= result.seconds < 30


def test_colours_come_back(style: torch.Tensor, bundled: Encoder) -> None:
    """The first layer's Gram matrix holds colour: the noise's mean moves to the style's."""
    result = invert(style, layer="relu_1_1", encoder=bundled, iterations=200)
    before = (torch.full((3,), 0.5) - style.mean(dim=(1, 2))).norm()
    after = (result.image.mean(dim=(1, 2)) - style.mean(dim=(1, 2))).norm()
    assert after < 0.3 * before


@pytest.mark.parametrize("protocol", ["chapter", "released", "fast", "scipy"])
def test_same_seed_same_bits(style: torch.Tensor, bundled: Encoder, protocol: str) -> None:
    def once(seed: int) -> torch.Tensor:
        return invert(style, encoder=bundled, protocol=protocol, seed=seed, iterations=15).image

    assert torch.equal(once(4), once(4))
    assert not torch.equal(once(4), once(5))


def test_noise_is_that_of_the_protocol(style: torch.Tensor) -> None:
    like = style[None].expand(40, -1, -1, -1)
    uniform, normal = noise_image(like, CHAPTER, 0), noise_image(like, RELEASED, 13)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert (normal.clamp(0, 1) == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_shuffled_pixels_are_the_styles_in_a_seeded_order(style: torch.Tensor) -> None:
    shuffled = ABLATION["n4-shuffled"]
    first, again, other = (noise_image(style[None], shuffled, seed) for seed in (0, 0, 1))
    assert first.shape == style[None].shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

    def colours(image: torch.Tensor) -> list[tuple[float, ...]]:
        return sorted(map(tuple, image.flatten(-2).reshape(3, -1).T.tolist()))

    assert colours(first) == colours(style)
    neighbours = (style[:, :, 1:] - style[:, :, :-1]).abs().mean()
    assert (first[..., 1:] - first[..., :-1]).abs().mean() > 2 * neighbours


# Stages before the exact loss, and the start.
STRATEGIES = {
    "n4-noise": ([], "uniform"),
    "n4-continued": (["moment-2", "moment-3"], "uniform"),
    "n4-compressed": (["moment-4 compressed"], "uniform"),
    "n4-continued-compressed": (
        ["moment-2", "moment-3 compressed", "moment-4 compressed"],
        "uniform",
    ),
    "n4-quantiles": (["pre-activations"], "uniform"),
    "n4-quantiles-continued": (["pre-activations", "moment-2", "moment-3"], "uniform"),
    "n4-all": (
        ["pre-activations", "moment-2", "moment-3 compressed", "moment-4 compressed"],
        "uniform",
    ),
    "n4-annealed": (["moment-4 at 1%", "moment-4 at 10%"], "uniform"),
    "n4-raw": (["moment-4 raw"], "uniform"),
    "n4-shuffled": ([], "shuffled"),
    "n4-behind-relu": (["histogram", "moment-4 compressed"], "uniform"),
    "fast": (["pre-activations", "moment-4 compressed"], "uniform"),
}


@pytest.mark.parametrize("layer", styleinv.LAYERS)
def test_ablated_protocols_differ_from_fast_in_stages_and_start_alone(layer: str) -> None:
    assert [*ABLATION, "fast"] == list(STRATEGIES)
    assert not set(ABLATION) & set(PROTOCOLS)
    # A statistic of moments gets 24% of the evaluations, divided among its stages; quantiles 4%.
    shares = {
        stages: [warmup.share for warmup in FAST.warmups_of("moment-4", layer)][index]
        for stages, index in (("quantiles", 0), ("moments", 1))
    }
    for name, (stages, noise) in STRATEGIES.items():
        protocol = get_protocol(name)
        same = {"name": "fast", "noise": "uniform", "warmups": FAST.warmups}
        assert dataclasses.replace(protocol, **same) == FAST
        assert protocol.noise == noise
        warmups = protocol.warmups_of("moment-4", layer)
        assert [warmup.loss for warmup in warmups] == stages
        for warmup in warmups:
            halved = warmup.loss.startswith(("moment-2", "moment-3", "moment-4 at"))
            quantiles = warmup.loss in ("histogram", "pre-activations")
            share = shares["quantiles" if quantiles else "moments"]
            assert warmup.share == share / (2 if halved else 1)
            assert warmup.enough == (1e-4 if quantiles else 1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_for_four_moments_runs(
    style: torch.Tensor, bundled: Encoder, name: str
) -> None:
    """Its stages in order, each with evaluations of its own, within one budget."""
    result = invert(style, loss="moment-4", encoder=bundled, protocol=name, iterations=60)
    stages = list(dict.fromkeys(point.stage for point in result.trace))
    assert stages == [*STRATEGIES[name][0], "moment-4"]
    assert result.evaluations <= 60
    assert result.loss < result.trace[0].loss


def test_addresses_of_kept_runs_do_not_change() -> None:
    """One record of every sweep, its protocol's settings taken from the code as it is."""
    folders = [path for path in (ROOT / "results/runs").iterdir() if any(path.glob("*.json"))]
    assert len(folders) > 5
    for folder in folders:
        record = store.read_record(min(folder.glob("*.json")))
        asked = record["asked"]
        own = get_protocol(asked["protocol"]["name"])
        addresses = [
            json_sha256({**asked, "protocol": protocol.settings(asked["loss"], asked["layer"])})
            for protocol in (own, own.limited_to(asked["protocol"]["budget"]))
        ]
        assert record["address"] in addresses


def test_the_address_of_a_kept_run_is_that_of_its_task() -> None:
    record = store.read_record(min((ROOT / "results/runs/random-encoder").glob("*.json")))
    asked = record["asked"]
    names = {name: asked[name] for name in ("layer", "loss", "seed")}
    task = plan(record["source"], encoder="random", size=asked["width"], **names)
    assert task.address == record["address"]


def test_real_features(real_weights: Path, style: torch.Tensor) -> None:
    result = invert(style, encoder=real_weights, layer="relu_2_2", iterations=60)
    assert result.loss < 0.02 * result.trace[0].loss


def test_record_says_what_made_the_picture(
    style: torch.Tensor, bundled: Encoder, tmp_path: Path
) -> None:
    task = plan("bundled:mosaic", size=SIZE, encoder=bundled, seed=3, iterations=9)
    result = task.run()
    path = store.save(store.run_of(result), tmp_path)
    record = json.loads(path.read_text())
    assert record["style"] == "mosaic"
    assert record["asked"]["encoder_sha256"] == bundled.sha256
    assert record["asked"]["protocol"]["budget"] == 9
    assert record["result"]["evaluations"] == result.evaluations == 9
    assert record["trace"][-1]["loss"] == result.loss
    found = store.find(task, tmp_path)
    assert found is not None
    assert found.record == record
    with Image.open(path.with_suffix(".png")) as picture:
        assert np.array_equal(np.asarray(picture), found.image)


def test_an_altered_image_or_record_is_not_taken_up(bundled: Encoder, tmp_path: Path) -> None:
    task = plan("bundled:mosaic", size=SIZE, encoder=bundled, iterations=2)
    path = store.save(store.run_of(task.run()), tmp_path)
    with Image.open(path.with_suffix(".png")) as picture:
        changed = np.array(picture)
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(path.with_suffix(".png"))
    with pytest.warns(UserWarning, match=f"{path.name}' and its image are not as they were"):
        assert store.find(task, tmp_path) is None
    store.save(store.run_of(task.run()), tmp_path)
    assert store.find(task, tmp_path) is not None
    path.write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match=f"{path.name}' or its image cannot be read"):
        assert store.find(task, tmp_path) is None


def test_sweep_computes_each_run_once(bundled: Encoder, tmp_path: Path) -> None:
    def sweep(lines: list[str]) -> dict[tuple[str, str, str], store.Run]:
        return styleinv.sweep(
            ["bundled:mosaic", "skimage:brick"],
            layers=["relu_1_1", "relu_1_2"],
            losses=["moment-1"],
            folder=tmp_path,
            encoder=bundled,
            protocol=styleinv.PROTOCOLS["fast"].limited_to(4),
            size=SIZE,
            report=lines.append,
        )

    first_lines: list[str] = []
    second_lines: list[str] = []
    first, second = sweep(first_lines), sweep(second_lines)
    assert list(first) == [
        (style, layer, "moment-1")
        for style in ("bundled:mosaic", "skimage:brick")
        for layer in ("relu_1_1", "relu_1_2")
    ]
    assert all("4 evaluations" in line for line in first_lines)
    assert all("kept" in line for line in second_lines)
    for key, run in first.items():
        assert second[key].record == run.record
        assert np.array_equal(second[key].image, run.image)


def test_sweep_refuses_random_pairs_with_a_line_search(bundled: Encoder, tmp_path: Path) -> None:
    grid = {"styles": ["bundled:mosaic"], "layers": ["relu_1_1"], "losses": ["mmd-random"]}
    with pytest.raises(InputError, match="loss 'mmd-random' draws new pairs"):
        styleinv.sweep(**grid, encoder=bundled, folder=tmp_path, size=SIZE)


def test_a_run_that_the_clock_cut_off_is_not_taken_up(bundled: Encoder, tmp_path: Path) -> None:
    task = plan("bundled:mosaic", size=SIZE, encoder=bundled, seconds=1e-6)
    store.save(store.run_of(task.run()), tmp_path)
    assert store.find(task, tmp_path) is None


@pytest.mark.parametrize("empty", ["styles", "layers", "losses"])
def test_sweep_refuses_nothing_to_do(bundled: Encoder, tmp_path: Path, empty: str) -> None:
    grid = {"styles": ["bundled:mosaic"], "layers": ["relu_1_1"], "losses": ["gram"], empty: []}
    with pytest.raises(InputError, match=f"{empty} is empty"):
        styleinv.sweep(**grid, encoder=bundled, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"layer": "relu_9_9"}, "layer is 'relu_9_9'"),
        ({"loss": "moment-7"}, "loss is 'moment-7'"),
        ({"protocol": "slow"}, "protocol is 'slow'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"iterations": 0}, "iterations is 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"size": 64}, "size is 64, but the style tensor's"),
        ({"style": torch.zeros(1, 3, 32, 32)}, r"must be \(3, H, W\)"),
        ({"style": torch.zeros(3, 8, 32)}, "at least 16"),
        ({"style": 2 * torch.ones(3, 32, 32)}, r"values in \[0, 1\]"),
        ({"encoder": "vgg-19"}, "encoder 'vgg-19'"),
    ],
)
def test_refuses(style: torch.Tensor, arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        invert(**{"style": style, **arguments})
