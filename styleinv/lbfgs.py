"""The algebra of limited-memory BFGS, on tensors and on their device."""

import torch
from torch import Tensor


class CurvatureHistory:
    """The last `memory` pairs (s, y) of step and change of gradient, which give -H g.

    H is the inverse BFGS matrix that starts as scale x identity and is updated with each pair,
    oldest first. It is never formed: in the compact form of Byrd, Nocedal and Schnabel (1994,
    theorem 2.2), with S and Y the pairs as rows, R the upper triangle of S Y^T and D its diagonal,

        H g = scale g + S^T d - scale Y^T a,
        R a = S g,   R^T d = D a + scale (Y Y^T a - Y g).

    Three passes over the pairs per direction, each a single product of matrix and vector, instead
    of the two-loop recursion's dozens of small operations. All that later directions depend on are
    the attributes, tensors and plain values: a checkpoint holds them as they are.
    """

    def __init__(self, memory: int, like: Tensor) -> None:
        """Make room for `memory` pairs of vectors of the length, dtype and device of `like`."""
        self.memory = memory
        self._pairs = like.new_zeros((2 * memory, like.numel()))  # S above Y
        # The triangular systems may be ill-conditioned, so they are in float64 where possible.
        exact = torch.float32 if like.device.type == "mps" else torch.float64
        self._sy = torch.zeros((memory, memory), dtype=exact, device=like.device)
        self._yy = torch.zeros_like(self._sy)
        self._slots: list[int] = []  # oldest first
        self._scale = 1.0

    def __len__(self) -> int:
        return len(self._slots)

    def clear(self) -> None:
        """Forget all pairs."""
        self._slots = []

    def add(self, step: Tensor, change: Tensor, curvature: float, squared_change: float) -> None:
        """Add the pair s, y with s^T y > 0 and y^T y; a full history drops its oldest pair."""
        slot = self._slots.pop(0) if len(self) == self.memory else len(self)
        self._slots.append(slot)
        self._pairs[slot] = step
        self._pairs[self.memory + slot] = change
        self._scale = curvature / squared_change
        products = (self._pairs @ change).to(self._sy.dtype)
        self._sy[:, slot] = products[: self.memory]
        self._yy[:, slot] = self._yy[slot, :] = products[self.memory :]

    def direction(self, gradient: Tensor) -> Tensor:
        """-H g, or steepest descent as long as there is no pair."""
        if not self._slots:
            return -gradient
        order = torch.tensor(self._slots, dtype=torch.int64, device=gradient.device)
        # One vector at a time: the BLAS takes many times longer for a product with two columns.
        products = (self._pairs @ gradient).to(self._sy.dtype)[:, None]
        s_times_g, y_times_g = products[order], products[order + self.memory]
        r = self._sy[order][:, order].triu()
        yy = self._yy[order][:, order]
        a = torch.linalg.solve_triangular(r, s_times_g, upper=True)
        right = r.diagonal()[:, None] * a + self._scale * (yy @ a - y_times_g)
        d = torch.linalg.solve_triangular(r.T, right, upper=False)
        weights = torch.zeros((2 * self.memory, 1), dtype=a.dtype, device=a.device)
        weights[order] = -d
        weights[order + self.memory] = self._scale * a
        return (weights[:, 0].to(gradient) @ self._pairs).sub_(gradient, alpha=self._scale)
