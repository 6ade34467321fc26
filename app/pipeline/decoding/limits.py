"""How large a picture may be, and the pictures of one request together."""

from dataclasses import dataclass

from app.errors import UnsupportedImageError

REQUEST_SHARE = 4
"""The pictures of one request may have so many times the pixels of the largest picture. Decoding takes up to a second
for each time, and a file of 38 bytes can have them all.
"""


@dataclass(frozen=True)
class ImageLimits:
    """The largest picture that is taken."""

    max_pixels: int
    max_side_px: int = 16_384

    def check(self, width_px: int, height_px: int, what: str = "The picture") -> None:
        """Raise `UnsupportedImageError` if the picture, or whatever `what` names, is over a limit."""
        if width_px * height_px > self.max_pixels or max(width_px, height_px) > self.max_side_px:
            raise UnsupportedImageError(
                f"{what} has {width_px} x {height_px} pixels; at most {self.max_pixels} in all and "
                f"{self.max_side_px} on a side are taken."
            )


class PixelSum:
    """Counts the pixels of a request's pictures.

    Thread safety: one thread at a time.
    """

    def __init__(self, max_pixels: int) -> None:
        self._most = self._left = REQUEST_SHARE * max_pixels

    def add(self, width_px: int, height_px: int) -> None:
        """Count a picture; raises `UnsupportedImageError` if the request has too many pixels with it."""
        if width_px * height_px > self._left:
            raise UnsupportedImageError(
                f"The pictures of the request have more than {self._most} pixels together; send this one by itself."
            )
        self._left -= width_px * height_px
