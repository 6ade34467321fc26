"""One sound TIFF of every kind that is taken, made as in `sound_files.py`."""

import zlib
from collections.abc import Iterator

import crafted
import numpy as np
from crafted import Pixels, encode, tiff
from PIL import Image
from sound_files import (
    ALPHA,
    BITS,
    COLOURS,
    DEEP_GREY,
    DEEP_RGB,
    GREY,
    HEIGHT,
    INDEX,
    RGB,
    SIZE,
    SMOOTH,
    Case,
    ink_to_rgb,
    over_white,
    packed,
    repeat,
)

L_TO_RGB, GREY_16 = "L converted to RGB", "16-bit grey scaled to 8-bit RGB"
DEEP = "16-bit samples scaled to 8-bit"
DEFLATE = {crafted.COMPRESSION: (crafted.SHORT, [crafted.DEFLATE])}
COLOUR_MAP = {crafted.COLOUR_MAP: (crafted.SHORT, (np.resize(COLOURS, (256, 3)).T.astype(int) * 257).ravel().tolist())}
# In-gamut colours: L* 0 to 100, a* and b* -128 to 127.
LAB = np.array([[[0, 0, 0], [50, 0, 0], [100, 0, 0], [60, 30, 20], [40, -20, 25], [70, 10, -30], [55, 45, -5]]])


def lab_to_rgb(lab: Pixels) -> Pixels:
    """CIE L*a*b* under D50 to sRGB; the matrix is IEC 61966-2-1's, adapted from D65 to D50 by Bradford."""
    f_y = (lab[..., 0] + 16) / 116
    f = np.stack([f_y + lab[..., 1] / 500, f_y, f_y - lab[..., 2] / 200], axis=-1)
    ratio = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    matrix = [[3.1341, -1.6174, -0.4907], [-0.9788, 1.9161, 0.0335], [0.0720, -0.2290, 1.4052]]
    linear = np.clip((ratio * [0.9642, 1.0, 0.8249]) @ np.array(matrix).T, 0, 1)
    encoded: Pixels = 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return encoded


def tiff_case(name: str, body: bytes, pixels: Pixels, mode: str, *steps: str, tolerance: float = 0.5) -> Case:
    return Case(f"TIFF {name}", body, pixels, "TIFF", mode, steps, tolerance)


def layout_cases() -> Iterator[Case]:
    planar = {crafted.PLANAR: (crafted.SHORT, [2])}
    tiles = {crafted.TILE_WIDTH: (crafted.SHORT, [16]), crafted.TILE_LENGTH: (crafted.SHORT, [16])}
    three, picture = [8, 8, 8], Image.fromarray(RGB)
    yield tiff_case("RGB", tiff(SIZE, three, crafted.RGB, [RGB.tobytes()]), RGB, "RGB")
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield tiff_case(f"RGB {compression}", encode(picture, "TIFF", compression=compression), RGB, "RGB")
    lossy = encode(Image.fromarray(SMOOTH), "TIFF", compression="jpeg", quality=95)
    yield tiff_case("RGB jpeg", lossy, SMOOTH, "RGB", tolerance=8)
    yield tiff_case("RGB big-endian", tiff(SIZE, three, crafted.RGB, [RGB.tobytes()], order=">"), RGB, "RGB")
    strips = {crafted.ROWS_PER_STRIP: (crafted.SHORT, [2])}
    in_strips = [RGB[top : top + 2].tobytes() for top in range(0, HEIGHT, 2)]
    yield tiff_case("RGB in strips", tiff(SIZE, three, crafted.RGB, in_strips, strips), RGB, "RGB")
    bands = [RGB[..., band].tobytes() for band in range(3)]
    yield tiff_case("RGB in planes", tiff(SIZE, three, crafted.RGB, bands, planar), RGB, "RGB")
    wide = crafted.samples(8, 24, 40)
    framed = np.pad(wide, ((0, 8), (0, 8)))
    parts = [framed[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    squeezed = [zlib.compress(part) for part in parts]
    yield tiff_case("tiled", tiff((40, 24), [8], crafted.BLACK_IS_ZERO, parts, tiles), repeat(wide), "L", L_TO_RGB)
    tiled = tiff((40, 24), [8], crafted.BLACK_IS_ZERO, squeezed, tiles | DEFLATE)
    yield tiff_case("tiled deflate", tiled, repeat(wide), "L", L_TO_RGB)


def grey_cases() -> Iterator[Case]:
    yield tiff_case("grey", tiff(SIZE, [8], crafted.BLACK_IS_ZERO, [GREY.tobytes()]), repeat(GREY), "L", L_TO_RGB)
    yield tiff_case(
        "white is 0", tiff(SIZE, [8], crafted.WHITE_IS_ZERO, [GREY.tobytes()]), repeat(255 - GREY), "L", L_TO_RGB
    )
    bits = tiff(SIZE, [1], crafted.BLACK_IS_ZERO, [b"".join(packed(BITS, 1))])
    yield tiff_case("1-bit", bits, repeat(BITS * 255), "1", "1 converted to RGB")
    fax = encode(Image.fromarray(BITS), "TIFF", compression="group4")
    yield tiff_case("1-bit fax", fax, repeat(BITS * 255), "1", "1 converted to RGB")
    twelve = DEEP_GREY[:, :6] >> 4
    packed_twelve = tiff((6, HEIGHT), [12], crafted.BLACK_IS_ZERO, [b"".join(packed(twelve, 12))])
    yield tiff_case("12-bit", packed_twelve, repeat(twelve * (255 / 4095)), "I;16", "12-bit grey scaled to 8-bit RGB")
    for order in "<>":
        samples = DEEP_GREY.astype(f"{order}u2").tobytes()
        mode = "I;16" if order == "<" else "I;16B"
        body = tiff(SIZE, [16], crafted.BLACK_IS_ZERO, [samples], order=order)
        yield tiff_case(f"16-bit grey {order}", body, repeat(DEEP_GREY / 257), mode, GREY_16)
        body = tiff(SIZE, [16], crafted.BLACK_IS_ZERO, [zlib.compress(samples)], DEFLATE, order=order)
        yield tiff_case(f"16-bit grey {order} deflate", body, repeat(DEEP_GREY / 257), mode, GREY_16)
        colours = DEEP_RGB.astype(f"{order}u2").tobytes()
        body = tiff(SIZE, [16] * 3, crafted.RGB, [colours], order=order)
        yield tiff_case(f"16-bit RGB {order}", body, DEEP_RGB >> 8, "RGB", DEEP)
    for compressed in (False, True):
        strip = zlib.compress(DEEP_GREY.tobytes()) if compressed else DEEP_GREY.tobytes()
        body = tiff(SIZE, [16], crafted.WHITE_IS_ZERO, [strip], DEFLATE if compressed else None)
        name = f"16-bit white is 0{' deflate' * compressed}"
        yield tiff_case(name, body, repeat((65535 - DEEP_GREY) / 257), "I;16", GREY_16)


def colour_cases() -> Iterator[Case]:
    ink = np.dstack([RGB, GREY])
    converted = "CMYK converted to RGB"
    body = tiff(SIZE, [8] * 4, crafted.SEPARATED, [ink.tobytes()])
    yield tiff_case("CMYK", body, ink_to_rgb(ink), "CMYK", converted, tolerance=1)
    deep_ink = np.dstack([DEEP_RGB, DEEP_GREY])
    body = tiff(SIZE, [16] * 4, crafted.SEPARATED, [deep_ink.tobytes()])
    yield tiff_case("16-bit CMYK", body, ink_to_rgb(deep_ink >> 8), "CMYK", DEEP, converted, tolerance=1)
    ycbcr = np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))
    luma, blue, red = np.moveaxis(ycbcr.astype(float), -1, 0)
    # ITU-R BT.601, as JFIF 1.02 writes it
    from_ycbcr = np.stack(
        [
            luma + 1.402 * (red - 128),
            luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
            luma + 1.772 * (blue - 128),
        ],
        axis=-1,
    )
    body = encode(Image.fromarray(SMOOTH).convert("YCbCr"), "TIFF")
    yield tiff_case("YCbCr", body, from_ycbcr, "RGB", "YCbCr converted to RGB", tolerance=2)
    stored = np.stack([LAB[..., 0] * 2.55, LAB[..., 1], LAB[..., 2]], axis=-1).round().astype(np.int16).astype(np.uint8)
    body = tiff((LAB.shape[1], 1), [8, 8, 8], crafted.CIELAB, [stored.tobytes()])
    yield tiff_case("LAB", body, lab_to_rgb(LAB), "LAB", "LAB converted to RGB", tolerance=2)
    body = tiff(SIZE, [8], crafted.PALETTE_COLOUR, [INDEX.tobytes()], COLOUR_MAP)
    yield tiff_case("palette", body, COLOURS[INDEX], "P", "P converted to RGB")


