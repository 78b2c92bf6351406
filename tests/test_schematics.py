"""The two drawings say what the encoder is."""

import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from styleinv_book.schematics import SIZE, encoder_schematic, loss_schematic

from styleinv import load_encoder
from styleinv.encoder import LAYERS


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_encoder_schematic_names_every_convolution_and_every_layers_shape() -> None:
    """Against the convolutions themselves, and a pass through real weights at an eighth."""
    shown = labels(encoder_schematic())
    encoder = load_encoder()
    convolutions = [f"{conv.in_channels}-{conv.out_channels}" for conv in encoder.convs]
    assert [text.split("\n")[-1] for text in shown if "conv" in text] == convolutions
    for layer in LAYERS:
        _, channels, height, width = encoder(torch.zeros(1, 3, SIZE // 8, SIZE // 8), layer).shape
        assert f"{layer}\n{channels} maps\n{8 * height} x {8 * width}" in shown


def test_every_label_lies_within_its_drawing() -> None:
    for figure in (encoder_schematic(), loss_schematic()):
        figure.draw_without_rendering()
        for text in figure.findobj(Text):
            box = text.get_window_extent()
            if text.get_text():
                assert min(box.x0, box.y0) >= 0, text
                assert box.x1 <= figure.bbox.x1, text
                assert box.y1 <= figure.bbox.y1, text
