"""A picture's colours in sRGB, 8 bits a channel.

16-bit gray, profiles, gamma, CMYK and transparency come out as viewers show them.
"""

import io
from functools import lru_cache
from itertools import product
from typing import Any, cast

from PIL import Image, ImageChops, ImageCms

_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_SRGB_GAMMA = 1 / 2.2
_NEAR = 0.03
"""A gamma so near to sRGB's is sRGB's: files round it to 0.45, 0.4545 or 0.455."""
_CMYK_GUESSED = "has CMYK colours without a profile: they are only roughly right"


def in_srgb(image: Image.Image, bits: int | None = None) -> tuple[Image.Image, list[str]]:
    """The picture in mode RGB, and a note for each thing that is shown in another way than it was meant.

    ``bits`` are those of a channel in the file, where that is a PNG; all else that it says beside its pixels is taken
    from ``image.info``.
    """
    image, alpha = _eight_bits(image, bits or 8)
    notes = []
    profile = image.info.get("icc_profile")
    if profile:
        converted, problem = _by_profile(image, profile)
        notes += problem
    else:
        converted = _by_gamma(image.convert("RGB"), image.info)
        if image.mode == "CMYK":
            notes.append(_CMYK_GUESSED)
    if alpha is not None and alpha.getextrema() != (255, 255):
        converted.paste("white", mask=ImageChops.invert(alpha))
        notes.append("is transparent in parts: they are shown on white")
    return converted, notes


def _eight_bits(image: Any, bits: int) -> tuple[Image.Image, Image.Image | None]:
    """The picture's colours in L, RGB or CMYK, 8 bits each, and its transparency (L) where it has any."""
    info = dict(image.info)
    alpha: Image.Image | None = None
    if image.mode in _SIXTEEN_BITS or image.mode in ("I", "F"):
        image, alpha = _from_gray16(image)
    elif image.has_transparency_data:
        _scale_colour_key(image, bits)
        with_alpha = image.convert("RGBA")
        image, alpha = with_alpha.convert("RGB"), with_alpha.getchannel("A")
    elif image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    image.info = info
    return image, alpha


def _from_gray16(image: Any) -> tuple[Image.Image, Image.Image | None]:
    """All 65,536 grays scaled to 256. Pillow's own conversion cuts off what is above 255: a white picture."""
    import numpy as np  # noqa: PLC0415 - slow to load, and few pictures have 16 bits

    values = np.asarray(image).astype(np.uint32)
    gray = Image.fromarray(((np.minimum(values, 65535) + 128) // 257).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return gray, None
    return gray, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))


def _scale_colour_key(image: Any, bits: int) -> None:
    """A file names its transparent colour in its own bits, and Pillow has its pixels in 8."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif image.mode == "L" and isinstance(key, int) and bits in (2, 4):
        image.info["transparency"] = key * 255 // (2**bits - 1)


def _by_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, list[str]]:
    """The picture by its ICC profile; a profile that is broken, or of other colours, is left out as browsers do."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and _same_as_srgb(profile):
            return image, []
        if image.mode == "RGB" and source.profile.xcolor_space.strip() == "GRAY":
            image = image.convert("L")
        elif image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        return _transform(image, source), []
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB"), ["has a colour profile that cannot be used: its colours are taken as sRGB"]


def _transform(image: Image.Image, source: Any) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # not in place
    return converted


@lru_cache(maxsize=16)
def _same_as_srgb(profile: bytes) -> bool:
    """Return whether a profile leaves colours as they are: most are sRGB's, by many makers, under many names."""
    steps = [round(255 * step / 8) for step in range(9)]
    colours = Image.frombytes("RGB", (27, 27), bytes(value for colour in product(steps, repeat=3) for value in colour))
    converted = _transform(colours, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    extrema = ImageChops.difference(converted, colours).getextrema()
    return max(most for _, most in cast(tuple[tuple[int, int], ...], extrema)) <= 1


def _by_gamma(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """The picture by its gamma (PNG's chunk gAMA), where that is not sRGB's and nothing says that it is sRGB."""
    gamma = info.get("gamma")
    if not isinstance(gamma, float) or "srgb" in info or not 0.1 <= gamma <= 3 or abs(gamma - _SRGB_GAMMA) < _NEAR:
        return image
    exponent = _SRGB_GAMMA / gamma
    table = [round(255 * (value / 255) ** exponent) for value in range(256)]
    return image.point(table * 3)
