"""Adam as the chapter has it (section 1.3), for one picture or for several side by side.

Pictures that go side by side share each pass through the encoder, and nothing else: each has its
own loss, its own state of Adam, its own `Monitor`, and ends as if it went alone.

On CUDA the host looks at the losses every `LOOK_EVERY` iterations only, because each look waits for
the device. In between, one iteration is replayed as a CUDA graph. If one of the losses in between
would have ended a run, the iterations since the last look are made again up to that one: a run ends
at the same iteration, however often the host looks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from styleinv.optim import Minimum, Monitor, Stage
from styleinv.protocol import Protocol

# Images (B, 3, H, W) -> their B losses, each a scalar that depends on its own image only.
Evaluate = Callable[[Tensor], Sequence[Tensor]]

# Iterations from one look at the losses to the next.
LOOK_EVERY = {"cuda": 256}


def adam(stage: Stage, start: Tensor, protocol: Protocol, monitor: Monitor) -> Minimum:
    """Adam (Kingma and Ba 2015) with the chapter's stopping rule, for one image (1, 3, H, W).

    One iteration: step along the gradient of weight x loss, clamp the image to [0, 1], evaluate
    the loss, stop if weight x loss is below theta. At the end of the budget the loss decides
    whether a round of further iterations follows, with the same state of Adam.
    """
    walk = Walk(stage, start, protocol, monitor)
    descent = Descent([walk], lambda images: stage.objective(images)[:1])
    while walk.minimum is None:
        descent.go_on()
    return walk.minimum


@dataclass(eq=False)
class Walk:
    """One picture on its way down.

    Attributes:
        stage: names the loss in the trace, and has the generators that it draws from.
        image: (1, 3, H, W); where the picture is.
        seen, loss: the last image with a finite loss, and its loss.
        draws: the states of the generators before that loss was evaluated.
        seconds: when the loss was known.
        minimum: where it ended; None as long as it goes on.
    """

    stage: Stage
    start: Tensor
    protocol: Protocol
    monitor: Monitor
    loss: float = math.inf
    draws: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    minimum: Minimum | None = None

    def __post_init__(self) -> None:
        self.monitor.stage = self.stage
        self.image = self.start.detach().clone()
        self.seen = self.image.clamp(0, 1)
        self.optimizer = optimizer_of([self.image], self.protocol)
        if (saved := self.monitor.take_up()) is not None:
            self.image.copy_(saved["image"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.seen, self.loss = saved["seen"].to(self.image), saved["loss"]
            for generator, drawn in zip(self.stage.generators, saved["draws"], strict=True):
                generator.set_state(drawn)

    def tensors(self) -> list[Tensor]:
        """What an iteration changes, beside the gradient."""
        return [self.image, *self.optimizer.state[self.image].values()]

    def needs_the_host(self) -> bool:
        """Whether each evaluation does: to draw random numbers, or to tell whether it is slow."""
        return bool(self.stage.generators) or self.monitor.least_gain is not None

    def note_draws(self) -> None:
        """To be called before each evaluation."""
        self.draws = [generator.get_state() for generator in self.stage.generators]

    def most_to_pass_by(self) -> int:
        """How many iterations may be made unseen: the one at the end of a round may not."""
        left = self.monitor.budget - self.monitor.iteration
        extra = self.protocol.extra_iterations
        return (left if left > 0 else left % extra or extra) - 1

    def would_end(self, loss: float) -> bool:
        """Whether this loss ends the walk, wherever it is."""
        return not math.isfinite(loss) or self.monitor.passed_theta(loss)

    def pass_by(self, losses: Sequence[float]) -> None:
        """Take note of iterations that led here, with these losses, unseen and equally long."""
        monitor, now = self.monitor, self.monitor.clock()
        for number, loss in enumerate(losses, start=1):
            monitor.iteration += 1
            monitor.evaluations = monitor.iteration + 1
            monitor.note(loss, self.seconds + number / len(losses) * (now - self.seconds))
        self.seconds = now
        if losses:
            self.seen, self.loss = self.image.clone(), losses[-1]

    def look(self, loss: float) -> None:
        """Take note of the image, whose loss this is, and end where it is time."""
        monitor = self.monitor
        monitor.evaluations = monitor.iteration + 1
        if not monitor.is_finite(loss, self.image):
            self.minimum = monitor.finish(self.loss, self.seen, "not finite")
            return
        self.seen, self.loss, self.seconds = self.image.clone(), loss, monitor.clock()
        reason = monitor.see(loss, self.seen) or self._budget_reason()
        if reason in (None, "stopped"):  # whoever goes on from here evaluates the same image again
            monitor.keep(self._state(), at_once=reason is not None)
        if reason is not None:
            self.minimum = monitor.finish(loss, self.seen, reason)

    def _state(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "optimizer": self.optimizer.state_dict(),
            "seen": self.seen,
            "loss": self.loss,
            "draws": self.draws,
        }

    def _budget_reason(self) -> str | None:
        """``budget`` where Adam's budget and its rounds of extra iterations are over, or None.

        At the end of the budget and of each round, another round follows if one is left and the
        loss is too high.
        """
        monitor, protocol = self.monitor, self.protocol
        rounds, rest = divmod(monitor.iteration - monitor.budget, protocol.extra_iterations)
        is_low = monitor.weight * self.loss <= protocol.extra_above
        is_over = rounds >= protocol.extra_rounds or is_low
        return "budget" if rounds >= 0 and rest == 0 and is_over else None


def optimizer_of(images: Sequence[Tensor], protocol: Protocol) -> torch.optim.Adam:
    """PyTorch's Adam over images of one device, with one kernel for all of them."""
    rate, betas = protocol.learning_rate, protocol.betas
    return torch.optim.Adam(images, lr=rate, betas=betas, fused=True)


