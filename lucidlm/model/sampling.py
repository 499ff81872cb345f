"""From the logits (V,) of one position to the id of the next token: the decoding strategies, one by one.

V vocabulary. Each strategy takes logits (V,) and returns logits (V,), with -inf for a token that it forbids.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lucidlm.errors import WeightsError
from lucidlm.model.decoding import Decoding


def penalise_repetition(logits: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Makes the tokens of `ids` less likely: positive logits are divided, negative ones multiplied.

    Dividing a negative logit would make its token more likely (Keskar 2019, 4.1, has that trap).
    """
    if penalty == 1.0 or not ids:
        return logits
    seen = torch.tensor(sorted(set(ids)), device=logits.device)
    chosen = logits[seen]
    return logits.scatter(0, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharper below 1, flatter above: each probability p becomes p^(1/temperature), renormalized."""
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps the k largest logits (Fan 2018); of equal ones the lower id.

    >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0]), 2)
    tensor([-inf, 3., 2.])
    """
    if k >= logits.numel():
        return logits
    smallest = logits.topk(k).values[-1]
    larger, equal = logits > smallest, logits == smallest
    # topk does not say which of several equal logits it takes, so the remaining places go by id:
    # a seed gives the same text on every device.
    places = k - larger.sum()
    return logits.masked_fill(~(larger | (equal & (equal.cumsum(0) <= places))), -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest tokens whose probabilities add up to p, at least one (Holtzman 2020)."""
    if p >= 1:
        return logits
    ordered, order = logits.sort(descending=True, stable=True)
    mass = ordered.softmax(0).cumsum(0)
    # A token is cut if the tokens before it reach p already. The first is never cut, even if p rounds to 0.
    cut = torch.cat((mass.new_zeros(1, dtype=torch.bool), mass[:-1] >= p))
    return logits.scatter(0, order[cut], -torch.inf)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keeps tokens at least `share` times as likely as the likeliest (Nguyen 2024).

    A ratio of probabilities is a difference of logits, so no softmax is needed.
    """
    if share <= 0:
        return logits
    return logits.masked_fill(logits < logits.max() + math.log(share), -torch.inf)


def distribution(logits: Tensor, decoding: Decoding, ids: Sequence[int] = ()) -> Tensor:
    """Probabilities (V,) from which the next token is drawn, after all strategies, in at least float32.

    Penalty, temperature, top-k, top-p, min-p, in the order of transformers. Temperature 0 is argmax.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = usable(penalise_repetition(logits, ids, decoding.repetition_penalty))
    if decoding.temperature == 0:
        return torch.zeros_like(logits).index_fill(0, logits.argmax(), 1.0)
    # Without the largest logit, which changes no probability, dividing by a tiny temperature cannot overflow.
    logits = apply_temperature(logits - logits.max(), decoding.temperature)
    if decoding.top_k is not None:
        logits = keep_top_k(logits, decoding.top_k)
    logits = keep_min_p(keep_top_p(logits, decoding.top_p), decoding.min_p)
    return logits.softmax(0)


def next_token(
    logits: Tensor, decoding: Decoding, *, ids: Sequence[int] = (), generator: torch.Generator | None = None
) -> int:
    """The id of the next token, drawn from logits (V,) after the strategies.

    `ids` are the tokens so far, for the repetition penalty. WeightsError for NaN.
    """
    if decoding.temperature == 0:  # the argmax of `distribution`, without it
        return int(usable(penalise_repetition(logits, ids, decoding.repetition_penalty)).argmax())
    probabilities = distribution(logits, decoding, ids)
    # On the CPU: generators of other devices give other random numbers for the same seed.
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))


def usable(logits: Tensor) -> Tensor:
    """Logits (..., V) with no +inf and one finite in each row; tokens with +inf share all the probability."""
    largest = logits.amax(-1, keepdim=True)  # NaN if any logit is NaN
    if largest.isfinite().all():
        return logits
    if largest.isnan().any():
        raise WeightsError(
            "the model's logits hold NaN: its weights are damaged or overflowed; take another checkpoint"
        )
    if (largest == -math.inf).any():
        raise WeightsError("the model forbids every token: all its logits are -inf; take another checkpoint")
    shared = torch.zeros_like(logits).masked_fill(logits < math.inf, -torch.inf)
    return torch.where(largest == math.inf, shared, logits)
