"""Draws a heat map over its picture, with a legend: a PNG for people."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from app.pipeline.occlusion import HeatMap

FOR, AGAINST = "#e66101", "#5e3c99"
"""Orange and purple: told apart by people of every kind of colour vision (ColorBrewer's PuOr)."""
LEAST_SIDE_PX = 384
MOST_OPAQUE = 0.75
LEAST_LIMIT = 0.001
"""Smaller changes of a probability are noise, and stay pale."""
LEGEND_PX, TEXT_PX, MARGIN_PX = 64, 14, 8


def draw_heat_map(heat_map: HeatMap, notice: str) -> bytes:
    """Return a PNG: the picture as the model saw it, enlarged and grey, under its map, above a legend with `notice`."""
    height, width, _ = heat_map.pixels.shape
    factor = max(1, -(-LEAST_SIDE_PX // max(height, width)))
    size = (width * factor, height * factor)
    shares = heat_map.cells / max(heat_map.limit, LEAST_LIMIT)
    grey = Image.fromarray(heat_map.pixels).convert("L")  # stains have the colours of the map
    picture = grey.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    for colour, part in ((FOR, shares), (AGAINST, -shares)):
        mask = Image.fromarray(np.clip(part, 0, 1).astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        opacity = Image.fromarray((np.asarray(mask) * 255 * MOST_OPAQUE).astype(np.uint8))
        picture.paste(Image.new("RGB", size, colour), mask=opacity)
    sheet = Image.new("RGB", (max(size[0], LEAST_SIDE_PX), size[1] + LEGEND_PX), "white")
    sheet.paste(picture)
    draw_legend(sheet, size[1], heat_map, notice)
    buffer = io.BytesIO()
    text = PngInfo()
    text.add_text("Comment", notice)
    sheet.save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def draw_legend(sheet: Image.Image, top_px: int, heat_map: HeatMap, notice: str) -> None:
    """Draw the colour scale and what its ends mean."""
    bar = make_scale(sheet.width - 2 * MARGIN_PX)
    sheet.paste(bar, (MARGIN_PX, top_px + MARGIN_PX))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    line_px = top_px + MARGIN_PX + bar.height + 2
    right = sheet.width - MARGIN_PX
    draw.text((MARGIN_PX, line_px), f"against {heat_map.class_name}: {heat_map.limit:.2g}", "black", font)
    draw.text((right, line_px), f"for {heat_map.class_name}: {heat_map.limit:.2g}", "black", font, anchor="ra")
    draw.text((MARGIN_PX, line_px + TEXT_PX + 4), notice, "black", font)


def make_scale(width_px: int) -> Image.Image:
    """Return the colour scale from against over white to for."""
    shares = np.linspace(-1, 1, width_px)
    row = np.stack([mix(share) for share in shares])
    return Image.fromarray(np.repeat(row[np.newaxis], 12, axis=0).astype(np.uint8))


def mix(share: float) -> NDArray[np.float64]:
    """Return the colour of a share from -1 to 1 on white, float64 [3], 0 to 255."""
    colour = Image.new("RGB", (1, 1), FOR if share > 0 else AGAINST).getpixel((0, 0))
    return 255 + (np.array(colour) - 255) * abs(share) * MOST_OPAQUE
