"""More colour profiles, beside those of `benchmarks.icc_profiles`."""

import struct

import numpy as np

from benchmarks.icc_profiles import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    D50,
    DISPLAY_P3,
    SRGB,
    fixed,
    gamma_curve,
    make_profile,
    rgb_profile,
    srgb_curve,
    xyz,
)

__all__ = ["ADOBE_GAMMA", "ADOBE_RGB", "DISPLAY_P3", "SRGB", "gamma_curve", "rgb_profile", "srgb_curve"]


def grey_profile(gamma: float) -> bytes:
    return make_profile(b"GRAY", {b"wtpt": xyz(D50), b"kTRC": gamma_curve(gamma)})


def lut_profile(space: bytes, channels: int, points: int) -> bytes:
    """A printer's profile to L*a*b*: the more ink, the darker; ICC.1:2001-04, 6.5.7 (lut16Type)."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, points)] * channels, indexing="ij"), axis=-1)
    light = 1 - grid.mean(axis=-1)
    lab = np.stack([light * 0xFF00, np.full_like(light, 0x8000), np.full_like(light, 0x8000)], axis=-1)
    line = struct.pack(">HH", 0, 0xFFFF)
    table = b"mft2" + bytes(4) + bytes([channels, 3, points, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += struct.pack(">HH", 2, 2) + line * channels + lab.round().astype(">u2").tobytes() + line * 3
    return make_profile(space, {b"wtpt": xyz(D50), b"A2B0": table}, kind=b"prtr", pcs=b"Lab ")
