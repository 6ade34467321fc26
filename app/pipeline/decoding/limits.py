"""How large a picture may be."""

from dataclasses import dataclass

from app.errors import UnsupportedImageError


@dataclass(frozen=True)
class ImageLimits:
    """The largest picture that is taken."""

    max_pixels: int
    max_side_px: int = 16_384

    def check(self, width_px: int, height_px: int) -> None:
        """Raise `UnsupportedImageError` if the picture is over a limit."""
        if width_px * height_px > self.max_pixels or max(width_px, height_px) > self.max_side_px:
            raise UnsupportedImageError(
                f"The picture has {width_px} x {height_px} pixels; at most {self.max_pixels} in all and "
                f"{self.max_side_px} on a side are taken."
            )
