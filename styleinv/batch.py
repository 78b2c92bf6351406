"""Inversions side by side: one pass through the encoder for all of them.

Runs that share encoder, layer, size and Adam's settings can be made together, whatever their
styles, losses, seeds and budgets. Each ends where it would have ended alone, and has the checkpoint
that it would have alone: it can be begun here and ended alone, or the other way round.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from styleinv.adam import Descent, Walk
from styleinv.checkpoint import Checkpoint
from styleinv.inversion import Begun, Inversion, Task
from styleinv.losses import REDRAWN
from styleinv.machine import available_memory, check_memory_together
from styleinv.optim import Iterate

MOST_TOGETHER = 1024
# How many pictures are put side by side on a GPU, where the memory allows; not measured yet.
ON_CUDA = 24
# On a CPU that pays for small pictures: of so many pixels on either side. For still smaller ones it
# would change the last digits, because PyTorch has other code for a small picture than for several.
ON_CPU, SMALL = 24, range(32, 65)


def kind_of(task: Task) -> Hashable | None:
    """Tasks of the same kind can be in one batch; None if this one has to be run alone.

    Only Adam's steps are the same for every picture, and `REDRAWN` losses draw on the host.
    """
    protocol, encoder = task.protocol, task.encoder
    if protocol.method != "adam" or task.loss in REDRAWN:
        return None
    weights = encoder.sha256, encoder.device, encoder.dtype
    return weights, task.layer, task.style.shape, protocol.learning_rate, protocol.betas


def how_many(tasks: Sequence[Task], asked: int | None = None) -> int:
    """How many tasks of one kind to make at once: as asked for, or as many as is fast and fits.

    Raises:
        InputError: as many as were asked for do not fit into the memory.
    """
    task, most = tasks[0], len(tasks)
    if kind_of(task) is None or asked == 1:
        return 1
    device = task.encoder.device
    is_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else available_memory()
    each = max(task.needed_memory() for task in tasks)
    if asked is not None:
        check_memory_together("batch", min(asked, most), each, free)
        return min(asked, most)
    is_small = all(side in SMALL for side in task.style.shape[1:])
    fast = ON_CUDA if is_cuda else ON_CPU if is_small else 1
    return max(1, min(fast, most, int(free / each)))


class Batch:
    """Inversions of one `kind_of` task, which enter and leave one by one.

    Entering while others are on their way costs one more evaluation of each.
    """

    def __init__(self) -> None:
        self._places: dict[Walk, tuple[int, Begun]] = {}
        self._together: dict[Walk, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def enter(
        self,
        key: int,
        task: Task,
        callback: Callable[[Iterate], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """Add a task, which `key` stands for; the other arguments are those of `Task.run`.

        On CUDA, `callback` gets the iterates that the host looks at (`styleinv.adam.LOOK_EVERY`).

        Raises:
            InputError: the layer is zero for the style, or the checkpoint is of another run.
        """
        with task.settings():
            begun = task.begin(callback, checkpoint)
            walk = Walk(begun.stages[-1], begun.start, task.protocol, begun.monitor)
        self._places[walk] = key, begun

    def run(self) -> dict[int, Inversion]:
        """Go on until at least one task ends; the results of those that did.

        Raises:
            InputError: the first loss of a task is not finite.
        """
        for walk in self._places:
            self._together[walk] = max(self._together.get(walk, 1), len(self))
        (task, *_) = (begun.task for _, begun in self._places.values())
        with task.settings():
            descent = Descent(list(self._places), self._evaluator(task))
            while not (ended := [walk for walk in self._places if walk.minimum is not None]):
                descent.go_on()
            return dict(self._leave(walk) for walk in ended)

    def _leave(self, walk: Walk) -> tuple[int, Inversion]:
        key, begun = self._places.pop(walk)
        assert walk.minimum is not None
        return key, begun.ended(walk.minimum, self._together.pop(walk))

    def _evaluator(self, task: Task) -> Callable[[Tensor], Sequence[Tensor]]:
        """The losses of images (B, 3, H, W), each of its own kind, after one pass."""
        criteria = [begun.exact for _, begun in self._places.values()]

        def evaluate(images: Tensor) -> list[Tensor]:
            # Split, and not cut to slices: the gradients are joined in one step.
            rows = torch.split(task.encoder.forward(images, task.layer), 1)
            return [loss.forward(row) for loss, row in zip(criteria, rows, strict=True)]

        return evaluate
