"""The groups of settings, each for one part of vgen. A field is ``VGEN_<GROUP>_<FIELD>``, or in the group's table."""

import ipaddress
import urllib.parse
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from pipeline.settings.base import Group

MEBIBYTE = 1024 * 1024


def _comma_separated(value: object) -> object:
    """Split a text at its commas; leave any other value to its field's own check."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class S3Settings(Group):
    """The S3-compatible store, if ``storage`` is an ``s3://`` URL. Unset keys come from boto3's own lookup."""

    endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible store; unset means AWS.")
    public_endpoint_url: str | None = Field(
        None, description="Endpoint in presigned URLs, for browsers outside the workers' network."
    )
    region: str | None = Field(
        None,
        description="Region used in signatures; unset means AWS_REGION, then boto3's own lookup "
        "(AWS_DEFAULT_REGION, the profile's in ~/.aws/config), else us-east-1.",
    )
    access_key_id: SecretStr | None = Field(None, description="Access key; unset means boto3's own lookup.")
    secret_access_key: SecretStr | None = Field(None, description="Secret key; unset means boto3's own lookup.")
    addressing_style: Literal["auto", "path", "virtual"] = Field("auto", description="Bucket in the path or the host.")
    checksum: Literal["SHA256", "CRC32", "none"] = Field(
        "none", description="Checksum algorithm sent with uploads; some stores refuse them."
    )
    multipart_threshold: int = Field(
        16 * MEBIBYTE, ge=5 * MEBIBYTE, description="Size in bytes from which files are uploaded in parts."
    )
    timeout_s: float = Field(20.0, gt=0, description="Connect and read timeout of one request.")


