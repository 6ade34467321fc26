"""Writes colour profiles as ICC.1:2001-04 says (version 2), since Pillow writes none but that of sRGB."""

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Primaries = NDArray[np.float64]

# CIE XYZ under D50, adapted from D65 by Bradford: red, green and blue of each space. IEC 61966-2-1; Adobe RGB (1998),
# annex C.2; SMPTE EG 432-1 with a D65 white.
SRGB = np.array([[0.4361, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]])
ADOBE_RGB = np.array([[0.6097, 0.3111, 0.0195], [0.2053, 0.6257, 0.0609], [0.1492, 0.0632, 0.7446]])
DISPLAY_P3 = np.array([[0.5151, 0.2412, -0.0011], [0.2919, 0.6922, 0.0419], [0.1572, 0.0666, 0.7841]])
D50 = (0.9642, 1.0, 0.8249)
ADOBE_GAMMA = 563 / 256


def fixed(*values: float) -> bytes:
    """Numbers as s15Fixed16 (ICC.1:2001-04, 5.3.2)."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def xyz(values: "Primaries | tuple[float, ...]") -> bytes:
    """A colour of CIE XYZ (6.5.26)."""
    return b"XYZ " + bytes(4) + fixed(*values)


def gamma_curve(gamma: float) -> bytes:
    """A curve that raises to a power (6.5.3)."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def srgb_curve() -> bytes:
    """A table of sRGB's own curve, IEC 61966-2-1."""
    values = np.linspace(0, 1, 1024)
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + (65535 * linear).round().astype(">u2").tobytes()


def make_profile(space: bytes, tags: Mapping[bytes, bytes], *, kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """A profile of these tags, each once."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"test", 0x02400000, kind, space, pcs)
    header += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return header.ljust(128, b"\0") + table + data


def rgb_profile(primaries: Primaries, curve: bytes) -> bytes:
    """A profile of three primaries and one curve for all."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"CC0\0", b"wtpt": xyz(D50)}
    tags |= {name: xyz(colour) for name, colour in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return make_profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))
