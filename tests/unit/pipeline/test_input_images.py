"""Input images come out as viewers show them, and what a clip would not have of them is said or refused."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.errors import RefusedError
from pipeline.generators.base import GenerationRequest
from pipeline.generators.input_pictures import read_pictures
from pipeline.inputs.collector import InputCollector
from pipeline.inputs.images import fitted, read_image
from pipeline.spec import JobSpec

WHITE = "is transparent in parts: they are shown on white"


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return data[:33] + chunk(kind, body) + data[33:]


def shown(data: bytes) -> tuple[Any, tuple[str, ...]]:
    picture = read_image(data, "a")
    assert picture.image.mode == "RGB"
    return np.asarray(picture.image).astype(int), picture.notes


RAMP = np.linspace(0, 65535, 32 * 24).astype(np.uint16).reshape(24, 32)
NOISE = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
RED = Image.new("RGB", (32, 24), (200, 30, 40))


def hidden_noise(mode: str, form: str = "PNG", **options: Any) -> bytes:
    """Noise below pixels of no opacity; the left half is opaque black."""
    alpha = np.zeros((24, 32, 1), np.uint8)
    alpha[:, :16] = 255
    colours = NOISE.copy()
    colours[:, :16] = 0
    image = Image.fromarray(np.concatenate([colours, alpha], axis=2))
    return saved(image.convert(mode), form, **options)


def palette_with_transparency() -> bytes:
    image = Image.fromarray(np.repeat(np.arange(32, dtype=np.uint8)[None] // 16, 24, axis=0), "L").convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    return saved(image, transparency=1)


def colour_key() -> bytes:
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:, 16:] = (1, 2, 3)
    return saved(Image.fromarray(pixels), transparency=(1, 2, 3))


@pytest.mark.parametrize(
    "data",
    [
        hidden_noise("RGBA"),
        hidden_noise("LA"),
        hidden_noise("RGBA", "WEBP", lossless=True, exact=True),
        palette_with_transparency(),
        colour_key(),
    ],
)
def test_what_is_transparent_is_white_and_said(data: bytes) -> None:
    pixels, notes = shown(data)
    assert (pixels[:, 16:] == 255).all()
    assert (pixels[:, :16] == 0).all()
    assert notes == (WHITE,)


def test_half_transparent_pixels_are_mixed_and_opaque_ones_not_mentioned() -> None:
    pixels, _ = shown(saved(Image.new("RGBA", (8, 8), (0, 100, 200, 128))))
    assert np.abs(pixels[0, 0] - (127, 177, 227)).max() <= 1
    pixels, notes = shown(saved(Image.new("RGBA", (8, 8), (0, 100, 200, 255))))
    assert pixels[0, 0].tolist() == [0, 100, 200]
    assert notes == ()


def test_sixteen_bits_of_gray_keep_their_range() -> None:
    pixels, notes = shown(saved(Image.fromarray(RAMP)))
    assert np.abs(pixels[..., 0] - RAMP / 257).max() <= 0.5
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert notes == ()


def test_a_transparent_gray_of_sixteen_bits_is_white() -> None:
    flat = np.full((24, 32), 1000, np.uint16)
    flat[:, 16:] = 2000
    pixels, notes = shown(with_chunk(saved(Image.fromarray(flat)), b"tRNS", struct.pack(">H", 2000)))
    assert (pixels[:, 16:] == 255).all()
    assert (pixels[:, :16] == 4).all()
    assert notes == (WHITE,)


def raw_png(bits: int, kind: int, rows: bytes, *, key: bytes = b"") -> bytes:
    """A PNG 8 pixels wide and one high, with the chunk tRNS where ``key`` is given."""
    header = struct.pack(">IIBBBBB", 8, 1, bits, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" + rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + (parts[0] + chunk(b"tRNS", key) + parts[1] + parts[2] if key else b"".join(parts))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_gray_of_any_depth_is_white(bits: int) -> None:
    most = 2**bits - 1
    half = 4 * bits // 8 if bits >= 2 else 0
    rows = bytes(half) + b"\xff" * half if half else b"\x0f"
    pixels, notes = shown(raw_png(bits, 0, rows, key=struct.pack(">H", 0)))
    assert (pixels == 255).all()
    assert notes == (WHITE,)
    pixels, notes = shown(raw_png(bits, 0, bytes(len(rows)), key=struct.pack(">H", most)))
    assert (pixels == 0).all()
    assert notes == ()


def test_a_transparent_colour_is_compared_in_the_bits_of_the_file() -> None:
    dark = (0x1400, 0x0A00, 0x0500)
    rows = struct.pack(">24H", *(dark * 8))
    assert shown(raw_png(16, 2, rows, key=struct.pack(">HHH", *dark)))[1] == (WHITE,)
    pixels, notes = shown(raw_png(16, 2, rows, key=struct.pack(">HHH", 0x14, 0x0A, 0x05)))
    assert (pixels == (0x14, 0x0A, 0x05)).all()
    assert notes == ()


def test_exif_data_in_very_many_parts_are_refused() -> None:
    part = b"\xff\xe1" + struct.pack(">H", 9) + b"Exif\0\0x"
    data = saved(RED, "JPEG")
    shown(data[:2] + part * 10 + data[2:])
    with pytest.raises(ValueError, match="'a' has EXIF data in more than 1000 parts"):
        read_image(data[:2] + part * 1001 + data[2:], "a")


def test_what_is_wrong_is_always_named() -> None:
    with pytest.raises(ValueError, match=r"'a' is broken or truncated: \w"):
        read_image(raw_png(8, 3, bytes(8)), "a")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_common_modes_are_as_they_were(mode: str) -> None:
    image = Image.fromarray(NOISE).convert(mode)
    pixels, notes = shown(saved(image))
    assert (pixels == np.asarray(image.convert("RGB"))).all()
    assert notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_as_their_exif_data_say(form: str, orientation: int) -> None:
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 16, 8))  # one corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, _ = shown(saved(image, form, exif=exif.tobytes()))
    turned = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    assert pixels.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    corner = pixels[0 if turned[0] == "t" else -1, 0 if turned[1] == "l" else -1]
    assert corner.min() > 200


def test_broken_exif_data_are_said() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\xff\xff\xff\xff" * 4
    pixels, notes = shown(saved(RED, "JPEG", exif=exif))
    assert np.abs(pixels[0, 0] - (200, 30, 40)).max() < 6
    assert all("EXIF data" in note for note in notes)


def adobe_rgb() -> bytes:
    """An RGB profile of wider primaries and a plain gamma of 2.2, made as one of display P3 would be."""

    def tag(kind: bytes, *values: float) -> bytes:
        return kind + bytes(4) + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    text = b"text" + bytes(4) + b"wide\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide\0" + bytes(78)
    tags = {
        b"desc": name, b"cprt": text, b"wtpt": tag(b"XYZ ", 0.9642, 1, 0.8249),
        b"rXYZ": tag(b"XYZ ", 0.6097, 0.3111, 0.0195), b"gXYZ": tag(b"XYZ ", 0.2053, 0.6257, 0.0609),
        b"bXYZ": tag(b"XYZ ", 0.1492, 0.0632, 0.7446), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, place = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", place + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(
        ">I4s4s4s4s4s12s4s", 0, b"\0\0\0\0", b"\x02\x40\0\0", b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp"
    )
    head += bytes(28) + struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    whole = head + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_colours_come_by_their_profile(form: str) -> None:
    options = {"quality": 100} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    colour = Image.new("RGB", (16, 16), (100, 180, 60))
    plain, _ = shown(saved(colour, form, **options))
    pixels, notes = shown(saved(colour, form, icc_profile=adobe_rgb(), **options))
    # Wider primaries: the same numbers are a stronger green in sRGB.
    assert pixels[0, 0, 0] < plain[0, 0, 0] - 20
    assert notes == ()


def test_an_srgb_profile_and_a_broken_one_change_nothing() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels, notes = shown(saved(Image.fromarray(NOISE), icc_profile=srgb))
    assert (pixels == NOISE).all()
    assert notes == ()
    for broken in (b"no profile", srgb[:200], adobe_rgb()[:150]):
        pixels, notes = shown(saved(Image.fromarray(NOISE), icc_profile=broken))
        assert (pixels == NOISE).all()
        assert notes == ("has a colour profile that cannot be used: its colours are taken as sRGB",)


def test_a_profile_acts_below_transparency_and_on_gray() -> None:
    opaque, _ = shown(saved(Image.new("RGB", (16, 16), (100, 180, 60)), icc_profile=adobe_rgb()))
    pixels, notes = shown(saved(Image.new("RGBA", (16, 16), (100, 180, 60, 255)), icc_profile=adobe_rgb()))
    assert (pixels == opaque).all()
    gray, notes = shown(saved(Image.new("L", (16, 16), 100), icc_profile=adobe_rgb()))
    assert np.ptp(gray[0, 0]) <= 1
    assert notes == ()


def test_cmyk_is_close_and_said() -> None:
    data = saved(Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK"), "JPEG", quality=100)
    pixels, notes = shown(data)
    assert pixels[0, 0, 0] > 240
    assert pixels[0, 0, 1] < 15
    assert notes == ("has CMYK colours without a profile: they are only roughly right",)


def test_gamma_acts_unless_it_is_srgbs() -> None:
    data = saved(Image.new("L", (8, 8), 64))
    for gamma, value in ((45455, 64), (45000, 64), (100000, 136)):
        pixels, _ = shown(with_chunk(data, b"gAMA", struct.pack(">I", gamma)))
        assert abs(pixels[0, 0, 0] - value) <= 1, gamma
    both = with_chunk(with_chunk(data, b"gAMA", struct.pack(">I", 100000)), b"sRGB", b"\0")
    assert shown(both)[0][0, 0, 0] == 64


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_pictures_are_refused(transfer: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"HDR picture \({name}\)"):
        read_image(with_chunk(saved(RED), b"cICP", bytes([9, transfer, 0, 1])), "a")


def test_wide_colours_without_a_profile_are_said() -> None:
    _, notes = shown(with_chunk(saved(RED), b"cICP", bytes([12, 13, 0, 1])))
    assert "cICP" in notes[0]
    assert shown(with_chunk(saved(RED), b"cICP", bytes([1, 13, 0, 1])))[1] == ()


def test_a_photo_with_further_pictures_behind_it_is_the_photo() -> None:
    data = saved(RED, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 12), "blue")])
    picture = read_image(data, "IMG_1.jpg")
    assert picture.media_type == "image/jpeg"
    assert picture.image.size == (32, 24)
    assert picture.image.getpixel((5, 5))[0] > 150  # type: ignore[index]
    assert picture.notes == ()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_used_and_said(form: str) -> None:
    data = saved(
        RED, form, save_all=True, append_images=[Image.new("RGB", (32, 24), colour) for colour in ("blue", "lime")]
    )
    pixels, notes = shown(data)
    assert np.abs(pixels[3, 3] - (200, 30, 40)).max() < 6
    assert notes == ("is animated: the first of its 3 pictures is used",)


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"GIF89a", "GIF"),
        (b"II*\0", "TIFF or camera raw"),
        (b"BM", "BMP"),
        (b"%PDF-1.7", "PDF"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
def test_other_formats_are_refused_with_a_hint(beginning: bytes, kind: str) -> None:
    with pytest.raises(ValueError, match=f"is not a PNG, JPEG or WebP image; it looks like .*{kind}.*: save a copy"):
        read_image(beginning + bytes(200), "a.jpg")


def text_bomb(kind: bytes, head: bytes) -> bytes:
    return with_chunk(saved(RED), kind, head + zlib.compress(bytes(16 * 1024 * 1024)))


BOMBS: dict[str, Callable[[], bytes]] = {
    "zTXt": lambda: text_bomb(b"zTXt", b"Comment\0\0"),
    "iTXt": lambda: text_bomb(b"iTXt", b"Comment\0\1\0\0\0"),
    "iCCP": lambda: text_bomb(b"iCCP", b"icc\0\0"),
    "chunks": lambda: saved(RED)[:33] + chunk(b"prIv", b"") * 200_000 + saved(RED)[33:],
    "scans": lambda: (
        saved(Image.new("L", (6000, 6000)), "JPEG")[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 1000 + b"\xff\xd9"
    ),
    "pixels": lambda: saved(RED)[:16] + struct.pack(">II", 50_000, 50_000) + saved(RED)[24:],
    "bytes": lambda: bytes(33 * 1024 * 1024),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_would_become_large_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="'a' "):
        read_image(BOMBS[kind](), "a")


def spec(width: int = 32, height: int = 24) -> JobSpec:
    return JobSpec(
        prompt="p", seed=1, preset="x", width=width, height=height, num_frames=1, fps=8, num_inference_steps=1,
        guidance_scale=1,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_pictures_are_refused_at_submit_and_on_the_worker_alike(tmp_path: Path, form: str, seed: int) -> None:
    """One code reads them: what passes at submit passes on the worker, and nothing but ValueError comes out."""
    random = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(saved(Image.fromarray(NOISE), form, exif=exif.tobytes(), icc_profile=adobe_rgb()))
    for place in random.integers(0, len(data), 6):
        data[place] = random.integers(0, 256)
    path = tmp_path / "a.img"
    path.write_bytes(data[: len(data) - int(random.integers(0, 40))])
    request = GenerationRequest(spec=spec(), prompt="p", frames_path=tmp_path / "f", image=path)
    try:
        InputCollector(tmp_path).resolve("a.img")
    except ValueError:
        with pytest.raises(RefusedError, match="image: cannot be read"):
            read_pictures(request)
    else:
        assert read_pictures(request)["image"].size == (32, 24)


def test_a_picture_that_grew_on_the_worker_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        shutil.copyfileobj(io.BytesIO(saved(RED)), file)
        file.truncate(40 * 1024 * 1024)
    with pytest.raises(RefusedError, match="larger than 32 MB"):
        read_pictures(GenerationRequest(spec=spec(), prompt="p", frames_path=tmp_path / "f", image=path))


def test_pixels_that_are_not_square_are_fitted_as_they_are_shown() -> None:
    image = Image.new("RGB", (40, 40), "black")
    image.paste("white", (10, 0, 30, 40))  # shown at half the width, the middle 20 of 20×40
    wide = np.asarray(fitted(image, (16, 16), 0.5))[..., 0]
    square = np.asarray(fitted(image.resize((20, 40)), (16, 16)))[..., 0]
    assert np.abs(wide.astype(int) - square).mean() < 8
    assert fitted(image, (16, 16)).tobytes() == fitted(image, (16, 16), 1.0).tobytes()