class Descent:
    """Walks that go down side by side, from the first to the next that ends.

    They have the same shape, device and settings of Adam. To let one leave or enter, make another
    `Descent`: it evaluates the images where they are, and goes on.

    Args:
        every: iterations from one look at the losses to the next; by default `LOOK_EVERY` of the
            device, or 1.
    """

    def __init__(self, walks: Sequence[Walk], evaluate: Evaluate, every: int | None = None) -> None:
        self.walks, self.evaluate = walks, evaluate
        images = torch.cat([walk.image for walk in walks])
        most = every or LOOK_EVERY.get(images.device.type, 1)
        self.every = 1 if any(walk.needs_the_host() for walk in walks) else most
        self.optimizer = optimizer_of([walk.image for walk in walks], walks[0].protocol)
        # Tensors that stay where they are, for a CUDA graph.
        self.gradient = torch.zeros_like(images)
        self.losses, self.row = images.new_zeros(self.every, len(walks)), images.new_zeros(1).long()
        self.weights = [images.new_tensor(walk.monitor.weight) for walk in walks]
        for walk, gradient in zip(walks, self.gradient[:, None], strict=True):
            walk.image.grad = gradient
            # One step for all of them; each has its own state, which its checkpoint holds.
            self.optimizer.state[walk.image] = walk.optimizer.state[walk.image]
        self.iterations = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self._look_after(self._evaluate)

    def go_on(self) -> None:
        """Make iterations up to the next look."""
        # Soon at first, because who has just entered may end soon.
        most = min(self.every, self.iterations) - 1
        if (most := min(most, *(walk.most_to_pass_by() for walk in self.walks))) > 0:
            self._pass_by(most)
        for walk in self.walks:
            walk.monitor.iteration += 1
        self._look_after(self._iterate)
        self.iterations += 1

    def _pass_by(self, most: int) -> None:
        """Make so many iterations without a look, or as many as there are before a walk ends."""
        tensors = [self.gradient, *(tensor for walk in self.walks for tensor in walk.tensors())]
        before = [tensor.clone() for tensor in tensors]
        rows = self._losses_of(most)
        calm = next((number for number, row in enumerate(rows) if self._would_end(row)), most)
        if calm < most:
            for tensor, kept in zip(tensors, before, strict=True):
                tensor.copy_(kept)
            rows = self._losses_of(calm)
        for number, walk in enumerate(self.walks):
            walk.pass_by([row[number] for row in rows])
        self.iterations += calm

    def _would_end(self, row: Sequence[float]) -> bool:
        return any(walk.would_end(loss) for walk, loss in zip(self.walks, row, strict=True))

    def _losses_of(self, iterations: int) -> list[list[float]]:
        """Make iterations; only at their end does the host wait for the device."""
        self.row.zero_()
        iterate = self._captured() if self.row.is_cuda else self._iterate
        for _ in range(iterations):
            iterate()
        found: list[list[float]] = self.losses[:iterations].tolist()
        return found

    def _captured(self) -> Callable[[], None]:
        """One iteration as a CUDA graph: all here that only a GPU can test.

        Some iterations have been made by now, as recording demands: nothing is set up any more.
        """
        if self.graph is None:
            self.graph, (settings,) = torch.cuda.CUDAGraph(), self.optimizer.param_groups
            settings["capturable"] = True  # it is so anyway, but must be said, and only now
            with torch.cuda.graph(self.graph):  # this records, and computes nothing
                self._iterate()
            settings["capturable"] = False
        return self.graph.replay

    def _look_after(self, move: Callable[[], None]) -> None:
        for walk in self.walks:
            walk.note_draws()
        self.row.zero_()
        move()
        for walk, loss in zip(self.walks, self.losses[0].tolist(), strict=True):
            walk.look(loss)

    def _iterate(self) -> None:
        self.optimizer.step()
        self._evaluate()

    def _evaluate(self) -> None:
        for walk in self.walks:
            walk.image.clamp_(0, 1)
        images = torch.cat([walk.image for walk in self.walks]).requires_grad_()
        values = self.evaluate(images)
        (gradient,) = torch.autograd.grad(values, images, self.weights)
        self.gradient.copy_(gradient)
        found = torch.stack([value.detach() for value in values])
        self.losses.index_copy_(0, self.row, found[None])
        self.row += 1
