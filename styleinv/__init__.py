"""Find out which style a summary statistic of a VGG-19 layer holds: invert it into noise."""

import os

from styleinv.machine import need_current_folder, share_processors

# Before anything below loads PyTorch, and with it OpenMP, which reads them then.
need_current_folder()
share_processors(os.environ)

from styleinv import losses
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.errors import InputError
from styleinv.images import load_style, save_png
from styleinv.inversion import Inversion, invert
from styleinv.losses import LOSSES
from styleinv.optim import Iterate
from styleinv.protocol import PROTOCOLS, Protocol

__version__ = "0.2.0"

__all__ = [
    "LAYERS",
    "LOSSES",
    "PROTOCOLS",
    "Encoder",
    "InputError",
    "Inversion",
    "Iterate",
    "Protocol",
    "__version__",
    "invert",
    "load_encoder",
    "load_style",
    "losses",
    "save_png",
]
