"""What is less than the whole picture, or of a kind that is not taken, is refused by its name, and not as damaged."""

import contextlib
import io
import json
import struct
import time

import crafted
import numpy as np
import pytest
from crafted import LONG, SHORT, encode, tiff
from PIL import Image, TiffImagePlugin
from sound_files import DEEP_GREY, GREY, HEIGHT, RGB, SIZE, SMOOTH, WIDTH, exif, padded_rows, turn

from app.config.setting_types import PROJECT_ROOT
from app.errors import AnsweredError, DamagedImageError, UnsupportedImageError, UnsupportedMediaError
from app.pipeline.decoding.decode import decode
from app.pipeline.decoding.limits import ImageLimits

LIMITS = ImageLimits(max_pixels=25_000_000)
NEW_SUBFILE_TYPE, SUBFILE_TYPE, DESCRIPTION, SUB_PAGES, IMAGE_DEPTH = 254, 255, 270, 330, 32997
Fields = dict[int, tuple[int, "list[int] | bytes"]]


def rgb_tiff(tags: Fields | None = None, **options: object) -> bytes:
    return tiff(SIZE, [8, 8, 8], crafted.RGB, [RGB.tobytes()], tags, **options)


def text(content: str) -> Fields:
    return {DESCRIPTION: (crafted.ASCII, content.encode() + b"\0")}


def with_sub_page(width: int, height: int, *, order: str = "<", is_big: bool = False) -> bytes:
    """A TIFF with a page below its first one; only the size of that page is told."""
    fields = [(256, width), (257, height)]
    if is_big:
        page = struct.pack(order + "Q", 2)
        page += b"".join(struct.pack(f"{order}HHQQ", tag, crafted.LONG8, 1, side) for tag, side in fields) + bytes(8)
    else:
        page = struct.pack(order + "H", 2)
        page += b"".join(struct.pack(f"{order}HHLL", tag, LONG, 1, side) for tag, side in fields) + bytes(4)
    kind = crafted.LONG8 if is_big else LONG
    body = rgb_tiff({SUB_PAGES: (kind, [1])}, order=order, is_big=is_big)
    return rgb_tiff({SUB_PAGES: (kind, [len(body)])}, order=order, is_big=is_big) + page


def raw_of_canon() -> bytes:
    body = rgb_tiff()
    (start,) = struct.unpack_from("<L", body, 4)
    assert start == 8  # the directory moves by eight bytes, and its offsets outside do not matter here
    return body[:4] + struct.pack("<L", 16) + b"CR\2\0" + bytes(4) + body[8:]


PREVIEWS = {
    "reduced page": rgb_tiff({NEW_SUBFILE_TYPE: (LONG, [1])}),
    "reduced page, big-endian": rgb_tiff({NEW_SUBFILE_TYPE: (LONG, [1])}, order=">"),
    "reduced page, BigTIFF": rgb_tiff({NEW_SUBFILE_TYPE: (LONG, [1])}, is_big=True),
    "reduced page of several": rgb_tiff({NEW_SUBFILE_TYPE: (LONG, [3])}),
    "reduced page, as SHORT": rgb_tiff({NEW_SUBFILE_TYPE: (SHORT, [1])}),
    "reduced page, the older way": rgb_tiff({SUBFILE_TYPE: (SHORT, [2])}),
    "larger page below": with_sub_page(WIDTH * 2, HEIGHT * 2),
    "larger page below, big-endian": with_sub_page(WIDTH, HEIGHT + 1, order=">"),
    "larger page below, BigTIFF": with_sub_page(4000, 3000, is_big=True),
    "larger page below, big-endian BigTIFF": with_sub_page(4000, 3000, order=">", is_big=True),
    "DNG": rgb_tiff({50706: (crafted.BYTE, [1, 4, 0, 0])}),
    "DNG of sensor data": tiff(SIZE, [16], 32803, [DEEP_GREY.tobytes()], {50706: (crafted.BYTE, [1, 4, 0, 0])}),
    "sensor data": tiff(SIZE, [16], 32803, [DEEP_GREY.tobytes()]),
    "CR2": raw_of_canon(),
}


