"""RMSNorm: activations divided by their root mean square; for training on a CPU with a gradient by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.Module):
    """x divided by its root mean square over the last dimension, times a learned weight (Zhang 2019).

    LayerNorm without the mean and the bias: comparable results, and cheaper.
    """

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps
        self.by_hand = False
        """Whether the gradient is computed by hand: on a CPU PyTorch makes it of many small operations."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size), in the dtype of x."""
        if self.by_hand:
            return _RMSNorm.apply(x, self.weight.to(x.dtype), self.eps)
        # The fused kernel needs one dtype for both. It sums in float32 in any case.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class _RMSNorm(torch.autograd.Function):
    """y = n w with n = x r and r = 1 / sqrt(mean x^2 + eps).

    For a gradient g of y: dw = sum g n and, with h = g w, dx = r (h - n mean(h n)).
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, weight, scale)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, weight, scale = ctx.saved_tensors
        grad_weight = (grad * normed).flatten(0, -2).sum(0)
        grad_normed = grad * weight
        mean = (grad_normed * normed).sum(-1, keepdim=True).div_(-normed.shape[-1])
        return grad_normed.addcmul_(normed, mean).mul_(scale), grad_weight, None
