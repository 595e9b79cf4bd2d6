"""Mann-Whitney's test for many pairs of samples side by side, as the two rules that use it compute it."""

from __future__ import annotations

import numpy as np

from .traffic import BoolArray, FloatArray


def rank_z(first: FloatArray, second: FloatArray, *, shift: FloatArray | float = 0.0) -> FloatArray:
    """Z of "`first` is larger than `second` by more than `shift`", shape (rollouts,); samples have (rollouts, n).

    Normal approximation with corrections for ties and continuity. NaN where all values are equal.
    """
    x = first - np.asarray(shift)[..., np.newaxis] if np.ndim(shift) else first - shift
    both = np.concatenate([x, second], axis=-1)
    n1, n2 = first.shape[-1], second.shape[-1]
    n = n1 + n2
    difference = np.sign(x[..., :, np.newaxis] - second[..., np.newaxis, :]).sum(axis=(-1, -2)) / 2
    ordered = np.sort(both, axis=-1)
    # The sum of t^3 - t over groups of t equal values is the sum over values of their group's t^2 - 1.
    first_equal = (ordered[..., :, np.newaxis] > ordered[..., np.newaxis, :]).sum(axis=-1)
    upto_equal = (ordered[..., :, np.newaxis] >= ordered[..., np.newaxis, :]).sum(axis=-1)
    ties = ((upto_equal - first_equal) ** 2 - 1).sum(axis=-1)
    variance = n1 * n2 / 12 * ((n + 1) - ties / (n * (n - 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (difference - 0.5 * np.sign(difference)) / np.sqrt(variance)


def median_difference(first: FloatArray, second: FloatArray) -> FloatArray:
    """Hodges and Lehmann's estimate of the shift: the median of all differences, shape (rollouts,)."""
    return np.median((first[..., :, np.newaxis] - second[..., np.newaxis, :]).reshape(len(first), -1), axis=-1)


def exceeds(z: FloatArray, level: float) -> BoolArray:
    """Z > level; False where z is not a number."""
    return np.nan_to_num(z, nan=-np.inf) > level
