"""FFmpeg's arguments for each codec, and the rules for their options."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import RefusedError
from pipeline.rates import rational_fps  # noqa: F401 - what encodes looks for it here
from pipeline.spec import EncodeOptions

SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
"""The speed presets of x264 and x265; the other encoders' own are reached by the same names."""

_SVT_PRESETS = dict(zip(SPEEDS, (12, 11, 10, 9, 8, 6, 4, 3, 2, 0), strict=True))
_NVENC_PRESETS = dict(zip(SPEEDS, ("p1", "p1", "p2", "p3", "p3", "p4", "p5", "p6", "p7", "p7"), strict=True))
_SVT_SLOWEST, _SVT_FASTEST = 0, 13

_TO_YUV420P = (
    # accurate_rnd and bitexact make the conversion independent of the processor's vector instructions.
    "scale=in_range=pc:out_range=tv:out_color_matrix=bt709:flags=bicubic+accurate_rnd+full_chroma_int+bitexact,"
    "format=yuv420p,setparams=range=tv:color_primaries=bt709:color_trc=bt709:colorspace=bt709"
)
_AS_RGB = "format=rgb24,setparams=range=pc:color_primaries=bt709:color_trc=bt709:colorspace=gbr"


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoder: its highest quality number, and how its options are written."""

    max_quality: int
    arguments: Callable[[EncodeOptions], list[str]]
    presets: tuple[str, ...] = SPEEDS
    rgb: bool = False
    """Keeps RGB as it is; every other codec takes 4:2:0, which needs even sides."""

    @property
    def filters(self) -> str:
        return _AS_RGB if self.rgb else _TO_YUV420P


def _x264(options: EncodeOptions) -> list[str]:
    return ["-preset", options.preset, "-crf", str(options.quality), "-threads", str(options.threads)]


def _x264rgb(options: EncodeOptions) -> list[str]:
    return ["-preset", options.preset, "-qp", str(options.quality), "-threads", str(options.threads)]


def _x265(options: EncodeOptions) -> list[str]:
    # info=0: x265 otherwise writes the processor's features and its thread pools into the stream.
    params = f"log-level=error:info=0:pools={options.threads}"
    return [*_x264(options), "-x265-params", params, "-tag:v", "hvc1"]


def _svt_av1(options: EncodeOptions) -> list[str]:
    preset = _SVT_PRESETS.get(options.preset, options.preset)
    return ["-preset", str(preset), "-crf", str(options.quality), "-svtav1-params", f"lp={options.threads}"]


def _nvenc(options: EncodeOptions) -> list[str]:
    preset = _NVENC_PRESETS.get(options.preset, options.preset)
    return ["-preset", preset, "-rc", "vbr", "-cq", str(options.quality), "-b:v", "0"]


def _hevc_nvenc(options: EncodeOptions) -> list[str]:
    return [*_nvenc(options), "-tag:v", "hvc1"]


_P = tuple(f"p{n}" for n in range(1, 8))
CODECS: dict[str, Codec] = {
    "libx264": Codec(51, _x264),
    "libx264rgb": Codec(51, _x264rgb, rgb=True),
    "libx265": Codec(51, _x265),
    "libsvtav1": Codec(63, _svt_av1, presets=SPEEDS + tuple(str(n) for n in range(_SVT_SLOWEST, _SVT_FASTEST + 1))),
    "h264_nvenc": Codec(51, _nvenc, presets=SPEEDS + _P),
    "hevc_nvenc": Codec(51, _hevc_nvenc, presets=SPEEDS + _P),
}
"""Every codec that can be asked for, by FFmpeg's name of the encoder; quality ranges are the encoders' own."""


def codec_of(options: EncodeOptions, width: int, height: int) -> Codec:
    """The codec asked for, once its options and the size (pixels) are known to be possible.

    Raises:
        RefusedError: code ``encoder_missing`` (vgen knows no such codec) or ``encode_options``.
    """
    codec = CODECS.get(options.codec)
    if codec is None:
        raise RefusedError(
            f"encode.codec: {options.codec!r} is unknown; known: {', '.join(CODECS)}", code="encoder_missing"
        )
    if not 0 <= options.quality <= codec.max_quality:
        raise RefusedError(
            f"encode.quality: {options.quality} is outside 0 to {codec.max_quality} of {options.codec}",
            code="encode_options",
        )
    if options.preset not in codec.presets:
        raise RefusedError(
            f"encode.preset: {options.preset!r} is unknown to {options.codec}; known: {', '.join(codec.presets)}",
            code="encode_options",
        )
    if not codec.rgb and (width % 2 or height % 2):
        raise RefusedError(
            f"size: {width}x{height} has an odd side, and yuv420p needs even ones; libx264rgb takes any size",
            code="encode_options",
        )
    return codec
