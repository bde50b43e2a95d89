"""The pictures of README.md and docs/, made of a real run: python -m examples.pictures [--home HOME]

Without --home it runs `vgen run examples/prompts.txt` in a new home first, with the demo's preset. A home that is given
is used as it is, with its latest batch. Needs Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
_LARGEST = 1_000_000
"""Bytes of all pictures: everybody who clones the repository downloads them."""
_BROWSER = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=8000"),
)
_LIMIT_S = 1800


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="a home with a finished batch, in place of a new run of the demo")
    home: Path | None = parser.parse_args().home
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.stderr.write("pictures: Chromium is not on this machine\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="vgen-pictures-") as folder:
        scratch = Path(folder)
        environment = {**os.environ, "VGEN_HOME": str(home.absolute() if home else scratch / "home")}
        if home is None:
            _vgen(environment, "run", str(ROOT / "examples" / "prompts.txt"))
        _vgen(environment, "gallery", "-o", str(scratch / "wall"))
        _vgen(environment, "gallery", "--sheet", str(scratch / "sheet.png"))
        _vgen(environment, "report", "--html", str(scratch / "report.html"))
        PICTURES.mkdir(exist_ok=True)
        wall = (scratch / "wall" / "index.html").as_uri()
        _photograph(browser, scratch, wall, PICTURES / "wall.webp", (1280, 800))
        _photograph(browser, scratch, wall, PICTURES / "wall-dark.webp", (1280, 800), "--force-dark-mode")
        _photograph(browser, scratch, (scratch / "report.html").as_uri(), PICTURES / "report.webp", (1280, 900))
        _convert(scratch / "sheet.png", PICTURES / "sheet.webp")
    sizes = {path.name: path.stat().st_size for path in sorted(PICTURES.iterdir())}
    sys.stdout.write("".join(f"{name}\t{size}\n" for name, size in sizes.items()))
    if sum(sizes.values()) > _LARGEST:
        sys.stderr.write(f"pictures: {sum(sizes.values())} bytes together, more than {_LARGEST}\n")
        return 1
    return 0


def _vgen(environment: Mapping[str, str], *arguments: str) -> None:
    command = (sys.executable, "-P", "-m", "cli.main", *arguments)
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=_LIMIT_S)


def _photograph(browser: str, scratch: Path, url: str, path: Path, size: tuple[int, int], *options: str) -> None:
    """Open a page in a browser of its own, and keep what its window shows."""
    shot = scratch / f"{path.stem}.png"
    window = f"--window-size={size[0]},{size[1]}"
    profile = f"--user-data-dir={scratch / f'profile-{path.stem}'}"
    command = (browser, *_BROWSER, *options, profile, window, f"--screenshot={shot}", url)
    subprocess.run(command, check=True, timeout=_LIMIT_S, capture_output=True)
    _convert(shot, path)


def _convert(picture: Path, path: Path) -> None:
    with Image.open(picture) as opened:
        opened.convert("RGB").save(path, "WEBP", quality=82, method=6)


if __name__ == "__main__":
    sys.exit(main())
