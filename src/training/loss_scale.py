"""The loss scale of float16, which a gradient that overflows halves.

Micikevicius et al. 2018: float16 has no numbers below 6e-8, where most gradients of a logit lie, and none above 65,504. So the
gradients are scaled, from those of the logits on, and divided by the scale in float32 before the update. The largest scale with
which none overflows is found by trying. Powers of two change no digits.
"""

import math

from storage.run_state import RunState

SMALLEST, LARGEST = 1.0, 2.0 ** 24
GOOD_STEPS = 2000       # steps without an overflow, after which the scale doubles


def adjust(state: RunState, norm: float) -> bool:
    """Adjusts the scale after a step whose gradient has this length. Returns whether it overflowed, so that nothing was updated.

    It did not, whatever the length, if the scale was the smallest: then it is not what makes the gradient NaN or infinite. All
    workers have the same state and the same norm, and come to the same scale.
    """
    if math.isfinite(norm):
        state.good_steps += 1
        if state.good_steps >= GOOD_STEPS:
            state.loss_scale, state.good_steps = min(2 * state.loss_scale, LARGEST), 0
        return False
    if state.loss_scale <= SMALLEST:
        return False
    state.loss_scale, state.good_steps, state.skipped = state.loss_scale / 2, 0, state.skipped + 1
    return True
