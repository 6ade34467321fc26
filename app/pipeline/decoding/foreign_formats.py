"""Names what a body is that is no picture of an accepted format, and says what to do instead."""

import re
from codecs import getincrementaldecoder

HEAD_BYTES = 1024
"""Formats are told by this many first bytes: PDF's mark may stand anywhere in them."""
EXPORT = "export it as PNG or JPEG"
EXPORT_RAW = "develop it, and export it as JPEG or PNG"
EXPORT_PAGE = "export the page as PNG"
EXPORT_SLICE = "export one slice or frame as PNG"
UNPACK = "unpack it, and send the picture"
ISO_BRANDS = (  # ISO/IEC 14496-12: the major brand stands behind "ftyp", other brands behind that
    (rb"crx ", "a Canon CR3 camera raw file", EXPORT_RAW),
    (rb"(?:.{4}){0,12}?avi[fs]", "an AVIF picture", EXPORT),
    (rb"(?:hei[cxms]|hev[cmxs]|mif1|msf1|mif2)", "a HEIC picture", EXPORT),
    (rb"jp[2xm]", "a JPEG 2000 picture", EXPORT),
    (rb"jxl ", "a JPEG XL picture", EXPORT),
    (rb"(?:M4[ABP]|F4[AB]) ", "a sound file", "send a picture"),
    (rb"", "a video", "export one frame as PNG"),
)
SIGNATURES = (
    (rb"GIF8[79]a", "a GIF picture", EXPORT),
    *((rb".{4}ftyp" + brand, name, advice) for brand, name, advice in ISO_BRANDS),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "a JPEG 2000 picture", EXPORT),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", EXPORT),
    (rb"II\xbc", "a JPEG XR picture", EXPORT),
    (rb"(?:.{128})DICM|\x08\0[\x05\x08\x16\x18]\0|\x02\0\0\0UL\x04\0", "a DICOM file", EXPORT_SLICE),
    (
        rb"\x5c\x01\0\0.{340}(?:n\+1|ni1)\0|\0\0\x01\x5c.{340}(?:n\+1|ni1)\0|.{4}n[+i]2\0\r\n",
        "a NIfTI volume",
        EXPORT_SLICE,
    ),
    (rb"\x5c\x01\0\0.{34}r|\0\0\x01\x5c.{34}r", "an Analyze volume", EXPORT_SLICE),
    (rb"NRRD000\d", "an NRRD volume", EXPORT_SLICE),
    (rb"ObjectType *=|NDims *=", "a MetaImage volume", EXPORT_SLICE),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT_SLICE),
    (rb"SIMPLE  =", "a FITS file", EXPORT_SLICE),
    (rb"\x93NUMPY", "a NumPy array", EXPORT),
    (rb"ZISRAWFILE", "a Zeiss CZI slide", "export the part in question as PNG"),
    (rb"II(?:RO|RS|U\0)|MMOR|FUJIFILMCCD-RAW|\0MRM|FOVb|II\x1a\0\0\0HEAPCCDR", "a camera raw file", EXPORT_RAW),
    (rb"8BPS", "a Photoshop document", EXPORT),
    (rb"gimp xcf", "a GIMP document", EXPORT),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture", EXPORT),
    (rb"#\?R(?:ADIANCE|GBE)", "a Radiance HDR picture", EXPORT),
    (rb"\0\0[\x01\x02]\0[^\0]\0|icns", "an icon", EXPORT),
    (rb"P[1-7fF]\s", "a PNM picture", EXPORT),
    (rb"DDS ", "a DDS texture", EXPORT),
    (rb"qoif", "a QOI picture", EXPORT),
    (rb"BPG\xfb", "a BPG picture", EXPORT),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file", EXPORT_PAGE),
    (rb".{0,1019}?%PDF-", "a PDF document", EXPORT_PAGE),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document", EXPORT_PAGE),
    (
        rb"[\t\x89]PNG|\xc2\x89PNG|\xef\xbf\xbdPNG|\xc3\xbf\xc3\x98\xc3\xbf|(?:\xef\xbf\xbd){3}",
        "a picture whose bytes were changed as if it were text",
        "send them as they are in the file",
    ),
    (rb"MATLAB [57]\.", "a MATLAB file", EXPORT),
    (rb"\x01\0\0\0.{36} EMF|\xd7\xcd\xc6\x9a", "a Windows metafile", EXPORT),
    (rb"\x01\xda[\0\1][\1\2]", "an SGI picture", EXPORT),
    (rb"\x0a[\0\2\3\5]\x01[\1\2\4\x08]", "a PCX picture", EXPORT),
    (rb"AT&TFORM", "a DjVu document", EXPORT_PAGE),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive", UNPACK),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|\xfd7zXZ\0|BZh\d|\x28\xb5\x2f\xfd|.{257}ustar", "an archive", UNPACK),
    (rb"\x1f\x8b", "a gzip file, which may hold a NIfTI volume", UNPACK),
    (rb"RIFF.{4}AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xb3\xba]", "a video", "export one frame as PNG"),
    (rb"RIFF.{4}WAVE|ID3|OggS|fLaC|\xff[\xf1-\xf3\xf9-\xfb]", "a sound file", "send a picture"),
    (
        rb"(?i)--[^\r\n]{1,256}\r?\ncontent-(?:disposition|type):",
        "a form",
        "let the client write its Content-Type, multipart/form-data with the boundary",
    ),
    (rb"\s*(?:data:image/|iVBORw0KGgo|/9j/|UklGR|SUkqA|TU0AK|R0lGOD)", "a picture in base64", "send its bytes"),
    (rb"(?i)(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", "an HTML page", "send the picture itself"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:.{0,1000}?<)?svg[\s>/]", "an SVG drawing", EXPORT),
    (rb"(?:\xef\xbb\xbf)?\s*<[?!\w]", "an XML document", "send the picture itself"),
    (
        rb"(?:\xef\xbb\xbf)?\s*[{\[]\s*[\"{\[\]}\d-]",
        "JSON",
        "say so (Content-Type: application/json), or send the picture",
    ),
)
PATTERNS = tuple((re.compile(pattern, re.DOTALL), name, advice) for pattern, name, advice in SIGNATURES)
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def name_foreign_format(body: bytes) -> tuple[str, str] | None:
    """Return what a body is, and what to do with it; None if that is not known."""
    head = body[:HEAD_BYTES]
    for pattern, name, advice in PATTERNS:
        if pattern.match(head):
            return name, advice
    return ("text", "send a picture") if is_text(head) else None


def is_text(head: bytes) -> bool:
    """Return whether the first bytes are UTF-8 without control characters; their last character may be cut."""
    try:
        text = getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return len(text) > 1 and CONTROL.search(head) is None
