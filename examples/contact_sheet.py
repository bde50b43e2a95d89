"""The clips of a solo run as one picture: ``python -m examples.contact_sheet vgen-home/storage/media docs/demo.jpg``.

A row is a clip: its prompt, and frames spread evenly from the first to the last. The prompts come from the sidecars.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import av
from PIL import Image, ImageDraw

FRAMES = 8
_GAP, _TEXT = 4, 16


def main() -> None:
    """Read the clips, paste their frames, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", type=Path, help="the store's folder of clips")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    rows = [row(title, video) for title, video in clips(asked.media)]
    sheet = Image.new("RGB", (max(one.width for one in rows), sum(one.height for one in rows)), "white")
    top = 0
    for one in rows:
        sheet.paste(one, (0, top))
        top += one.height
    sheet.save(asked.out, quality=88)


def clips(media: Path) -> Iterator[tuple[str, Path]]:
    """Each published clip with its title, job by job."""
    for sidecar in sorted(media.glob("*/*.json"), key=lambda path: path.parent.name):
        said = json.loads(sidecar.read_text("utf-8"))
        request = said["request"]
        prompts = request["segment_prompts"] or [request["prompt"]]
        notes = [f"not: {request['negative_prompt']}"] if request.get("negative_prompt") else []
        notes += ["from a picture"] if request.get("image") else []
        notes += [f"guidance {request['guidance_scale']:g}"]
        (video,) = (path for path in sidecar.parent.glob("*.mp4") if not path.name.endswith(".segment.mp4"))
        yield f"{' / '.join(prompts)}   ({', '.join(notes)})", video


def row(title: str, video: Path) -> Image.Image:
    """The title above the frames."""
    with av.open(str(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    chosen = [frames[round(index * (len(frames) - 1) / (FRAMES - 1))] for index in range(FRAMES)]
    width, height = chosen[0].size
    picture = Image.new("RGB", (FRAMES * (width + _GAP), height + _TEXT + _GAP), "white")
    ImageDraw.Draw(picture).text((0, 2), title, fill="black")
    for index, frame in enumerate(chosen):
        picture.paste(frame, (index * (width + _GAP), _TEXT))
    return picture


if __name__ == "__main__":
    main()
