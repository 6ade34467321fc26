"""Reads pictures with libvips, in a process of its own: `python libvips.py FOLDER` writes what it makes of each file.

For each file of the folder it writes NAME.npy, uint8 [height, width, bands], upright: RGB over white, or CMYK as it is
stored. Where libvips refuses a file, it writes NAME.error with the reason.
"""

import ctypes
import sys
from ctypes.util import find_library
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CMYK, SRGB = 15, 22  # VipsInterpretation
UCHAR = 0  # VipsBandFormat


class VipsError(Exception):
    """What libvips says of a file that it refuses."""


class Vips:
    """The few calls of libvips that are needed, each from an image to an image."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(find_library("vips"))
        for name in ("vips_image_new_from_file", "vips_image_write_to_memory", "vips_array_double_newv"):
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.vips_error_buffer.restype = ctypes.c_char_p
        self.library.vips_init(b"libvips.py")
        self.white = ctypes.c_void_p(self.library.vips_array_double_newv(1, ctypes.c_double(255)))

    def call(self, name: str, image: ctypes.c_void_p, *arguments: object) -> ctypes.c_void_p:
        result = ctypes.c_void_p()
        if getattr(self.library, name)(image, ctypes.byref(result), *arguments, None):
            self.fail()
        self.library.g_object_unref(image)
        return result

    def fail(self) -> None:
        reason = self.library.vips_error_buffer().decode("utf-8", "replace").strip()
        self.library.vips_error_clear()
        raise VipsError(reason)

    def read(self, path: Path) -> NDArray[np.uint8]:
        image = ctypes.c_void_p(self.library.vips_image_new_from_file(str(path).encode(), None))
        if not image:
            self.fail()
        image = self.call("vips_autorot", image)
        if self.library.vips_image_get_typeof(image, b"icc-profile-data"):
            image = self.call("vips_icc_transform", image, b"srgb", b"embedded", ctypes.c_int(1))
        if self.library.vips_image_get_interpretation(image) == CMYK:
            image = self.call("vips_msb", image)
        else:
            image = self.call("vips_colourspace", image, SRGB)
            if self.library.vips_image_hasalpha(image):
                image = self.call("vips_flatten", image, b"background", self.white)
        image = self.call("vips_cast", image, UCHAR)
        size = ctypes.c_size_t()
        memory = self.library.vips_image_write_to_memory(image, ctypes.byref(size))
        if not memory:
            self.fail()
        shape = [getattr(self.library, f"vips_image_get_{side}")(image) for side in ("height", "width", "bands")]
        pixels = np.frombuffer(ctypes.string_at(memory, size.value), np.uint8).reshape(shape).copy()
        self.library.g_free(ctypes.c_void_p(memory))
        self.library.g_object_unref(image)
        return pixels


if __name__ == "__main__":
    vips = Vips()
    for path in sorted(Path(sys.argv[1]).iterdir()):
        try:
            np.save(path.with_name(path.name + ".npy"), vips.read(path))
        except VipsError as error:
            path.with_name(path.name + ".error").write_text(str(error))
