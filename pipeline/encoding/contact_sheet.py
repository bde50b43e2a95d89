"""Draws a contact sheet: posters in rows, with their prompts, as one picture."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from PIL import Image, ImageDraw

from pipeline.encoding.fonts import Fonts
from pipeline.html.texts import visible

_TILE = (320, 180)
_GAP, _MARGIN, _LINES = 16, 24, 3
_MOST_COLUMNS = 5
_GROUND, _INK, _SOFT, _BAD, _FRAME = "#ffffff", "#1c2128", "#57606a", "#b3141f", "#101418"
_UNSPACED = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_WORDS = re.compile(rf"\s+|[{_UNSPACED}]|[^\s{_UNSPACED}]+")
"""Pieces between which a text may be broken: words, and single characters of scripts without spaces."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A clip on the sheet."""

    poster: Image.Image | None
    text: str
    note: str
    """A short line in a softer colour under the text."""
    missing: str = ""
    """Why there is no poster; shown in its place."""


def draw_sheet(heading: str, tiles: Sequence[Tile]) -> Image.Image:
    """Return the sheet; it is as wide and as high as its tiles need."""
    text, title = Fonts(15), Fonts(22)
    columns = max(1, min(_MOST_COLUMNS, ceil(sqrt(len(tiles)))))
    rows = ceil(len(tiles) / columns)
    tile_height = _TILE[1] + 6 + text.height * (_LINES + 1)
    top = _MARGIN + title.height + _GAP
    size = (2 * _MARGIN + columns * (_TILE[0] + _GAP) - _GAP, top + rows * (tile_height + _GAP) - _GAP + _MARGIN)
    sheet = Image.new("RGB", (size[0], max(size[1], top + _MARGIN)), _GROUND)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN), _fitting(visible(heading), title, size[0] - 2 * _MARGIN, 1)[0], title, _INK)
    for index, tile in enumerate(tiles):
        x = _MARGIN + index % columns * (_TILE[0] + _GAP)
        y = top + index // columns * (tile_height + _GAP)
        _draw_tile(sheet, draw, tile, (x, y), text)
    return sheet


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int], fonts: Fonts) -> None:
    x, y = at
    draw.rectangle((x, y, x + _TILE[0] - 1, y + _TILE[1] - 1), fill=_FRAME)
    if tile.poster is not None:
        poster = tile.poster.convert("RGB")
        scale = min(_TILE[0] / poster.width, _TILE[1] / poster.height)
        small = poster.resize((max(1, round(poster.width * scale)), max(1, round(poster.height * scale))))
        sheet.paste(small, (x + (_TILE[0] - small.width) // 2, y + (_TILE[1] - small.height) // 2))
    elif tile.missing:
        for number, line in enumerate(_fitting(visible(tile.missing), fonts, _TILE[0] - 24, 5)):
            _write(draw, (x + 12, y + 12 + number * fonts.height), line, fonts, "#ffb3ad")
    below = y + _TILE[1] + 6
    lines = _fitting(visible(tile.text), fonts, _TILE[0], _LINES)
    for number, line in enumerate(lines):
        _write(draw, (x, below + number * fonts.height), line, fonts, _INK)
    note = _fitting(visible(tile.note), fonts, _TILE[0], 1)
    colour = _SOFT if tile.poster is not None else _BAD
    _write(draw, (x, below + len(lines) * fonts.height), note[0] if note else "", fonts, colour)


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, fonts: Fonts, colour: str) -> None:
    x, y = float(at[0]), at[1]
    baseline = y + round(fonts.height * 0.75)
    for font, piece in fonts.runs(text):
        draw.text((x, baseline), piece, font=font, fill=colour, anchor="ls")
        x += font.getlength(piece)


def _fitting(text: str, fonts: Fonts, width: int, most: int) -> list[str]:
    """Break the text into at most that many lines; what does not fit is left out, and ``…`` says so."""
    lines = [""]
    for piece in _WORDS.findall(text[:2000]):
        joined = f"{lines[-1]} " if piece.isspace() else lines[-1] + piece
        if piece.isspace() or fonts.width(joined) <= width:
            lines[-1] = joined if joined.strip() else ""
        elif len(lines) == most:
            return [*lines[:-1], _cut(lines[-1] + piece, fonts, width)]
        else:
            lines.append(piece if fonts.width(piece) <= width else _cut(piece, fonts, width))
    return [line.rstrip() for line in lines]


def _cut(text: str, fonts: Fonts, width: int) -> str:
    while text and fonts.width(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
