"""The encoder: its arithmetic, its sources, its layouts, and what it refuses."""

import copy
import errno
import hashlib
import json
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from styleinv import LAYERS, InputError, encoder, load_encoder
from styleinv.encoder import NORMALISED_NAME, NORMALISED_SHA256, Encoder
from styleinv.images import load_style
from styleinv.layouts import (
    ADAIN,
    ADAIN_NAMED,
    CAFFE,
    CAFFE_MEAN,
    GATYS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION,
    imagenet_normalisation,
)
from tests.conftest import ROOT, state_of


def test_shapes(bundled: Encoder, images: Tensor) -> None:
    expected = [(64, 17, 22), (64, 17, 22), (128, 8, 11), (128, 8, 11)]
    for layer, shape in zip(LAYERS, expected, strict=True):
        assert bundled(images, layer).shape == (2, *shape)
    assert sum(p.numel() for p in bundled.parameters()) == 260_160
    assert not any(p.requires_grad for p in bundled.parameters())


def test_the_normalisation_is_torchvisions(images: Tensor) -> None:
    published = torchvision.models.VGG19_Weights.IMAGENET1K_V1.transforms()
    expected = torchvision.transforms.functional.normalize(images, published.mean, published.std)
    torch.testing.assert_close(F.conv2d(images, *imagenet_normalisation()), expected)