@pytest.mark.parametrize("name", PREVIEWS)
def test_preview_answers_422_and_says_so(name: str) -> None:
    with pytest.raises(UnsupportedImageError, match="a preview"):
        decode(PREVIEWS[name], LIMITS)


def ome(size_c: int, size_z: int, size_t: int, *, name: str = "Pixels", quote: str = '"') -> str:
    sizes = (f"Size{axis}={quote}{size}{quote}" for axis, size in zip("CZT", (size_c, size_z, size_t), strict=True))
    return f'<?xml version="1.0"?><OME><Image ID="Image:0"><{name} {" ".join(sizes)}/></Image></OME>'


TWO_SERIES = ome(3, 1, 1).replace("</OME>", '<Image ID="Image:1"><Pixels SizeC="3" SizeZ="1" SizeT="1"/></Image></OME>')
MORE = {
    "OME of several depths": text(ome(3, 5, 1)),
    "OME of several times": text(ome(3, 1, 2)),
    "OME of several channels": text(ome(6, 1, 1)),
    "OME with a prefix": text(ome(3, 5, 1, name="OME:Pixels").replace("<OME>", "<OME:OME>")),
    "OME in single quotes": text(ome(3, 5, 1, quote="'")),
    "OME of two series": text(TWO_SERIES),
    "OME in another file": text('<OME><BinaryOnly MetadataFile="set.companion.ome"/></OME>'),
    "ImageJ stack": text("ImageJ=1.53t\nimages=12\nslices=12\n"),
    "ImageJ hyperstack": text("ImageJ=1.53t\nimages=6\nchannels=2\nframes=3\nhyperstack=true\n"),
    "ImageJ, slices alone": text("ImageJ=1.11a\nslices=2\n"),
    "tifffile": text(json.dumps({"shape": [4, HEIGHT, WIDTH, 3]})),
    "volume": {IMAGE_DEPTH: (LONG, [3])},
    "MetaMorph": {33629: (LONG, [0, 0, 0, 0])},
    "Zeiss LSM": {34412: (crafted.BYTE, [0] * 40)},
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", MORE)
def test_file_that_says_it_holds_more_answers_422(name: str, order: str) -> None:
    with pytest.raises(UnsupportedImageError, match="several planes or pictures"):
        decode(rgb_tiff(MORE[name], order=order), LIMITS)


WHOLE = {
    "OME of one plane": text(ome(3, 1, 1)),
    "ImageJ of one picture": text("ImageJ=1.53t\nunit=micron\nmin=0\nmax=255\n"),
    "tifffile of one picture": text(json.dumps({"shape": [HEIGHT, WIDTH, 3]})),
    "broken description of tifffile": text('{"shape": [4, 5'),
    "one page of several": {NEW_SUBFILE_TYPE: (LONG, [2])},
    "full page": {NEW_SUBFILE_TYPE: (LONG, [0]), SUBFILE_TYPE: (SHORT, [1])},
    "patch of a slide": text("Aperio Image Library v11.2.1\r\n46000x32914 [0,0 96x96] (256x256) JPEG/RGB Q=30"),
    "plain text": text("A patch; shape = [9]"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_picture_is_answered_whatever_its_description(name: str) -> None:
    assert (np.asarray(decode(rgb_tiff(WHOLE[name]), LIMITS).pixels) == RGB).all()


def test_pixels_that_look_like_a_mark_of_canon_are_pixels() -> None:
    """libtiff writes pixels right behind the header; these begin with the letters."""
    pixels = RGB.copy()
    pixels[0, 0] = tuple(b"CR\2")
    plain = tiff(SIZE, [8, 8, 8], crafted.RGB, [], {crafted.STRIP_OFFSETS: (LONG, [8]), 279: (LONG, [pixels.size])})
    start = 8 + pixels.size + pixels.size % 2
    body = bytearray(plain[:4] + struct.pack("<L", start) + pixels.tobytes() + bytes(pixels.size % 2) + plain[8:])
    bits = body.index(struct.pack("<HHL", crafted.BITS, SHORT, 3))  # its values stand behind the directory
    body[bits + 8 : bits + 12] = struct.pack("<L", struct.unpack_from("<L", body, bits + 8)[0] + start - 8)
    assert (np.asarray(decode(bytes(body), LIMITS).pixels) == pixels).all()


def test_directory_that_names_itself_as_the_next_is_the_only_page() -> None:
    body = rgb_tiff()
    (count,) = struct.unpack_from("<H", body, 8)
    end = 10 + 12 * count
    assert (np.asarray(decode(body[:end] + struct.pack("<L", 8) + body[end + 4 :], LIMITS).pixels) == RGB).all()


def test_smaller_page_below_is_no_reason_to_refuse() -> None:
    assert (np.asarray(decode(with_sub_page(WIDTH - 1, HEIGHT), LIMITS).pixels) == RGB).all()


def test_mask_answers_422() -> None:
    with pytest.raises(UnsupportedImageError, match="transparency mask"):
        decode(rgb_tiff({NEW_SUBFILE_TYPE: (LONG, [4])}), LIMITS)


SLIDES = {
    "Aperio SVS": "Aperio Image Library v11.2.1",
    "Leica SCN": '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"/>',
    "Philips": '<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"/>',
    "Ventana BIF": "<EncodeInfo/><iScan Magnification='40'/>",
}


@pytest.mark.parametrize("vendor", [*SLIDES, "Hamamatsu NDPI"])
def test_whole_slide_answers_415_with_its_kind(vendor: str) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if vendor in SLIDES:
        tags[DESCRIPTION] = SLIDES[vendor]
    else:
        tags[65420] = 1
    pages = [Image.fromarray(RGB[:3, :3].copy())]
    body = encode(Image.fromarray(RGB), "TIFF", save_all=True, append_images=pages, tiffinfo=tags)
    with pytest.raises(UnsupportedMediaError, match=rf"a whole slide \({vendor}\)"):
        decode(body, LIMITS)


def deep(photometric: int, bits: int, samples: int, tags: Fields | None = None, **options: object) -> bytes:
    strip = bytes(HEIGHT * ((WIDTH * samples * bits + 7) // 8))
    return tiff(SIZE, [bits] * samples, photometric, [strip], tags, **options)


def jpeg(marker: int, *, bits: int = 8, height: int = 8, components: int = 3) -> bytes:
    """A JPEG of one frame of any process, whose scan is empty."""
    frame = struct.pack(">BHHB", bits, height, 8, components) + b"".join(
        bytes([n, 17, 0]) for n in range(1, components + 1)
    )
    scan = bytes([components]) + b"".join(bytes([n, 0]) for n in range(1, components + 1)) + b"\0\x3f\0"
    segments = ((marker, frame), (0xDA, scan))
    parts = (bytes([0xFF, kind]) + struct.pack(">H", 2 + len(data)) + data for kind, data in segments)
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


FLOAT, SIGNED = {crafted.SAMPLE_FORMAT: (SHORT, [3])}, {crafted.SAMPLE_FORMAT: (SHORT, [2])}
ALPHA = {crafted.EXTRA_SAMPLES: (SHORT, [2])}
RARE = {
    "TIFF, RGB, 3 x 32 bits, floating-point": deep(crafted.RGB, 32, 3, FLOAT),
    "TIFF, RGB, 3 x 16 bits, floating-point": deep(crafted.RGB, 16, 3, FLOAT),
    "TIFF, RGB, 3 x 64 bits, floating-point": deep(crafted.RGB, 64, 3, FLOAT),
    "TIFF, RGB, 3 x 32 bits, unsigned": deep(crafted.RGB, 32, 3),
    "TIFF, RGB, 3 x 16 bits, signed": deep(crafted.RGB, 16, 3, SIGNED),
    "TIFF, RGB, 3 x 12 bits, unsigned": deep(crafted.RGB, 12, 3),
    "TIFF, RGB, 3 x 4 bits, unsigned": deep(crafted.RGB, 4, 3),
    "TIFF, grey, 2 x 16 bits, unsigned, 1 of them extra": deep(crafted.BLACK_IS_ZERO, 16, 2, ALPHA),
    "TIFF, grey, 1 x 12 bits, unsigned": deep(crafted.WHITE_IS_ZERO, 12, 1),
    "TIFF, grey, 1 x 24 bits, unsigned": deep(crafted.BLACK_IS_ZERO, 24, 1),
    "TIFF, grey, 1 x 64 bits, floating-point": deep(crafted.BLACK_IS_ZERO, 64, 1, FLOAT),
    "TIFF, grey, 1 x 64 bits, complex": deep(crafted.BLACK_IS_ZERO, 64, 1, {crafted.SAMPLE_FORMAT: (SHORT, [6])}),
    "TIFF, a palette, 1 x 16 bits, unsigned": deep(crafted.PALETTE_COLOUR, 16, 1),
    "TIFF, CMYK, 4 x 32 bits, unsigned": deep(crafted.SEPARATED, 32, 4),
    "TIFF, CIE L*a*b*, 3 x 16 bits, unsigned": deep(crafted.CIELAB, 16, 3),
    "TIFF, CIE L*a*b*, 3 x 8 bits, unsigned, in separate planes": tiff(
        SIZE, [8] * 3, crafted.CIELAB, [GREY.tobytes()] * 3, {crafted.PLANAR: (SHORT, [2])}
    ),
    "TIFF, photometric interpretation 34000, 1 x 8 bits, unsigned": deep(34000, 8, 1),
    "TIFF, RGB, 3 x 8 bits, unsigned, compression 33005": deep(
        crafted.RGB, 8, 3, {crafted.COMPRESSION: (SHORT, [33005])}
    ),
    "TIFF, RGB, 3 x 8 bits, unsigned, compression 34887": deep(
        crafted.RGB, 8, 3, {crafted.COMPRESSION: (SHORT, [34887])}
    ),
    "big-endian BigTIFF, RGB, 3 x 8 bits, unsigned": deep(crafted.RGB, 8, 3, order=">", is_big=True),
    "big-endian BigTIFF, grey, 1 x 16 bits, unsigned": deep(crafted.BLACK_IS_ZERO, 16, 1, order=">", is_big=True),
    "BMP, RGB, 3 x 10 bits, with masks": crafted.bmp((1, 1), 32, bytes(4), masks=(0x3FF00000, 0xFFC00, 0x3FF, 0)),
    "BMP, RGBA, 4 x 5-5-5-1 bits, with masks": crafted.bmp((1, 1), 16, bytes(4), masks=(0x7C00, 0x3E0, 0x1F, 0x8000)),
    "BMP, RGBA, 4 x 4 bits, with masks": crafted.bmp((1, 1), 16, bytes(4), masks=(0xF00, 0xF0, 0xF, 0xF000)),
    "BMP, a palette, 1 x 2 bits, unsigned, compression 0": crafted.bmp((1, 1), 2, bytes(4), palette=bytes(16)),
    "BMP, RGB, 1 x 64 bits, unsigned, compression 0": crafted.bmp((1, 1), 64, bytes(8)),
    "BMP, RGB, 1 x 24 bits, unsigned, compression 4": crafted.bmp((1, 1), 24, bytes(4), packing=4),
    "JPEG, extended, colour, 3 x 12 bits, unsigned": jpeg(0xC1, bits=12),
    "JPEG, progressive, grey, 1 x 12 bits, unsigned": jpeg(0xC2, bits=12, components=1),
    "JPEG, lossless, grey, 1 x 16 bits, unsigned": jpeg(0xC3, bits=16, components=1),
    "JPEG, lossless, colour, 3 x 8 bits, unsigned": jpeg(0xC3),
    "JPEG, arithmetic-coded lossless, colour, 3 x 8 bits, unsigned": jpeg(0xCB),
    "JPEG, hierarchical, colour, 3 x 8 bits, unsigned": jpeg(0xC5),
    "JPEG-LS, grey, 1 x 8 bits, unsigned": jpeg(0xF7, components=1),
    "JPEG-LS, grey, 1 x 12 bits, unsigned": jpeg(0xF7, bits=12, components=1),
    "JPEG, baseline, other colours, 2 x 8 bits, unsigned": jpeg(0xC0, components=2),
    "JPEG, baseline, colour, 3 x 8 bits, unsigned, its height after the pixels": jpeg(0xC0, height=0),
}


@pytest.mark.parametrize("kind", RARE)
def test_rare_kind_is_refused_by_its_name(kind: str) -> None:
    with pytest.raises(UnsupportedImageError) as raised:
        decode(RARE[kind], LIMITS)
    assert kind in raised.value.message


def test_broken_header_is_damaged_and_no_rare_kind() -> None:
    bodies = [
        deep(crafted.RGB, 12, 0),
        tiff(SIZE, [8] * 3, crafted.RGB, [b""], {crafted.SAMPLES: (SHORT, [200])}),
        deep(crafted.RGB, 12, 3)[:100],
        jpeg(0xC0),
    ]
    for body in bodies:
        with pytest.raises(DamagedImageError):
            decode(body, LIMITS)


def exif_of(kind: int, orientation: int, order: str) -> bytes:
    """An EXIF block whose orientation has a type."""
    value = struct.pack(order + {1: "B", 6: "b", 7: "B", **crafted.TIFF_TYPES, 8: "h", 9: "l"}[kind], orientation)
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HL", 42, 8)
    return b"Exif\0\0" + start + struct.pack(order + "HHHL", 1, 274, kind, 1) + value.ljust(4, b"\0") + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 6, 7, 8, 9])
def test_orientation_of_any_type_is_applied(kind: int, order: str) -> None:
    for orientation in (2, 6, 7):
        for file_format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})):
            body = encode(Image.fromarray(SMOOTH), file_format, exif=exif_of(kind, orientation, order), **options)
            picture = decode(body, LIMITS)
            assert picture.conversions == (f"turned upright by EXIF orientation {orientation}",)
            assert np.abs(np.asarray(picture.pixels) - turn(SMOOTH, orientation).astype(float)).max() <= 6


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [crafted.BYTE, SHORT, LONG])
def test_orientation_of_any_type_is_applied_to_a_tiff(kind: int, order: str) -> None:
    for orientation in range(2, 9):
        picture = decode(rgb_tiff({crafted.ORIENTATION: (kind, [orientation])}, order=order), LIMITS)
        assert (np.asarray(picture.pixels) == turn(RGB, orientation)).all()
        assert picture.conversions == (f"turned upright by EXIF orientation {orientation}",)
        assert picture.size == picture.pixels.size


