"""Weights stored in fewer bytes: bfloat16, or int8 with a scale.

int8 is symmetric, with one scale for each output feature: w = q * scale, q from -127 to 127. So the product of a vector with w is
that with q, times the scales, and no weight need ever be turned back.
"""

import numpy as np

TYPES = ('float32', 'bfloat16', 'int8')
LARGEST = 127       # not -128: the range is symmetric
SCALE = '_scale'    # how the name of a scale ends: that of its weight, and this


def quantize(w: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """A float32 weight as int8 in its shape, and the scales [outputs] float32, which bound the error by a half of each.

    inputs: the axis of w over which a product sums; the last other axis is that of the outputs. An output whose weights are all
    zero has the scale 0.
    """
    size = np.maximum(w.max(axis=inputs, keepdims=True), -w.min(axis=inputs, keepdims=True))
    scale = size / np.float32(LARGEST)
    q = w / np.where(scale > 0, scale, 1)
    return np.rint(q, out=q).astype(np.int8), scale.reshape(-1)
