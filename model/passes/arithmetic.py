"""Arithmetic that the fused passes are made of: products, exponentials and the GELU, for the CPU.

Compiled loops that take several numbers at a time. Rows are as wide as what they hold; numbers of
rows are multiples of ``UNROLLED`` (``padded``), so that products need no other case.

Letters: O outputs, K inputs, N columns.
"""

import math

import numpy as np
from numba import njit
from torch import Tensor

from headrace.model.arrays import Floats

UNROLLED = 4  # inputs of a product taken at a time
# Division by zero is infinity: to ask for it first would take numbers one by one.
fused = njit(
    cache=True,
    nogil=True,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "arcp"},
)

_ONE, _HALF = np.float32(1), np.float32(0.5)
_LOG2_E = np.float32(math.log2(math.e))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # together ln 2
_EXP = tuple(np.float32(c) for c in (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
    5.0000001201e-1,
))  # fmt: skip
_EXP_LIMIT = np.float32(87)  # beyond it, float32 has no exponential
_ERF = tuple(np.float32(c) for c in (
    1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592,
))  # fmt: skip
_ERF_SCALE = np.float32(0.3275911)
_ROOT_HALF = np.float32(math.sqrt(0.5))
_NORMAL = np.float32(1 / math.sqrt(2 * math.pi))  # density of the standard normal at zero
_FAR = np.float32(12)  # standard deviations, from which on the normal has nothing left


def padded(weights: Tensor) -> Floats:
    """Return weights of (O, K) or (O,) on the CPU, zeros added to multiples of ``UNROLLED``."""
    array: Floats = np.ascontiguousarray(weights.detach().numpy())
    if not any(size % UNROLLED for size in array.shape):
        return array
    whole = np.zeros([size + -size % UNROLLED for size in array.shape], np.float32)
    whole[tuple(map(slice, array.shape))] = array  # np.pad takes five times as long
    return whole


@fused
def exp(x: np.float32) -> np.float32:
    """Return e to the ``x``, to 2e-7 of it. Source: Moshier, Cephes, expf."""
    x = min(max(x, -_EXP_LIMIT), _EXP_LIMIT)
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    c = _EXP
    p = ((((c[0] * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]) * r + c[5]
    two_to_n = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    value: np.float32 = (p * r * r + r + _ONE) * two_to_n
    return value


@fused
def _tail(z: np.float32) -> tuple[np.float32, np.float32]:
    """Return what is left of the standard normal beyond ``z``, and e to the -z²/2.

    To 1e-7. Source: Abramowitz and Stegun, 7.1.26.
    """
    t = _ONE / (_ONE + _ERF_SCALE * _ROOT_HALF * z)
    e = exp(-_HALF * z * z)
    c = _ERF
    return _HALF * ((((c[0] * t + c[1]) * t + c[2]) * t + c[3]) * t + c[4]) * t * e, e


@fused
def gelu(x: Floats, n: int) -> None:
    """Replace the first ``n`` columns of (O, N) numbers by their GELU."""
    for o in range(len(x)):
        row = x[o]
        for i in range(n):
            z = min(abs(row[i]), _FAR)
            tail, _ = _tail(z)
            row[i] = max(row[i], np.float32(0)) - z * tail


@fused
def gelu_and_slope(x: Floats, slope: Floats, n: int) -> None:
    """Replace the first ``n`` columns of (O, N) numbers by their GELU, and write its slope."""
    for o in range(len(x)):
        row, slopes = x[o], slope[o]
        for i in range(n):
            z = min(abs(row[i]), _FAR)
            tail, e = _tail(z)
            below = _HALF + np.copysign(_HALF - tail, row[i])  # of the standard normal
            slopes[i] = below + row[i] * e * _NORMAL
            row[i] = max(row[i], np.float32(0)) - z * tail


@fused
def multiply(weights: Floats, x: Floats, out: Floats, n: int) -> None:
    """Add the product of (O, K) weights and the first ``n`` columns of (K, N) to (O, N).

    O must be even and K a multiple of ``UNROLLED``: nothing else is checked for. Two outputs of
    four inputs at a time: what is loaded is used twice, and stored once for four.
    """
    for o in range(0, len(weights), 2):
        for k in range(0, len(x), UNROLLED):
            a0, a1, a2, a3 = weights[o, k], weights[o, k + 1], weights[o, k + 2], weights[o, k + 3]
            p = o + 1
            b0, b1, b2, b3 = weights[p, k], weights[p, k + 1], weights[p, k + 2], weights[p, k + 3]
            for i in range(n):
                x0, x1, x2, x3 = x[k, i], x[k + 1, i], x[k + 2, i], x[k + 3, i]
                a = out[o, i] + a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                b = out[p, i] + b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                out[o, i], out[p, i] = a, b
