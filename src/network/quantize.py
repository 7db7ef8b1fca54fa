"""Weights stored in fewer bytes: bfloat16, or int8 with a scale.

int8 is symmetric, with one scale for each output feature: w = q * scale, q from -127 to 127. So the product of a vector with w is
that with q, times the scales, and no weight need ever be turned back.
"""

import numpy as np

TYPES = ('float32', 'bfloat16', 'int8')
LARGEST = 127       # not -128: the range is symmetric
PIECE = 2 ** 20     # numbers that are divided together
SCALE = '_scale'    # how the name of a scale ends: that of its weight, and this


def quantize(w: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """A float32 weight as int8 in its shape, and the scales [outputs] float32, which bound the error by a half of each.

    inputs: the axis of w over which a product sums, -1 or -2; the other one is that of the outputs. An output whose weights are
    all zero has the scale 0.
    """
    q, scales = np.empty(w.shape, np.int8), []
    rows, q_rows = (array if inputs == -1 else array.swapaxes(-1, -2) for array in (w, q))     # [..., outputs, inputs]
    step = max(PIECE // rows.shape[-1], 1)
    for start in range(0, rows.shape[-2], step):        # a piece at a time: a second float32 copy of wte would be large
        piece = rows[..., start:start + step, :]
        scale = np.maximum(piece.max(axis=-1, keepdims=True), -piece.min(axis=-1, keepdims=True)) / np.float32(LARGEST)
        q_rows[..., start:start + step, :] = np.rint(piece / np.where(scale > 0, scale, 1))
        scales.append(scale.reshape(-1))
    return q, np.concatenate(scales)