def test_tiff_palette_of_8_bit_values_keeps_its_colours() -> None:
    colours = np.arange(768).reshape(3, 256) % 251
    body = tiff(SIZE, [8], crafted.PALETTE_COLOUR, [GREY.tobytes()], {320: (SHORT, colours.ravel().tolist())})
    assert (np.asarray(decode(body, LIMITS).pixels) == colours.T[GREY]).all()


@pytest.mark.parametrize("colours", [0, 3, 765, 771])
def test_tiff_palette_of_a_wrong_length_is_damaged(colours: int) -> None:
    body = tiff(SIZE, [8], crafted.PALETTE_COLOUR, [GREY.tobytes()], {320: (SHORT, [300] * colours)})
    with pytest.raises(DamagedImageError, match="palette"):
        decode(body, LIMITS)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_top_down", [False, True])
def test_bmp_of_a_grey_palette_that_is_shorter_than_its_bits_is_read_by_it(bits: int, is_top_down: bool) -> None:
    """Pillow took 4-bit and 8-bit pixels for 1-bit ones where the palette is black and white."""
    index = GREY % 2
    for palette in (b"\0\0\0\0\xff\xff\xff\0", b"\0\0\0\0\1\1\1\0"):
        stored = index if is_top_down else index[::-1]
        packed = (
            stored
            if bits == 8
            else np.pad(stored, ((0, 0), (0, 1)))[:, ::2] << 4 | np.pad(stored, ((0, 0), (0, 1)))[:, 1::2]
        )
        rows = padded_rows(packed[::-1].astype(np.uint8))
        body = bytearray(crafted.bmp((WIDTH, -HEIGHT if is_top_down else HEIGHT), bits, rows, palette=palette))
        picture = decode(bytes(body), LIMITS)
        expected = np.frombuffer(palette, np.uint8).reshape(2, 4)[:, :3][index]
        assert (np.asarray(picture.pixels) == expected).all()