def test_random_is_seeded_and_keeps_the_variance() -> None:
    one, same, other = (load_encoder("random", seed=seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != other.sha256
    weight = one.convs[3].weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


def test_bundled_has_the_weights_that_its_card_describes(bundled: Encoder) -> None:
    card = json.loads((ROOT / "styleinv" / "weights" / "bundled.json").read_text())
    assert bundled.sha256 == card["sha256"]


def test_real_weights_are_activation_normalised(real_weights: Path) -> None:
    """Gatys' normalisation: a mean activation near 1 over natural images, in every layer."""
    vgg = load_encoder(real_weights)
    assert vgg.layout is ADAIN_NAMED
    assert (vgg.name, vgg.sha256) == (NORMALISED_NAME, NORMALISED_SHA256)
    import skimage.data

    picture = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)[None] / 255
    for layer in LAYERS:
        assert 0.3 < vgg(picture, layer).mean().item() < 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_rounded_to_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """The fingerprint is that of the rounded weights, however they are stored."""
    state = {name: tensor.to(dtype) for name, tensor in state_of(ADAIN).items()}
    save_file(state, tmp_path / "given.safetensors")
    save_file({name: t.float() for name, t in state.items()}, tmp_path / "rounded.safetensors")
    learned = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    rest = {"classifier.6.bias": torch.full((1000,), float("nan")), "note": "text", 7: None}
    torch.save(learned | rest, tmp_path / "learned.pth")
    names = ("given.safetensors", "rounded.safetensors", "learned.pth")
    given, rounded, learned_too = (load_encoder(tmp_path / name) for name in names)
    assert given.dtype == torch.float32
    assert given.sha256 == rounded.sha256 == learned_too.sha256
    kept = learned_too.state_dict(keep_vars=True).values()
    assert not any(tensor.requires_grad for tensor in kept)


class TestVgg19:
    """A small file of torchvision's layout, at another address, stands in for the real one."""

    @pytest.fixture
    def published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file where it is published, under a name with the beginning of its SHA-256."""
        torch.save(state_of(TORCHVISION) | {"classifier.6.bias": torch.zeros(10)}, tmp_path / "a")
        prefix = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()[:8]
        file = (tmp_path / "a").rename(tmp_path / f"vgg19-{prefix}.pth")
        monkeypatch.setattr(encoder, "VGG19_URL", file.as_uri())
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        return file

    def test_is_downloaded_once(self, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first = load_encoder("vgg19")
        assert first.sha256 == Encoder("plain", TORCHVISION, state_of(TORCHVISION)).sha256
        printed, said = capsys.readouterr()
        assert printed == ""
        assert said.startswith(f'Downloading: "{published.as_uri()}" to ')
        published.unlink()
        assert load_encoder("vgg19").sha256 == first.sha256
        assert capsys.readouterr() == ("", "")

    def test_refuses_what_is_damaged_or_absent(self, published: Path, tmp_path: Path) -> None:
        published.write_bytes(published.read_bytes()[:-1])
        with pytest.raises(InputError, match=r"^encoder 'vgg19' cannot be .* invalid hash"):
            load_encoder("vgg19")
        published.unlink()
        with pytest.raises(InputError, match=r"No such file .*; 'bundled', 'random' and the path"):
            load_encoder("vgg19")
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


class TestVgg19Normalised:
    """A file of the published layout, at another address, stands in for the real one."""

    @pytest.fixture
    def published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        state = state_of(ADAIN)
        fingerprint = Encoder("plain", ADAIN, state).sha256
        monkeypatch.setattr(encoder, "NORMALISED_SHA256", fingerprint)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        file = tmp_path / "vgg_normalised.pth"
        rest = {"16.weight": torch.zeros(256, 128, 3, 3), "16.bias": torch.zeros(256)}
        torch.save(state | rest, file)
        monkeypatch.setattr(encoder, "NORMALISED_URL", file.as_uri())
        return file

    def test_keeps_what_it_needs_and_works_offline(
        self, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = load_encoder("vgg19-normalised")
        assert (first.name, first.sha256) == (NORMALISED_NAME, encoder.NORMALISED_SHA256)
        assert capsys.readouterr().err.startswith(f'Downloading: "{published.as_uri()}" to ')
        published.unlink()
        again = load_encoder("vgg19-normalised")
        assert (again.name, again.sha256) == (first.name, first.sha256)
        assert capsys.readouterr() == ("", "")
        (kept,) = (file for file in tmp_path.rglob("*") if file.is_file())
        assert kept == tmp_path / f"home/hub/checkpoints/{NORMALISED_NAME}.safetensors"
        assert {name: t.shape for name, t in load_file(kept).items()} == ADAIN.shapes

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"<!DOCTYPE html><title>Proxy</title>", "but is a web page"),
            (b"version https://git-lfs.github.com/spec/v1", "but is a Git LFS pointer"),
            (0.7, "but is cut off or damaged"),
            (b"", "but is empty"),
            ({"0.weight": torch.zeros(3, 3, 1, 1)}, "lacks 0.bias, 2.weight"),
            (
                state_of(ADAIN) | {"12.bias": torch.ones(128)},
                "the weights of the reference runs ha",
            ),
        ],
    )
    def test_refuses_what_is_not_that_file(
        self, published: Path, tmp_path: Path, content: object, says: str
    ) -> None:
        if isinstance(content, dict):
            torch.save(content, published)
        elif isinstance(content, float):
            os.truncate(published, int(content * published.stat().st_size))
        else:
            published.write_bytes(content)
        with pytest.raises(InputError, match=says) as refused:
            load_encoder("vgg19-normalised")
        assert published.as_uri() in str(refused.value)
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == [published]

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (b"HTTP/1.0 404 Not Found\r\n\r\n", "HTTP Error 404: Not Found"),
            (b"HTTP/1.0 407 Proxy\r\n\r\n", "HTTP Error 407: Proxy"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 999\r\n\r\nPK", "2 bytes read, 997 more exp"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n", "0 bytes read, 9 more exp"),
            (b"", "Remote end closed connection"),
            (None, "timed out"),
        ],
    )
    def test_says_what_the_network_does(
        self, published: Path, answer: bytes | None, says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever a server answers, and if it never does."""
        stop = threading.Event()

        def serve(server: socket.socket) -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            stop.wait() if answer is None else connection.sendall(answer)
            connection.close()

        monkeypatch.setattr(encoder, "PATIENCE", 0.2 if answer is None else 60)
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg_normalised.pth"
            monkeypatch.setattr(encoder, "NORMALISED_URL", url)
            threading.Thread(target=serve, args=[server], daemon=True).start()
            with pytest.raises(InputError, match=rf"downloaded from {url} .*{says}.*; 'bundled'"):
                load_encoder("vgg19-normalised")
            stop.set()

    def test_what_cannot_be_kept_is_not_downloaded(
        self, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "home").write_text("in the way of the folder")
        with pytest.raises(InputError, match="/home/hub/checkpoints' cannot be written: "):
            load_encoder("vgg19-normalised")
        assert capsys.readouterr().err == ""

    def test_a_full_disk(
        self, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, content: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match="safetensors' cannot be written: No space left on"):
            load_encoder("vgg19-normalised")
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == [published]

    def test_a_kept_file_that_was_changed_is_named(self, published: Path, tmp_path: Path) -> None:
        load_encoder("vgg19-normalised")
        kept = next(tmp_path.rglob("*.safetensors"))
        save_file(state_of(ADAIN) | {"12.bias": torch.ones(128)}, kept)
        with pytest.raises(InputError, match=f"'{kept}', which can be removed, has the fingerp"):
            load_encoder("vgg19-normalised")

    def test_real_weights_in_the_published_layout(
        self, published: Path, real_weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They have the fingerprint of the reference runs."""
        monkeypatch.setattr(encoder, "NORMALISED_SHA256", NORMALISED_SHA256)
        real = load_file(real_weights)
        names = zip(ADAIN.shapes, ADAIN_NAMED.shapes, strict=True)
        torch.save({name: real[named] for name, named in names}, published)
        loaded = load_encoder("vgg19-normalised")
        assert (loaded.name, loaded.sha256) == (NORMALISED_NAME, NORMALISED_SHA256)


class TestWhatItDoes:
    """What the first layers make of a photograph."""

    def test_the_photograph_is_scikit_images(self) -> None:
        assert torch.equal(encoder._photograph()[0], load_style("skimage:coffee", 64))

    def load(self, state: Mapping[str, Tensor], folder: Path) -> Encoder:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "vgg.pth")
        return load_encoder(folder / "vgg.pth")

    @pytest.mark.parametrize("scaled", [False, True])
    @pytest.mark.parametrize("layer", LAYERS)
    def test_caffes_weights_are_known_and_used_rightly(
        self, tmp_path: Path, real_weights: Path, images: Tensor, layer: str, scaled: bool
    ) -> None:
        """Gatys' weights are Caffe's but for the scale of their channels, which a layer undoes."""
        real = load_file(real_weights)
        names = zip(TORCHVISION.shapes, list(ADAIN_NAMED.shapes)[2:], strict=True)
        state = {name: real[named] for name, named in names}
        if scaled:
            gain = torch.linspace(0.5, 90, 64)
            state["features.0.weight"] = state["features.0.weight"] * gain[:, None, None, None]
            state["features.0.bias"] = state["features.0.bias"] * gain
            state["features.2.weight"] = state["features.2.weight"] / gain[:, None, None]
        with pytest.warns(UserWarning, match="it is Caffe's VGG-19, so it gets BGR from 0 to 255"):
            caffe = self.load(state, tmp_path)
        assert caffe.layout is CAFFE
        named = zip(GATYS.shapes, state.values(), strict=True)
        expected = Encoder("written out above", GATYS, dict(named))
        torch.testing.assert_close(caffe(images, layer), expected(images, layer))

    def test_weights_for_0_to_255_of_others_are_refused(
        self, tmp_path: Path, bundled: Encoder
    ) -> None:
        """The bundled weights, made to take BGR from 0 to 255 less Caffe's means.

        Their first biases are moved: like VGG-19's they then decide what is on in mean grey.
        """
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        moved = copy.deepcopy(bundled)
        moved.convs[0].bias += torch.tensor([0.5, -0.5]).repeat(32)
        convs = [(conv.weight, conv.bias) for conv in moved.convs]
        weight = convs[0][0] / std[:, None, None]
        shift = torch.tensor(CAFFE_MEAN).flip(0) / 255 - mean
        bias = convs[0][1] + (weight * shift[:, None, None]).sum((1, 2, 3))
        convs[0] = (weight.flip(1) / 255, bias)
        tensors = [tensor for pair in convs for tensor in pair]
        state = dict(zip(TORCHVISION.shapes, tensors, strict=True))
        folded = Encoder("folded", CAFFE, state)
        inside = (..., slice(4, -4), slice(4, -4))  # where the padding makes no difference
        for layer in LAYERS:
            ours, theirs = (vgg(encoder._photograph(), layer)[inside] for vgg in (folded, moved))
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        with pytest.raises(InputError, match="weights for pictures from 0 to 255, as Caffe has"):
            self.load(state, tmp_path)

    @pytest.mark.parametrize("number", range(4))
    @pytest.mark.parametrize(("bias", "says"), [(0, "zero"), (-3, "zero"), (3, "the same")])
    def test_a_layer_that_does_not_see_is_refused(
        self, tmp_path: Path, number: int, bias: float, says: str
    ) -> None:
        key, state = TORCHVISION.conv_keys[number], state_of(TORCHVISION)
        state[f"{key}.weight"].zero_()
        state[f"{key}.bias"].fill_(bias)
        with pytest.raises(InputError, match=f"what {LAYERS[number]} returns is {says} everywhere"):
            self.load(state, tmp_path)

    def test_few_channels_that_see_deserve_a_note(self, tmp_path: Path) -> None:
        state = state_of(TORCHVISION)
        state["features.5.bias"][5:] = -1e4
        with pytest.warns(UserWarning, match="only 5 of 128 channels of relu_2_1 depend on the"):
            self.load(state, tmp_path)

    def test_features_that_overflow_are_refused(self, tmp_path: Path) -> None:
        state = {name: 1e30 * tensor for name, tensor in state_of(TORCHVISION).items()}
        with pytest.raises(InputError, match="what relu_1_2 returns for a photograph is not fin"):
            self.load(state, tmp_path)

    @pytest.mark.filterwarnings("error")
    def test_what_is_valid_passes(self, tmp_path: Path) -> None:
        """Random weights of many seeds, saved and loaded, without a word."""
        for seed in range(51):
            drawn = load_encoder("random", seed=seed)
            tensors = (t for conv in drawn.convs for t in (conv.weight, conv.bias))
            state = dict(zip(TORCHVISION.shapes, tensors, strict=True))
            assert self.load(state, tmp_path).sha256 == drawn.sha256


@pytest.mark.parametrize("source", ["vgg-19", "", "a\0b.pth", 300 * "x" + ".pth", "tests", "a.txt"])
def test_refuses_what_is_no_weights_file(source: str) -> None:
    """No name, folder or absent file is taken for another encoder."""
    with pytest.raises(
        InputError, match=r"neither an existing file .* one of: bundled, vgg19, vgg"
    ):
        load_encoder(source)


def test_refuses_other_options(bundled: Encoder, images: Tensor) -> None:
    with pytest.raises(InputError, match="seed is -1, but must be a whole number from 0 to"):
        load_encoder("random", seed=-1)
    for device in ("cuda:99", "meta"):
        with pytest.raises(InputError, match=f"device is '{device}', but this machine's PyTorch"):
            load_encoder("bundled", device=device)
    with pytest.raises(InputError, match=r"encoder is Linear\(.*, but must be a file of weights"):
        load_encoder(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"layer is 'relu_9_9'.*relu_1_1"):
        bundled(images, "relu_9_9")