def alpha_cases() -> Iterator[Case]:
    alpha = {crafted.EXTRA_SAMPLES: (crafted.SHORT, [2])}
    premultiplied = {crafted.EXTRA_SAMPLES: (crafted.SHORT, [1])}
    unknown = {crafted.EXTRA_SAMPLES: (crafted.SHORT, [0])}
    with_alpha = np.dstack([RGB, ALPHA]).tobytes()
    body = tiff(SIZE, [8] * 4, crafted.RGB, [with_alpha], alpha)
    yield tiff_case("RGBA", body, over_white(RGB, ALPHA), "RGBA", "RGBA composited over white", tolerance=1)
    body = tiff(SIZE, [8] * 4, crafted.RGB, [with_alpha], unknown)
    yield tiff_case("RGB and a sample of no meaning", body, RGB, "RGB", "extra samples ignored")
    body = tiff(SIZE, [8, 8], crafted.BLACK_IS_ZERO, [np.dstack([GREY, ALPHA]).tobytes()], alpha)
    yield tiff_case(
        "grey with alpha", body, over_white(repeat(GREY), ALPHA), "LA", "LA composited over white", tolerance=1
    )
    half = np.full_like(GREY, 128)
    grey_half = np.dstack([GREY // 2, half]).tobytes()
    body = tiff(SIZE, [8, 8], crafted.BLACK_IS_ZERO, [grey_half], premultiplied)
    expected = repeat(GREY // 2) + 127.0
    yield tiff_case("grey times alpha", body, expected, "La", "La composited over white", tolerance=1.5)
    body = tiff(SIZE, [8] * 4, crafted.RGB, [np.dstack([RGB // 2, half]).tobytes()], premultiplied)
    yield tiff_case("RGB times alpha", body, RGB // 2 + 127.0, "RGBA", "RGBA composited over white", tolerance=1.5)
    body = tiff(SIZE, [8, 8], crafted.PALETTE_COLOUR, [np.dstack([INDEX, ALPHA]).tobytes()], COLOUR_MAP | alpha)
    yield tiff_case(
        "palette with alpha", body, over_white(COLOURS[INDEX], ALPHA), "PA", "PA composited over white", tolerance=1
    )


TIFFS = [case for cases in (layout_cases, grey_cases, colour_cases, alpha_cases) for case in cases()]
