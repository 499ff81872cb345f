"""A made-up result of the search for memorization: nothing was found."""

from lucidlm.measure.continuation import Continuation
from lucidlm.measure.memorized import LongestRun, Memorization, NearShare, Share

NOTHING = Memorization(
    rows=(Share(16, 0.0, 0.0),),
    spans=Share(50, 0.0, 0.0),
    longest=LongestRun(20, "x" * 20, 1, False, 20),
    near=NearShare(9, 0, 0.6, 32, 0),
    continuation=Continuation(32, 0, 3.0, 32, 0, 3.0),
    repeated=None,
    generated_tokens=1000,
    heldout_tokens=9000,
    generated_bytes=1000,
    heldout_bytes=9000,
)
