"""One sound file of every kind that is taken. Its expected picture is computed without Pillow's conversions."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import crafted
import numpy as np
from crafted import Pixels, encode, png, tiff
from PIL import Image

WIDTH, HEIGHT = 7, 5
GREY = crafted.samples(1, HEIGHT, WIDTH)
ALPHA = crafted.samples(2, HEIGHT, WIDTH)
RGB = crafted.samples(3, HEIGHT, WIDTH, 3)
DEEP_GREY = np.random.default_rng(4).integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
DEEP_RGB = np.random.default_rng(5).integers(0, 2**16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
SMOOTH = crafted.gradient(24, 32)
INK = np.dstack([255 - SMOOTH, np.full(SMOOTH.shape[:2], 40, np.uint8)])
INDEX = crafted.samples(6, HEIGHT, WIDTH) % 4
COLOURS = crafted.samples(7, 4, 3)
ALPHAS = bytes([255, 128, 0, 7])
BITS = GREY > 127
SIZE = (WIDTH, HEIGHT)


def repeat(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., np.newaxis], 3, axis=-1)


def over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., np.newaxis].astype(float) / 255
    return colour * share + 255 * (1 - share)


def ink_to_rgb(ink: Pixels) -> Pixels:
    return (255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels upright, by where Exif 2.32 says that row 0 and column 0 of the file are."""
    return {
        1: pixels,
        2: pixels[:, ::-1],  # top, right
        3: pixels[::-1, ::-1],  # bottom, right
        4: pixels[::-1],  # bottom, left
        5: pixels.swapaxes(0, 1),  # left, top
        6: pixels.swapaxes(0, 1)[:, ::-1],  # right, top
        7: pixels.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: pixels.swapaxes(0, 1)[::-1],  # left, bottom
    }[orientation]


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[crafted.ORIENTATION] = orientation
    return block


