"""A colour profile (ICC.1) says which colours a file's numbers mean; models know the numbers of sRGB."""

import io
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from app.errors import ScancerError

MAX_PROFILE_BYTES = 4 * 2**20  # printers' profiles have 0.5 to 3 MB, those of screens and cameras a few kB
MAX_TAGS = 100  # as lcms has it
# ICC.1:2022, 7.2: the header's fields.
HEADER_BYTES, MARK_AT, MARK, CLASS_AT, SPACE_AT = 128, 36, b"acsp", 12, 16
CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")  # devices, and colour spaces: what pictures carry
MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B")
UNLIMITED_TAG = b"D2B"
"""Begins the names of tags whose steps have no limit; each step is computed for each of 35,937 colours."""
GRID = 9
SAME = 2
"""A profile that moves no colour of a grid by more than this, of 255, is sRGB: makers round its curves differently."""
IGNORED = "The picture's colour profile {}, and was ignored; its colours may be shown wrongly to the model."


class ProfileError(ScancerError):
    """A colour profile cannot be used; the message says why, to go into `IGNORED`."""


@dataclass(frozen=True)
class Colours:
    """A profile that was read. `mode` is the Pillow mode of its numbers; `transform` is None if it is sRGB itself."""

    mode: str
    transform: object | None

    def fits(self, image: Image.Image) -> bool:
        """Whether the numbers of a picture can be meant."""
        if self.mode == "RGB":
            return image.mode not in ("CMYK", "LAB")
        return image.mode in (GREY_MODES if self.mode == "L" else ("CMYK",))

    def apply(self, image: Image.Image) -> Image.Image:
        """Return a picture in the colours of sRGB: mode RGB, or RGBA if it has transparency."""
        from PIL import ImageCms

        alpha = None
        if image.has_transparency_data:
            image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
            alpha = image.getchannel("A")
        converted = ImageCms.applyTransform(image.convert(self.mode), self.transform)  # type: ignore[arg-type]  # ours
        assert converted is not None  # it is None where the picture is changed in place
        if alpha is not None:
            converted.putalpha(alpha)
        return converted


def find_colours(profile: object, image: Image.Image) -> Colours | None:
    """Return the colours of a profile that the picture needs; None if they are sRGB's. Raises `ProfileError`."""
    if not isinstance(profile, bytes) or len(profile) < HEADER_BYTES:
        raise ProfileError("is damaged")
    if len(profile) > MAX_PROFILE_BYTES:
        raise ProfileError(f"has more than {MAX_PROFILE_BYTES} bytes")
    colours = read_profile(profile)
    if not colours.fits(image):
        raise ProfileError("is of another kind than the picture")
    return None if colours.transform is None else colours


@lru_cache(maxsize=8)
def read_profile(profile: bytes) -> Colours:
    """Read a profile; raises `ProfileError`. Making its transform takes milliseconds, and pictures of one source share
    their profile.

    Thread safety: lcms transforms may be shared by threads.
    """
    from PIL import ImageCms

    mode = check_profile(profile)
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, target, mode, "RGB", intent)
        return Colours(mode, None if is_srgb(transform, mode) else transform)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileError("is damaged") from error


def check_profile(profile: bytes) -> str:
    """Return the Pillow mode of a profile's numbers; raises `ProfileError` for what is no profile of a picture."""
    if profile[MARK_AT : MARK_AT + 4] != MARK:
        raise ProfileError("is damaged")
    mode = MODES.get(profile[SPACE_AT : SPACE_AT + 4])
    try:
        (count,) = struct.unpack_from(">I", profile, HEADER_BYTES)
        tags = [
            profile[at : at + 4] for at in range(HEADER_BYTES + 4, HEADER_BYTES + 4 + 12 * min(count, MAX_TAGS), 12)
        ]
    except struct.error as error:
        raise ProfileError("is damaged") from error
    is_unlimited = any(name.startswith(UNLIMITED_TAG) for name in tags)
    if mode is None or profile[CLASS_AT : CLASS_AT + 4] not in CLASSES or is_unlimited:
        raise ProfileError("is of a kind that is not taken")
    return mode


def is_srgb(transform: object, mode: str) -> bool:
    """Return whether a transform leaves a grid of colours as it is."""
    from PIL import ImageCms

    steps = np.linspace(0, 255, GRID).round().astype(np.uint8)
    if mode == "CMYK":
        return False
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1) if mode == "RGB" else steps.reshape(1, -1, 1)
    colours = colours.reshape(1, -1, colours.shape[-1])
    grid = Image.fromarray(colours if mode == "RGB" else colours[..., 0])
    moved = np.asarray(ImageCms.applyTransform(grid, transform))  # type: ignore[arg-type]  # ours
    return bool(np.abs(moved.astype(int) - colours).max() <= SAME)