@pytest.mark.parametrize("palette", [bytes(range(40)), b"\0\0\0\0\xff\xff\xff\0"], ids=["coloured", "black and white"])
def test_bmp_whose_pixels_have_no_colour_in_the_palette_is_damaged(palette: bytes) -> None:
    body = crafted.bmp(SIZE, 8, padded_rows(GREY), palette=palette)
    with pytest.raises(DamagedImageError, match="palette lacks a colour"):
        decode(body, LIMITS)


def test_orientation_is_left_where_metadata_do_not_count() -> None:
    body = encode(Image.fromarray(RGB), "PNG", exif=exif(6).tobytes())
    assert decode(body, LIMITS, follows_metadata=False).size == SIZE
    assert decode(rgb_tiff({crafted.ORIENTATION: (crafted.BYTE, [6])}), LIMITS, follows_metadata=False).size == SIZE


HOSTILE_TEXTS = {
    "OME without ends": "<OME>" + "<Pixels " * 400_000,
    "OME without sizes": "<OME>" + "<Pixels >" * 400_000,
    "OME without samples": ome(3, 1, 1),
    "lines": "ImageJ=1\n" + "\n" * 2_000_000 + "x",
    "shape": '{"shape": [' + "[" * 2_000_000,
    "sides": '{"shape": [' + "9," * 2_000_000,
}


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_descriptions_are_read_at_once(name: str) -> None:
    tags = text(HOSTILE_TEXTS[name]) | ({crafted.SAMPLES: (SHORT, [0])} if "samples" in name else {})
    body = rgb_tiff(tags)
    started = time.process_time()
    with contextlib.suppress(AnsweredError):
        decode(body, LIMITS)
    assert time.process_time() - started < 1