def packed(values: Pixels, bits: int) -> list[bytes]:
    """Rows of samples of fewer than 8 bits."""
    rows = []
    for row in values:
        text = "".join(f"{int(value):0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


def rows_of(pixels: Pixels) -> list[bytes]:
    return [row.tobytes() for row in pixels]


def padded_rows(pixels: Pixels) -> bytes:
    """Rows as BMP stores them: from the bottom up, padded to 4 bytes."""
    rows = [row.tobytes() for row in pixels[::-1]]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


@dataclass(frozen=True)
class Case:
    """A sound file and what `decode` must make of it."""

    name: str
    body: bytes
    pixels: Pixels
    format: str
    mode: str
    conversions: tuple[str, ...] = ()
    tolerance: float = 0.5


def png_cases() -> Iterator[Case]:
    def case(
        name: str,
        depth: int,
        colour_type: int,
        rows: list[bytes],
        pixels: Pixels,
        mode: str,
        *steps: str,
        extra: tuple[tuple[bytes, bytes], ...] = (),
        interlaced: bool = False,
    ) -> Case:
        body = png(SIZE, depth, colour_type, rows, extra=extra, interlaced=interlaced)
        return Case(f"PNG {name}", body, pixels, "PNG", mode, steps, 1 if "white" in "".join(steps) else 0.5)

    palette = (b"PLTE", COLOURS.tobytes())
    grey, grey_16 = "L converted to RGB", "16-bit grey scaled to 8-bit RGB"
    deep = "16-bit samples scaled to 8-bit"
    big_grey, big_rgb = DEEP_GREY.astype(">u2"), DEEP_RGB.astype(">u2")
    yield case("RGB", 8, crafted.COLOUR, rows_of(RGB), RGB, "RGB")
    yield case("RGB interlaced", 8, crafted.COLOUR, crafted.interlace(RGB), RGB, "RGB", interlaced=True)
    yield case("grey interlaced", 8, crafted.GREY, crafted.interlace(GREY), repeat(GREY), "L", grey, interlaced=True)
    yield case("grey", 8, crafted.GREY, rows_of(GREY), repeat(GREY), "L", grey)
    yield case("1-bit", 1, crafted.GREY, packed(BITS, 1), repeat(BITS * 255), "1", "1 converted to RGB")
    yield case("2-bit", 2, crafted.GREY, packed(INDEX, 2), repeat(INDEX * 85), "L", grey)
    yield case("4-bit", 4, crafted.GREY, packed(INDEX, 4), repeat(INDEX * 17), "L", grey)
    yield case("16-bit grey", 16, crafted.GREY, rows_of(big_grey), repeat(DEEP_GREY / 257), "I;16", grey_16)
    yield case("16-bit RGB", 16, crafted.COLOUR, rows_of(big_rgb), DEEP_RGB >> 8, "RGB", deep)
    yield case(
        "palette", 2, crafted.PALETTE, packed(INDEX, 2), COLOURS[INDEX], "P", "P converted to RGB", extra=(palette,)
    )
    yield case(
        "palette with alpha",
        8,
        crafted.PALETTE,
        rows_of(INDEX),
        over_white(COLOURS[INDEX], np.frombuffer(ALPHAS, np.uint8)[INDEX]),
        "P",
        "P composited over white",
        extra=(palette, (b"tRNS", ALPHAS)),
    )
    yield case(
        "palette with one transparent colour",
        8,
        crafted.PALETTE,
        rows_of(INDEX),
        over_white(COLOURS[INDEX], np.array([255, 0, 255, 255])[INDEX]),
        "P",
        "P composited over white",
        extra=(palette, (b"tRNS", b"\xff\0")),
    )
    for bits in (1, 2, 4, 8):
        values = INDEX & (2**bits - 1)
        transparent = 1 if bits > 1 else 0  # neither black nor white, but for 1 bit
        yield case(
            f"{bits}-bit with a transparent grey",
            bits,
            crafted.GREY,
            packed(values, bits),
            over_white(repeat(values * (255 // (2**bits - 1))), np.where(values == transparent, 0, 255)),
            "1" if bits == 1 else "L",
            f"{'1' if bits == 1 else 'L'} composited over white",
            extra=((b"tRNS", struct.pack(">H", transparent)),),
        )
    yield case(
        "RGB with a transparent colour",
        8,
        crafted.COLOUR,
        rows_of(RGB),
        over_white(RGB, np.where((RGB[1, 2] == RGB).all(axis=-1), 0, 255)),
        "RGB",
        "RGB composited over white",
        extra=((b"tRNS", struct.pack(">3H", *RGB[1, 2])),),
    )
    yield case(
        "grey with alpha",
        8,
        crafted.GREY_ALPHA,
        rows_of(np.dstack([GREY, ALPHA])),
        over_white(repeat(GREY), ALPHA),
        "LA",
        "LA composited over white",
    )
    yield case(
        "16-bit grey with alpha",
        16,
        crafted.GREY_ALPHA,
        rows_of(np.dstack([DEEP_GREY, DEEP_GREY[::-1]]).astype(">u2")),
        over_white(repeat(DEEP_GREY >> 8), DEEP_GREY[::-1] >> 8),
        "RGBA",
        deep,
        "RGBA composited over white",
    )
    yield case(
        "RGBA",
        8,
        crafted.COLOUR_ALPHA,
        rows_of(np.dstack([RGB, ALPHA])),
        over_white(RGB, ALPHA),
        "RGBA",
        "RGBA composited over white",
    )
    yield case(
        "16-bit RGBA",
        16,
        crafted.COLOUR_ALPHA,
        rows_of(np.dstack([DEEP_RGB, DEEP_GREY]).astype(">u2")),
        over_white(DEEP_RGB >> 8, DEEP_GREY >> 8),
        "RGBA",
        deep,
        "RGBA composited over white",
    )
    yield case(
        "with its last row black",
        8,
        crafted.GREY,
        [*rows_of(GREY[:-1]), bytes(WIDTH)],
        repeat(np.vstack([GREY[:-1], np.zeros_like(GREY[:1])])),
        "L",
        grey,
    )


def jpeg_cases() -> Iterator[Case]:
    picture = Image.fromarray(SMOOTH)
    options = {"quality": 95, "subsampling": 0}
    ink = encode(Image.fromarray(INK, "CMYK"), "JPEG", **options)
    adobe = ink.index(b"\xff\xee")
    plain_ink = ink[:adobe] + ink[adobe + 2 + struct.unpack_from(">H", ink, adobe + 2)[0] :]
    yield Case("JPEG", encode(picture, "JPEG", **options), SMOOTH, "JPEG", "RGB", (), 6)
    yield Case("JPEG progressive", encode(picture, "JPEG", progressive=True, **options), SMOOTH, "JPEG", "RGB", (), 6)
    yield Case(
        "JPEG grey",
        encode(Image.fromarray(SMOOTH[..., 0]), "JPEG", quality=95),
        repeat(SMOOTH[..., 0]),
        "JPEG",
        "L",
        ("L converted to RGB",),
        6,
    )
    converted = ("CMYK converted to RGB",)
    # All store CMYK as Adobe's programs do, 255 for no ink; the marker that says so may be missing.
    yield Case("JPEG Adobe CMYK", ink, ink_to_rgb(INK), "JPEG", "CMYK", converted, 8)
    yield Case("JPEG CMYK without the marker", plain_ink, ink_to_rgb(INK), "JPEG", "CMYK", converted, 8)
    phone = encode(picture, "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH[::-1].copy())], **options)
    yield Case("JPEG of several pictures (MPO)", phone, SMOOTH, "JPEG", "RGB", (), 6)


def orientation_cases() -> Iterator[Case]:
    for orientation in range(1, 9):
        steps = () if orientation == 1 else (f"turned upright by EXIF orientation {orientation}",)
        upright = turn(SMOOTH, orientation)
        for file_format, options in (
            ("JPEG", {"quality": 95}),
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
        ):
            body = encode(Image.fromarray(SMOOTH), file_format, exif=exif(orientation), **options)
            tolerance = 8 if file_format == "JPEG" else 0.5
            name = f"{file_format} of EXIF orientation {orientation}"
            yield Case(name, body, upright, file_format, "RGB", steps, tolerance)
    tags = {crafted.ORIENTATION: (crafted.SHORT, [6])}
    yield Case(
        "TIFF grey 16-bit of EXIF orientation 6",
        tiff(SIZE, [16], crafted.BLACK_IS_ZERO, [DEEP_GREY.tobytes()], tags),
        repeat(turn(DEEP_GREY, 6) / 257),
        "TIFF",
        "I;16",
        ("turned upright by EXIF orientation 6", "16-bit grey scaled to 8-bit RGB"),
    )


def bmp_cases() -> Iterator[Case]:
    blue_first = RGB[..., ::-1]
    with_alpha = np.dstack([blue_first, ALPHA])
    colours = np.insert(COLOURS[:, ::-1], 3, 0, axis=1).tobytes()
    greys = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4)
    greys[:, 3] = 0
    yield Case("BMP 24-bit", crafted.bmp(SIZE, 24, padded_rows(blue_first)), RGB, "BMP", "RGB")
    upside_down = crafted.bmp((WIDTH, -HEIGHT), 24, padded_rows(blue_first[::-1]))
    yield Case("BMP from the top down", upside_down, RGB, "BMP", "RGB")
    yield Case(
        "BMP 32-bit, the fourth byte of no meaning",
        crafted.bmp(SIZE, 32, padded_rows(with_alpha)),
        RGB,
        "BMP",
        "RGB",
        ("extra samples ignored",),
    )
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield Case(
        "BMP 32-bit with alpha",
        crafted.bmp(SIZE, 32, padded_rows(with_alpha), masks=masks),
        over_white(RGB, ALPHA),
        "BMP",
        "RGBA",
        ("RGBA composited over white",),
        1,
    )
    yield Case(
        "BMP 8-bit palette",
        crafted.bmp(SIZE, 8, padded_rows(INDEX), palette=colours),
        COLOURS[INDEX],
        "BMP",
        "P",
        ("P converted to RGB",),
    )
    yield Case(
        "BMP 8-bit grey",
        crafted.bmp(SIZE, 8, padded_rows(GREY), palette=greys.tobytes()),
        repeat(GREY),
        "BMP",
        "L",
        ("L converted to RGB",),
    )
    bits = b"".join(row + bytes(-len(row) % 4) for row in packed(BITS[::-1], 1))
    yield Case(
        "BMP 1-bit",
        crafted.bmp(SIZE, 1, bits, palette=b"\0\0\0\0\xff\xff\xff\0"),
        repeat(BITS * 255),
        "BMP",
        "1",
        ("1 converted to RGB",),
    )
    red, green, blue = (RGB[..., band].astype(np.uint16) >> 3 for band in range(3))
    fives = (red << 10 | green << 5 | blue).astype("<u2")
    yield Case(
        "BMP 16-bit", crafted.bmp(SIZE, 16, padded_rows(fives)), (RGB >> 3) * (255 / 31), "BMP", "RGB", tolerance=1
    )


def webp_cases() -> Iterator[Case]:
    picture = Image.fromarray(np.dstack([RGB, ALPHA]))
    yield Case("WebP lossless", encode(Image.fromarray(RGB), "WEBP", lossless=True), RGB, "WEBP", "RGB")
    yield Case("WebP lossy", encode(Image.fromarray(SMOOTH), "WEBP", quality=95), SMOOTH, "WEBP", "RGB", (), 12)
    yield Case(
        "WebP with alpha",
        encode(picture, "WEBP", lossless=True),
        over_white(RGB, ALPHA),
        "WEBP",
        "RGBA",
        ("RGBA composited over white",),
        1,
    )


FILES = [case for cases in (png_cases, jpeg_cases, orientation_cases, bmp_cases, webp_cases) for case in cases()]