class FetchSettings(Group):
    """How submit downloads the inputs that a prompt file names by URL."""

    networks: Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], NoDecode] = Field(
        (), description="Private networks from which inputs may be downloaded, such as 10.1.0.0/16."
    )
    timeout_s: float = Field(30.0, gt=0, description="Timeout of one download, including redirects.")

    @field_validator("networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _comma_separated(value)


class EncodeSettings(Group):
    """How clips are encoded, unless a batch sets its own options."""

    codec: Literal["libx264", "libx264rgb", "libx265", "libsvtav1", "h264_nvenc", "hevc_nvenc"] = Field(
        "libx264", description="FFmpeg encoder."
    )
    quality: int = Field(18, ge=0, le=63, description="CRF (CQ for NVENC, QP for libx264rgb): lower is better.")
    preset: str = Field("superfast", description="Encoder speed preset.")
    threads: int = Field(2, ge=1, le=64, description="Encoder threads; the output of x264 depends on their number.")
    timeout_s: float = Field(600.0, gt=0, description="Time after which an encoder is killed.")


class EnhanceSettings(Group):
    """Prompt enhancement by OpenAI-compatible providers."""

    enabled: bool = Field(False, description="Enhance prompts, unless a line sets enhance.")
    providers: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="In priority order: cerebras, groq, openai, or name=base_url for any compatible server; "
        "each may end in #model, to use another model than `model`.",
    )
    model: str = Field(
        "gpt-oss-120b",
        description="Model to request; the default is openai/gpt-oss-120b for groq, and gpt-5-mini for openai.",
    )
    timeout_s: float = Field(20.0, gt=0, description="Timeout of one request.")
    temperature: float = Field(0.7, ge=0, le=2, description="Sampling temperature.")
    max_tokens: int = Field(
        2048,
        ge=1,
        description="Longest answer in tokens, including reasoning; an answer that is cut off is requested once more "
        "with four times as many.",
    )
    system_prompt_dir: Path | None = Field(
        None,
        description="Folder with enhance.txt, auto_extend.txt, rewrite.txt, write_window.txt and rewrite_window.txt; "
        "read again when a file changes.",
    )

    @field_validator("providers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _comma_separated(value)


class SafetySettings(Group):
    """Screening of prompts by a fastText classifier."""

    classifier: Path | None = Field(None, description="fastText model file; unset means prompts are not screened.")
    threshold: float = Field(
        0.5, ge=0, le=1, description="Lowest score of the label unsafe at which a prompt is unsafe."
    )
    policy: Literal["closed", "open", "hold"] = Field(
        "closed",
        description="closed: block unsafe prompts, and run nothing if the classifier fails; open: run then; hold: like "
        "closed, but unsafe prompts wait for approve or reject. Without a classifier it has no effect.",
    )


class EvalSettings(Group):
    """The models that score clips."""

    weights_dir: Path | None = Field(
        None,
        description="Folder of the evaluation models, by official file name or hub id; the hub cache is searched too.",
    )
    device: str = Field("cpu", description="Device of the evaluation models: cpu, cuda or cuda:1, as torch names it.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of matrix products: 16 bits are faster, but their scores are not comparable."
    )
    workers: Literal["cpu", "gpu"] = Field(
        "cpu", description="Workers that score the clips of runs with a model: cpu, or gpu while a GPU worker is alive."
    )
    clip_bytes: int = Field(
        4 * 1024 * MEBIBYTE, gt=0, description="Largest size of one clip's decoded frames, in bytes."
    )


class WorkerSettings(Group):
    """Leases, deadlines and caches of workers."""

    lease_s: float = Field(
        30.0, gt=0, description="Time without renewal after which a step is given to another worker."
    )
    renew_s: float = Field(5.0, gt=0, description="How often a running step's lease is renewed.")
    control_s: float = Field(1.0, gt=0, description="How often a running step checks for cancel and pause.")
    dispatch_s: float = Field(
        1.0, gt=0, description="How often the dispatcher polls for waiting steps, if nothing wakes it earlier."
    )
    reconcile_s: float = Field(
        5.0, gt=0, description="How often the reconciler looks for expired leases and lost messages."
    )
    grace_s: float = Field(25.0, ge=0, description="Time that a stopping worker has to finish or save its work.")
    affinity_s: float = Field(
        600.0,
        ge=0,
        description="Time after which a waiting preset takes a GPU that another preset has held for as long.",
    )
    silence_s: float = Field(
        120.0,
        gt=0,
        description="Time after which an idle worker restarts if it receives nothing although its queue has messages.",
    )
    window: int = Field(64, ge=1, description="Most steps in flight on each queue that is not a GPU queue.")
    visibility_timeout_s: int = Field(
        86_400,
        ge=60,
        description="Time after which Redis redelivers unacknowledged messages; must exceed the longest stage.",
    )
    load_deadline_s: float = Field(2400.0, gt=0, description="Deadline for loading and warming up a model.")
    checkpoint_s: float = Field(
        60.0, ge=0, description="How often a running clip is checkpointed; 0: only at a stop and after the last step."
    )
    read_ahead: bool = Field(
        True, description="While a clip is made, download the next one's inputs and encode its prompt."
    )
    growth_bytes: int = Field(
        16 * 1024 * MEBIBYTE,
        ge=0,
        description="Growth of a generator's process since its warm-up, in host or GPU memory, above which it is "
        "replaced between two clips; 0: never.",
    )
    host_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="Most bytes of host memory, for each GPU, for models that left the GPU; unset: half of the free "
        "memory, 0: none.",
    )
    lora_bytes: int = Field(2 * 1024 * MEBIBYTE, ge=0, description="Most bytes of LoRAs that stay in a loaded model.")
    lora_cache_bytes: int = Field(
        32 * 1024 * MEBIBYTE, ge=0, description="Most bytes of LoRA files in `cache_dir`; files in use do not count."
    )
    step_deadline_s: float = Field(600.0, gt=0, description="Deadline for one denoising step or the decoding.")


