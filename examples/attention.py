"""Causal attention by hand: the textbook's form beside the fused kernel, and what the mask is for."""

import torch
import torch.nn.functional as F

from lucidlm.model.attention import textbook_attention

torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 5, 8).unbind(0)  # a text of 5 tokens, 2 heads of 8 channels

by_hand = textbook_attention(q, k, v)
fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
print(f"largest difference of the two: {(by_hand - fused).abs().max():.1e}")

# The last token is changed: nothing before it may notice, or the loss would be a lie.
changed_k, changed_v = k.clone(), v.clone()
changed_k[..., -1, :], changed_v[..., -1, :] = 7.0, -7.0
changed = textbook_attention(q, changed_k, changed_v)
print("outputs before it changed:", bool((changed[..., :-1, :] != by_hand[..., :-1, :]).any()))
print("its own output changed:   ", bool((changed[..., -1, :] != by_hand[..., -1, :]).any()))
