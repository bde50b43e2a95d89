"""OpenAI's Python library against a server: its part of the contract, whichever version this process has.

Run with that version on PYTHONPATH and the server's address as the only argument. It imports nothing of vgen.
"""

import asyncio
import base64
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, get_origin

import openai

SMALL: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 1}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def ended(client: openai.OpenAI, video_id: str) -> Any:
    while (video := client.videos.retrieve(video_id)).status in ("queued", "in_progress"):
        time.sleep(0.2)
    return video


def create(client: openai.OpenAI, **more: Any) -> Any:
    extra = {**SMALL, **more.pop("extra_body", {})}
    return client.videos.create(prompt="a fox", model="idle", size="32x32", extra_body=extra, **more)


def check_objects(url: str) -> None:
    """Every answer passes the library's strict validation, unless that knows OpenAI's own models alone."""
    only_own_models = get_origin(openai.types.Video.model_fields["model"].annotation) is Literal
    client = openai.OpenAI(base_url=url, api_key="fake-api-key", _strict_response_validation=not only_own_models)
    large = {"num_frames": 1, "seed": 3}
    video = client.videos.create(
        prompt="a fox", model="idle", size="1280x720", extra_body={**large, "num_inference_steps": 1}
    )
    assert video.status in ("queued", "in_progress"), video
    video = ended(client, video.id)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.seconds, video.size) == ("0.125", "1280x720")
    assert video.model_extra["seed"] == 3


def check_calls(client: openai.OpenAI) -> None:
    nested = {"extra_body": {"negative_prompt": "rain"}, "metadata": {"shoot": "1"}, "enhance": False}
    first = ended(client, create(client, extra_body=nested).id)
    for variant, start in (("video", b"ftyp"), ("thumbnail", b"\xff\xd8"), ("spritesheet", b"\xff\xd8")):
        content = client.videos.download_content(first.id, variant=variant).read()
        assert start in content[:16], variant
    remixed = client.videos.remix(first.id, prompt="a wolf")
    assert remixed.remixed_from_video_id == first.id
    raw = client.videos.with_raw_response.retrieve(create(client, extra_body={"num_inference_steps": 50}).id)
    assert int(raw.headers["openai-poll-after-ms"]) >= 1000
    running = raw.parse()
    assert client.videos.delete(running.id).deleted is True
    if hasattr(client.videos, "create_and_poll"):
        polled = client.videos.create_and_poll(prompt="x", model="idle", size="32x32", extra_body=SMALL)
        assert polled.status == "completed"


def check_pages(client: openai.OpenAI) -> None:
    made = [create(client).id for _ in range(5)]
    listed = [video.id for video in client.videos.list(limit=2)]
    assert [video for video in listed if video in made] == made[::-1]
    assert len(set(listed)) == len(listed) >= 5


def refusal(kind: type[openai.APIStatusError], call: Callable[[], object]) -> openai.APIStatusError:
    """The error that a call ends with."""
    try:
        result = call()
    except kind as error:
        return error
    raise AssertionError(f"it was accepted: {result}")


def check_errors(client: openai.OpenAI) -> None:
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"extra_body": {"fsp": 1}}, "fsp", "unknown_parameter"),
        ({"extra_body": {"loras": [{"scale": 1}, {"scale": 2}]}}, "loras", "invalid_value"),
        ({"seconds": "9999", "extra_body": {"num_frames": None}}, "seconds", "invalid_value"),
        ({"input_reference": ("a.png", b"not a picture", "image/png")}, "input_reference", "invalid_value"),
        # A picture of one pixel is read, and found to be no start of a clip of this preset, which takes none.
        ({"input_reference": PNG}, "input_reference", "invalid_value"),
    ]
    for fields, param, code in wrong:
        error = refusal(openai.BadRequestError, lambda fields=fields: create(client, **fields))  # type: ignore[misc]
        assert (error.param, error.code) == (param, code), error
        assert error.request_id
    error = refusal(openai.NotFoundError, lambda: client.videos.retrieve("video_none"))
    assert error.code == "video_not_found"
    running = create(client, extra_body={"num_inference_steps": 50})
    error = refusal(openai.BadRequestError, lambda: client.videos.download_content(running.id))
    assert error.code == "video_not_ready"
    assert error.response.request.headers["x-stainless-retry-count"] == "0"
    client.videos.delete(running.id)


def check_files(client: openai.OpenAI) -> None:
    """Videos are uploaded where a version of the library can."""
    finished = next(video for video in client.videos.list(limit=50) if video.status == "completed")
    if not hasattr(client.videos, "extend"):
        return
    video = ("a.mp4", client.videos.download_content(finished.id).read())
    error = refusal(openai.BadRequestError, lambda: client.videos.extend(prompt="on", video=video, seconds="1"))
    assert error.code == "unsupported_video"
    error = refusal(openai.BadRequestError, lambda: client.videos.edit(prompt="on", video=video))
    assert (error.code, error.param) == ("invalid_value", "model")


async def check_async(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="fake") as client:
        videos = await asyncio.gather(
            *(client.videos.create(prompt=f"{n}", model="idle", size="32x32", extra_body=SMALL) for n in range(4))
        )
        assert len({video.id for video in videos}) == 4


def main(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="fake-api-key")
    check_objects(url)
    check_calls(client)
    check_pages(client)
    check_errors(client)
    check_files(client)
    asyncio.run(check_async(url))
    sys.stdout.write(f"openai {openai.__version__}: ok\n")


if __name__ == "__main__":
    main(sys.argv[1])