class ServeSettings(Group):
    """The HTTP server, `vgen serve`."""

    body_bytes: int = Field(
        48_000_000,
        ge=1,
        description="Longest body of a request without files (JSON, a plain form); a longer one is answered with 413.",
    )
    upload_bytes: int = Field(
        320 * MEBIBYTE,
        ge=1,
        description="Longest multipart form, including its files; a longer one is answered with 413.",
    )
    receive_s: float = Field(
        30.0, gt=0, description="Time without data, in the middle of a request, after which the answer is 408."
    )
    drain_s: float = Field(
        60.0, ge=0, description="How long a stopping server continues answers that it has begun, such as downloads."
    )
    redirect: bool = Field(
        False, description="Redirect downloads to the store's presigned URL, if that has another origin."
    )
    idempotency_h: float = Field(
        24.0, gt=0, description="Hours for which a request with the same Idempotency-Key gets the first one's answer."
    )
    public_pages: bool = Field(False, description="Let everyone read the pages, of every owner, without a key.")
    public_url: str | None = Field(
        None, description="Public URL of the pages of `vgen serve`; Flower and `vgen show` link to it."
    )
    flower_url: str | None = Field(
        None, description="Public URL of `vgen flower`; the pages of jobs and `vgen show` link to it."
    )

    @field_validator("public_url", "flower_url")
    @classmethod
    def _check_page(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urllib.parse.urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is not the URL of a site: use one such as https://clips.example.org")
        if parts.username or parts.password:
            raise ValueError("contains a user name or password, which every link would show: leave it out")
        return value.rstrip("/")


class StreamSettings(Group):
    """Streaming sessions."""

    gpu_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the live GPU workers that sessions may reserve, rounded up; 0: no sessions.",
    )
    sessions_per_owner: int = Field(4, ge=1, description="Most open sessions of one owner.")
    session_timeout_s: float = Field(
        300.0, gt=0, description="Time without a message from the client after which a session ends and frees its GPU."
    )
    chunks_url: SecretStr | None = Field(
        None,
        description="Redis (redis:// or rediss://) that carries live media from workers to servers on other hosts; "
        "unset: those send a segment when its clip is published.",
    )

    @field_validator("chunks_url", mode="after")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must begin with redis:// or rediss://")
        return value


class NightlySettings(Group):
    """The nightly evaluation, started by `vgen beat` or `vgen eval nightly`."""

    crontab: str = Field(
        "", description="When `vgen beat` starts it, as cron's five fields in UTC, such as `30 1 * * *`; empty: never."
    )
    preset: str | None = Field(None, description="Preset to evaluate; unset: the setting preset.")
    suite: Path | None = Field(
        None, description="Suite in the format of VBench_full_info.json; unset: vgen's own eighty prompts."
    )
    seeds: str = Field("1-2", description="Seeds of each prompt, such as 1-2.")
    repeat_seeds: str = Field(
        "",
        description="Seeds with which a regression is repeated before it raises an alarm; empty: it is not repeated.",
    )
    metrics: str = Field("checks,common,vbench", description="Metrics and groups, separated by commas.")
    margins: str = Field(
        "",
        description="Largest losses accepted, as NAME=VALUE in the metrics' units, and bounds on a likeness, as "
        "common.ssim>=0.98, separated by commas; only these gate.",
    )
    baseline: str | None = Field(
        None, description="Id of the run to compare with; unset: the median of the last five that passed."
    )


class SweepSettings(Group):
    """Deletion of unused files by `vgen sweep`, `vgen beat` and solo mode."""

    every_h: float = Field(24.0, gt=0, description="Hours between two sweeps, by `vgen beat` and in solo mode.")
    orphan_age_h: float = Field(
        24.0,
        ge=0,
        description="Hours after which an object that no row refers to is deleted; must exceed the longest step.",
    )
    checkpoint_age_h: float = Field(
        168.0,
        ge=0,
        description="Hours after which a failed job's checkpoints are deleted; a retry then starts from the beginning.",
    )


class RetentionSettings(Group):
    """How long the files and history of ended batches are kept. Unset means for ever."""

    days: float | None = Field(None, ge=0, description="Days that clips are kept after their batch ended.")
    history_days: float | None = Field(
        None,
        ge=0,
        description="Days that attempts and events are kept after their batch ended; events of no batch, such as those "
        "of keys and queues, are kept as long after they happened.",
    )
    sessions_days: float | None = Field(
        None, ge=0, description="Days that clips of a streaming session are kept after it ended; unset: as `days`."
    )
    inputs_days: float | None = Field(
        None, ge=0, description="Days that inputs are kept after the last batch that uses them ended."
    )
