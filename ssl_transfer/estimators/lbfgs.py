"""The memory of a batched L-BFGS: P problems with n unknowns each and M stored pairs."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

PerProblem = Float64[Tensor, " P"]


class Pairs:
    """The last steps s, the changes y of the gradient, and their products, in scaled coordinates.

    The inverse Hessian is applied in its compact form (Byrd, Nocedal and Schnabel 1994, theorem
    2.2), which needs two passes over the pairs and operations on M x M matrices.
    """

    def __init__(self, problems: int, memory: int, size: int, like: Tensor) -> None:
        self.steps = like.new_zeros(problems, memory, size)
        self.changes = like.new_zeros(problems, memory, size)
        double = torch.zeros(problems, memory, memory, dtype=torch.float64, device=like.device)
        self.step_change, self.change_change = double, double.clone()
        self.order: list[int] = []  # slots, oldest pair first

    def keep(self, mask: Bool[Tensor, " P"]) -> None:
        """Remove the problems outside of ``mask``."""
        for name in ("steps", "changes", "step_change", "change_change"):
            setattr(self, name, getattr(self, name)[mask])

    def add(self, step: Float[Tensor, "P n"], change: Float[Tensor, "P n"]) -> Bool[Tensor, " P"]:
        """Replace the oldest pair by a new pair; return whether its curvature is positive."""
        full = len(self.order) == self.steps.shape[1]
        slot = self.order.pop(0) if full else len(self.order)
        self.order.append(slot)
        self.steps[:, slot], self.changes[:, slot] = step, change
        used = slice(0, len(self.order))
        both = torch.stack([step, change], dim=2)
        with_change = torch.bmm(self.changes[:, used], both).double()
        self.step_change[:, used, slot] = _products(self.steps[:, used], change)
        self.step_change[:, slot, used] = with_change[..., 0]
        self.change_change[:, used, slot] = with_change[..., 1]
        self.change_change[:, slot, used] = with_change[..., 1]
        return self.step_change[:, slot, slot] > 0

    def apply_inverse(self, vector: Float[Tensor, "P n"]) -> Float[Tensor, "P n"]:
        """Return the approximate inverse Hessian times ``vector``."""
        if not self.order:
            return vector.clone()
        used, order = slice(0, len(self.order)), torch.tensor(self.order)
        steps, changes = self.steps[:, used], self.changes[:, used]
        products = self.step_change[:, order][:, :, order]
        upper, curvature = products.triu(), products.diagonal(dim1=1, dim2=2)
        squares = self.change_change[:, order][:, :, order]
        gamma = (curvature[:, -1] / squares[:, -1, -1])[:, None, None]
        a = _products(steps, vector)[:, order, None]
        b = _products(changes, vector)[:, order, None]
        u = torch.linalg.solve_triangular(upper, a, upper=True)
        inner = curvature[..., None] * u + gamma * (squares @ u - b)
        v = torch.linalg.solve_triangular(upper.mT, inner, upper=False)
        by_age = torch.cat([v, -gamma * u], dim=2).to(vector.dtype)
        by_slot = torch.empty_like(by_age)
        by_slot[:, order] = by_age
        product = vector * gamma[:, 0].to(vector.dtype)
        product += torch.bmm(by_slot[:, None, :, 0], steps)[:, 0]
        product += torch.bmm(by_slot[:, None, :, 1], changes)[:, 0]
        return product


def dot(first: Float[Tensor, "P *n"], second: Float[Tensor, "P *n"]) -> PerProblem:
    """Return each problem's scalar product."""
    a, b = first.flatten(1), second.expand_as(first).flatten(1)
    return torch.bmm(a[:, None], b[:, :, None])[:, 0, 0].double()


def _products(rows: Float[Tensor, "P M n"], vector: Float[Tensor, "P n"]) -> Float64[Tensor, "P M"]:
    """Return the scalar products of a problem's rows with its vector."""
    return torch.bmm(rows, vector[..., None])[..., 0].double()