def test_hostile_directories_are_refused_or_read_at_once() -> None:
    loop = bytearray(rgb_tiff())
    far = b"II*\0\xff\xff\xff\xff"
    farther = b"II+\0\x08\0\0\0" + b"\xff" * 8
    many = b"II*\0\x08\0\0\0\xff\xff" + b"\x4a\x01\x04\0\xff\xff\xff\x7f\x08\0\0\0" * 65535
    for body in (bytes(loop[:4]) + b"\4\0\0\0" + bytes(loop[8:]), far, farther, many, io.BytesIO(many).read(1000)):
        with pytest.raises((DamagedImageError, UnsupportedImageError)):
            decode(body, LIMITS)


def test_every_message_stands_in_the_document_for_callers() -> None:
    document = (PROJECT_ROOT / "get_started" / "images.md").read_text(encoding="utf-8")
    lossless = RARE["JPEG, lossless, grey, 1 x 16 bits, unsigned"]
    slide = encode(
        Image.fromarray(RGB),
        "TIFF",
        save_all=True,
        append_images=[Image.fromarray(RGB)],
        tiffinfo={DESCRIPTION: "Aperio Image Library v11.2.1"},
    )
    bodies = [PREVIEWS["reduced page"], PREVIEWS["DNG"], rgb_tiff(MORE["volume"]), slide, lossless]
    bodies.append(rgb_tiff({NEW_SUBFILE_TYPE: (LONG, [4])}))
    bodies.append(rgb_tiff().replace(struct.pack("<HH", crafted.PHOTOMETRIC, SHORT), struct.pack("<HH", 261, SHORT)))
    bodies.append(tiff(SIZE, [8], crafted.PALETTE_COLOUR, [GREY.tobytes()], {320: (SHORT, [300] * 3)}))
    for body in bodies:
        with pytest.raises(AnsweredError) as raised:
            decode(body, LIMITS)
        assert f"`{raised.value.message}`" in document
