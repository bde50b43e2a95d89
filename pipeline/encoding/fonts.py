"""Chooses fonts for text in pictures: for each character, an installed font that has it."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache

from PIL import ImageFont

from pipeline.errors import VgenError

Font = ImageFont.FreeTypeFont
_NO_CHARACTER = "\U0010fffe"
_MOST_QUESTIONS = 40
"""Characters for which fontconfig is asked for a font; each question takes a few milliseconds."""


class Fonts:
    """Fonts of one size: the machine's sans serif first, others as characters ask for them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._questions = 0
        self._fonts = [self._open(*place) for place in [_match("sans")] if place] or [_built_in(size)]
        self._by_character: dict[str, Font] = {}

    @property
    def height(self) -> int:
        """Pixels from one line of text to the next."""
        return round(self._size * 1.35)

    def runs(self, text: str) -> Iterator[tuple[Font, str]]:
        """Yield the text in pieces, each with a font that has its characters, or most of them."""
        start, font = 0, self._fonts[0]
        for at, character in enumerate(text):
            fitting = font if character.isspace() else self._font_of(character)
            if fitting is not font:
                if at > start:
                    yield font, text[start:at]
                start, font = at, fitting
        if start < len(text):
            yield font, text[start:]

    def width(self, text: str) -> float:
        return sum(font.getlength(piece) for font, piece in self.runs(text))

    def _font_of(self, character: str) -> Font:
        if character not in self._by_character:
            self._by_character[character] = self._search(character)
        return self._by_character[character]

    def _search(self, character: str) -> Font:
        for font in self._fonts:
            if _has(font, character):
                return font
        if self._questions < _MOST_QUESTIONS:
            self._questions += 1
            place = _match(f":charset={ord(character):x}")
            font = self._open(*place) if place else self._fonts[0]
            if _has(font, character):
                self._fonts.append(font)
                return font
        return self._fonts[0]

    def _open(self, path: str, index: int) -> Font:
        try:
            return ImageFont.truetype(path, self._size, index=index)
        except OSError:  # a font of pictures in one size, such as emoji, or a format that is not FreeType's
            return self._fonts[0] if hasattr(self, "_fonts") else _built_in(self._size)


def _built_in(size: int) -> Font:
    """Pillow's own font, which has Latin letters only."""
    font = ImageFont.load_default(size)
    if not isinstance(font, Font):
        raise VgenError("this Pillow was built without FreeType: text cannot be drawn")
    return font


def _has(font: Font, character: str) -> bool:
    """Whether the font draws the character otherwise than one that does not exist."""
    return bytes(font.getmask(character)) != _of_nothing(font)


@cache
def _of_nothing(font: Font) -> bytes:
    return bytes(font.getmask(_NO_CHARACTER))


@cache
def _match(pattern: str) -> tuple[str, int] | None:
    """File and index of the font that fontconfig has for a pattern; None without fontconfig."""
    program = shutil.which("fc-match")
    if program is None:
        return None
    command = [program, "--format", "%{file}\t%{index}", pattern]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    path, _, index = answer.stdout.partition("\t")
    return (path, int(index) & 0xFFFF) if answer.returncode == 0 and path and index.isdigit() else None
