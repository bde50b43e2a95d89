"""Reads input images for workers; submit checks images with the same code.

A picture comes out as viewers show it: upright, in sRGB, 8 bits a channel, what is transparent on white. What a clip
will not have of it is said in ``notes``; what cannot be shown rightly is refused.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.inputs.png_chunks import bit_depth, colour_code

MAX_INPUT_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000
"""Checked from the header, before anything is decoded: a small file can unpack to a huge picture."""
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "MPO": "image/jpeg"}
"""The media type by Pillow's name. Phones and cameras write MPO: a JPEG with further pictures behind it."""
MAX_SCANNED = 100 * MAX_PIXELS
"""A progressive JPEG is decoded once for each of its scans, and real ones have some ten."""
_SCAN = b"\xff\xda"
"""The marker of a scan; the compressed pixels themselves never have these bytes."""
_EXIF, _MAX_EXIF = b"Exif\0\0", 1000
"""Pillow joins the parts of a JPEG's EXIF data one by one; a file of 32 MB in parts of 64 KB has half as many."""
_FORMATS = ("PNG", "JPEG", "WEBP")
_HINTS = (
    (4, (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1", b"ftyphevc"), "HEIC"),
    (4, (b"ftypavif", b"ftypavis"), "AVIF"),
    (0, (b"GIF8",), "GIF"),
    (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF or camera raw"),
    (0, (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    (0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), "JPEG 2000"),
    (0, (b"BM",), "BMP"),
    (0, (b"%PDF",), "PDF"),
    (0, (b"<svg", b"<?xml"), "SVG or XML"),
    (0, (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"), "an HTML page"),
    (0, (b"version https://git-lfs",), "a pointer of Git LFS, whose file was not fetched"),
)
"""Offset, beginnings, and what people call such a file."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in sRGB (mode RGB), its file's media type, and what of the file it does not show."""

    image: Image.Image
    media_type: str
    notes: tuple[str, ...] = ()


def read_image(data: bytes, name: str) -> Picture:
    """The picture that a viewer shows, with every pixel decoded.

    Raises:
        ValueError: it is of another format, has too many pixels, or is broken; the message has the name and the rule.
    """
    if len(data) > MAX_INPUT_BYTES:
        raise ValueError(f"{name!r} has {len(data)} bytes; at most {MAX_INPUT_BYTES} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit here is ours
            return _read(data, name)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name!r} has too many pixels; at most {MAX_PIXELS} are allowed") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name!r} is not a PNG, JPEG or WebP image{_hint(data)}") from None
    except MemoryError:
        raise ValueError(f"{name!r} needs more memory than there is") from None
    except Exception as error:  # noqa: BLE001 Pillow's decoders raise almost anything on broken data
        raise ValueError(f"{name!r} is broken or truncated: {str(error) or type(error).__name__}") from None


def fitted(picture: Image.Image, size: tuple[int, int], aspect: float = 1.0) -> Image.Image:
    """A picture at the clip's size (width, height): scaled to cover it, then cut in the middle.

    ``aspect`` is the width of the picture's pixels by their height.
    """
    if aspect == 1:
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    width, height = picture.width * aspect, float(picture.height)
    target_ratio = size[0] / size[1]
    kept_width, kept_height = min(width, height * target_ratio) / aspect, min(height, width / target_ratio)
    left, top = (picture.width - kept_width) / 2, (height - kept_height) / 2
    box = (left, top, left + kept_width, top + kept_height)
    return picture.resize(size, Image.Resampling.LANCZOS, box=box)


class _RefusedError(Exception):
    pass


def _read(data: bytes, name: str) -> Picture:
    from pipeline.inputs.picture_colours import in_srgb  # noqa: PLC0415 - most files name no image

    if data.count(_EXIF) > _MAX_EXIF:
        raise _RefusedError(f"{name!r} has EXIF data in more than {_MAX_EXIF} parts")
    colours = colour_code(data)
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _RefusedError(f"{name!r} is {width}×{height} pixels; at most {MAX_PIXELS} in all are allowed")
        media_type = MEDIA_TYPES[str(image.format)]
        notes = list(_further_pictures(image))
        if colours is not None and colours.hdr:
            raise _RefusedError(
                f"{name!r} is an HDR picture ({colours.hdr}), and would look flat and grey: make an SDR copy"
            )
        if image.format in ("JPEG", "MPO") and data.count(_SCAN) * width * height > MAX_SCANNED:
            raise _RefusedError(f"{name!r} is a JPEG of {data.count(_SCAN)} scans, which would take too long to decode")
        image.load()
        notes += _turn_upright(image)
        converted, more = in_srgb(image, bit_depth(data))
        if colours is not None and colours.wide and "icc_profile" not in image.info:
            more = [*more, "has a colour code (cICP) other than sRGB's: its colours are taken as sRGB"]
        return Picture(converted, media_type, (*notes, *more))


def _further_pictures(image: Image.Image) -> Iterator[str]:
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # behind a photo lie its preview, its depth or its gain map
        yield f"is animated: the first of its {count} pictures is used"


def _turn_upright(image: Image.Image) -> list[str]:
    """Turn the picture as its EXIF data say, in place; viewers show it as it is where they cannot be read."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return []
    except Exception:  # noqa: BLE001 Pillow's reader of EXIF raises almost anything on broken data
        return ["has EXIF data that cannot be read: it is taken as upright"]


def _hint(data: bytes) -> str:
    for offset, beginnings, kind in _HINTS:
        if data[offset:].startswith(beginnings):
            return f"; it looks like {kind}: save a copy as PNG, JPEG or WebP"
    return ""
