"""Runs the official functions of the `vbench` wheel on the stored clips with the tiny weights: writes scores.json.

Not part of vgen: run it in an environment of its own with ``vbench==0.1.5 openai-clip decord opencv-python-headless
timm pyiqa einops easydict omegaconf scipy pytorch-msssim torchvision torch`` and a checkout of facebookresearch/dino:

    python make_oracle.py --work /tmp/oracle --dino /path/to/dino

Shims: torchvision is loaded without its compiled operators, ``pkg_resources.packaging`` is provided where setuptools no
longer has it, tokenizers read the tiny vocabulary, and the ViCLIP and UMT constructors get the tiny sizes. Models,
pre-processing, decoding and formulas are the official ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import tiny_weights  # noqa: E402

PROMPTS = (
    "a person is riding a bike",
    "The bike's rider, again & again: 3 cats on 2 tables -- café &amp; more",
    "an oil painting of a lighthouse in the storm, " * 6,
    "in super slow motion",
)
"""Prompt of clip i: ``PROMPTS[i % 4]``; the third is cut at 32 tokens (ViCLIP) and by CLIP not at all."""
STYLES = ("Van Gogh style", "in cyberpunk", "black and white", "the bike's café style")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dino", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    files = given.work / "weights"
    tiny_weights.write_all(files)
    shim(given.work, files)
    clips = sorted((HERE / "clips").glob("*.mp4"))
    target = HERE / "scores.json"
    stored: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {"dimensions": {}}
    stored["prompts"] = {clip.stem: PROMPTS[i % 4] for i, clip in enumerate(clips)}
    stored["styles"] = {clip.stem: STYLES[i % 4] for i, clip in enumerate(clips)}
    makers: dict[str, Callable[[], Callable[[Path], Any]]] = {
        "temporal_flickering": flickering,
        "subject_consistency": lambda: subject(files, given.dino),
        "background_consistency": lambda: background(files),
        "aesthetic_quality": lambda: aesthetic(files),
        "appearance_style": lambda: appearance(files, stored["styles"]),
        "overall_consistency": lambda: overall(files, stored["prompts"], "overall_consistency"),
        "temporal_style": lambda: overall(files, stored["prompts"], "temporal_style"),
        "human_action": lambda: action(files, given.work),
        "dynamic_degree": lambda: dynamic(files),
        "static_filter": lambda: static(files),
        "imaging_quality": lambda: imaging(files),
        "reversed": similarity,
    }
    for name in given.only or makers:
        score = makers[name]()
        found: dict[str, Any] = {}
        for clip in clips:
            try:
                found[clip.stem] = score(clip)
            except Exception as error:  # noqa: BLE001 - what it cannot score is a result
                found[clip.stem] = {"error": f"{type(error).__name__}: {error}"}
            if "nan" in str(found[clip.stem]):
                found[clip.stem] = {"error": "not a number"}
            print(name, clip.stem, found[clip.stem], flush=True)
        stored["dimensions"][name] = found
        target.write_text(json.dumps(stored, indent=1, sort_keys=True, allow_nan=False) + "\n")


def shim(work: Path, files: Path) -> None:
    os.environ["VBENCH_CACHE_DIR"] = str(work / "cache")
    (work / "cache/ViCLIP").mkdir(parents=True, exist_ok=True)
    shutil.copy(files / "bpe_simple_vocab_16e6.txt.gz", work / "cache/ViCLIP")
    # Its compiled operators do not load beside a CPU torch; only its transforms are wanted.
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    try:
        from pkg_resources import packaging  # noqa: PLC0415
    except ImportError:
        import packaging.version  # noqa: PLC0415

        fake = types.ModuleType("pkg_resources")
        fake.packaging = packaging  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = fake
    if importlib.util.find_spec("numpy.lib.function_base") is None:
        old = types.ModuleType("numpy.lib.function_base")
        old.disp = print  # type: ignore[attr-defined]  # imported by UMT's data sets, never called
        sys.modules["numpy.lib.function_base"] = old
    import clip.clip  # noqa: PLC0415
    from clip.simple_tokenizer import SimpleTokenizer  # noqa: PLC0415

    clip.clip._tokenizer = SimpleTokenizer(str(files / "bpe_simple_vocab_16e6.txt.gz"))


def per_video(result: tuple[Any, list[dict[str, Any]]]) -> float:
    return float(result[1][0]["video_results"])


def flickering() -> Callable[[Path], Any]:
    from vbench.temporal_flickering import temporal_flickering  # noqa: PLC0415

    return lambda clip: per_video(temporal_flickering([str(clip)]))


def subject(files: Path, dino: Path) -> Callable[[Path], Any]:
    sys.path.insert(0, str(dino))
    from functools import partial  # noqa: PLC0415

    from vbench.subject_consistency import subject_consistency  # noqa: PLC0415
    from vision_transformer import VisionTransformer  # noqa: PLC0415

    model = VisionTransformer(
        patch_size=16, embed_dim=128, depth=2, num_heads=2, mlp_ratio=4, qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), num_classes=0,
    )  # fmt: skip
    model.load_state_dict(torch.load(files / "dino_vitbase16_pretrain.pth"), strict=True)
    model.eval()
    return lambda clip: per_video(subject_consistency(model, [str(clip)], "cpu", False))


def background(files: Path) -> Callable[[Path], Any]:
    import clip as openai  # noqa: PLC0415
    from vbench.background_consistency import background_consistency  # noqa: PLC0415

    model, preprocess = openai.load(str(files / "ViT-B-32.pt"), device="cpu")
    return lambda clip: per_video(background_consistency(model, preprocess, [str(clip)], "cpu", False))


def aesthetic(files: Path) -> Callable[[Path], Any]:
    import clip as openai  # noqa: PLC0415
    from vbench.aesthetic_quality import get_aesthetic_model, laion_aesthetic  # noqa: PLC0415

    model, _ = openai.load(str(files / "ViT-L-14.pt"), device="cpu")
    head = get_aesthetic_model(str(files))
    return lambda clip: per_video(laion_aesthetic(head, model, [str(clip)], "cpu"))


def appearance(files: Path, styles: dict[str, str]) -> Callable[[Path], Any]:
    import clip as openai  # noqa: PLC0415
    from vbench.appearance_style import appearance_style  # noqa: PLC0415

    model, _ = openai.load(str(files / "ViT-B-32.pt"), device="cpu")

    def score(clip: Path) -> float:
        info = {"auxiliary_info": {"appearance_style": styles[clip.stem]}, "video_list": [str(clip)]}
        return per_video(appearance_style(model, [info], "cpu"))

    return score


def overall(files: Path, prompts: dict[str, str], name: str) -> Callable[[Path], Any]:
    import importlib  # noqa: PLC0415

    from vbench.third_party.ViCLIP import viclip, viclip_text, viclip_vision  # noqa: PLC0415
    from vbench.third_party.ViCLIP.simple_tokenizer import SimpleTokenizer  # noqa: PLC0415

    module = importlib.import_module(f"vbench.{name}")

    class TinyText(viclip_text.CLIP_TEXT):  # type: ignore[misc, name-defined]
        pass

    viclip.clip_joint_l14 = lambda **_: viclip_vision.VisionTransformer(
        input_resolution=224, patch_size=14, width=128, layers=2, heads=2, output_dim=64, num_frames=8
    )
    viclip.clip_text_l14 = lambda **_: TinyText(64, 32, tiny_weights.VOCABULARY, 64, 1, 2, 0)
    tokenizer = SimpleTokenizer(str(files / "bpe_simple_vocab_16e6.txt.gz"))
    model = viclip.ViCLIP(tokenizer=tokenizer, pretrain=str(files / "ViClip-InternVid-10M-FLT.pth")).eval()

    def score(clip: Path) -> float:
        info = {"prompt": prompts[clip.stem], "video_list": [str(clip)]}
        return per_video(getattr(module, name)(model, [info], tokenizer, "cpu"))

    return score


def action(files: Path, work: Path) -> Callable[[Path], Any]:
    """Top five (index, probability) of the model, and the official verdict for the first and for a wrong label."""
    from functools import partial  # noqa: PLC0415

    from vbench import human_action as official  # noqa: PLC0415
    from vbench.third_party.umt.models.modeling_finetune import VisionTransformer  # noqa: PLC0415

    seen: list[torch.Tensor] = []

    def tiny(*_: Any, **options: Any) -> Any:
        for name in ("pretrained", "drop_block_rate"):
            options.pop(name)
        model = VisionTransformer(
            patch_size=16, embed_dim=128, depth=2, num_heads=2, mlp_ratio=4, qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **options,
        )  # fmt: skip
        model.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        return model

    official.create_model = tiny
    names = official.build_dict()

    def score(clip: Path) -> dict[str, Any]:
        def verdict(label: str) -> bool:
            folder = work / "action"
            folder.mkdir(exist_ok=True)
            copy = folder / f"A person is {label}-0.mp4"
            shutil.copy(clip, copy)
            return bool(
                official.human_action(str(files / "l16_ptk710_ftk710_ftk400_f16_res224.pth"), [str(copy)], "cpu")[1][0][
                    "video_results"
                ]
            )

        wrong = verdict("no such action")
        best, order = torch.topk(torch.sigmoid(seen[-1]), 5, dim=1)
        labels = [names[str(i)] for i in order[0].tolist()]
        return {
            "top": [[label, value] for label, value in zip(labels, best[0].tolist(), strict=True)],
            "verdicts": {"no such action": wrong, **{label: verdict(label) for label in labels[:1]}},
        }

    return score


def dynamic(files: Path) -> Callable[[Path], Any]:
    from easydict import EasyDict  # noqa: PLC0415
    from vbench.dynamic_degree import DynamicDegree  # noqa: PLC0415

    options = EasyDict(
        {"model": str(files / "raft-things.pth"), "small": False, "mixed_precision": False, "alternate_corr": False}
    )
    model = DynamicDegree(options, "cpu")
    seen: list[float] = []
    official = model.get_score
    model.get_score = lambda image, flow: seen.append(official(image, flow)) or seen[-1]

    def score(clip: Path) -> dict[str, Any]:
        seen.clear()
        verdict = model.infer(str(clip))
        return {"dynamic": bool(verdict), "flows": list(seen)}

    return score


def static(files: Path) -> Callable[[Path], Any]:
    from easydict import EasyDict  # noqa: PLC0415
    from vbench.cli import static_filter  # noqa: PLC0415

    static_filter.DEVICE = "cpu"
    options = EasyDict(
        {"model": str(files / "raft-things.pth"), "small": False, "mixed_precision": False, "alternate_corr": False}
    )
    model = static_filter.StaticFilter(options, "cpu")
    seen: list[float] = []
    official = model.get_score
    model.get_score = lambda image, flow: seen.append(float(official(image, flow))) or seen[-1]

    def score(clip: Path) -> dict[str, Any]:
        if clip.stem not in ("static", "two_frames", "three_frames", "noise", "one_frame"):
            return {"skipped": "flows of all pairs take long"}
        seen.clear()
        verdict = model.infer(str(clip))
        return {"static": bool(verdict), "flows": list(seen)}

    return score


def imaging(files: Path) -> Callable[[Path], Any]:
    from pyiqa.archs.musiq_arch import MUSIQ  # noqa: PLC0415
    from vbench.imaging_quality import technical_quality  # noqa: PLC0415

    model = MUSIQ(
        hidden_size=128, mlp_dim=128, num_heads=2, num_layers=2,
        pretrained_model_path=str(files / "musiq_spaq_ckpt-358bb6af.pth"),
    )  # fmt: skip
    model.training = False

    def score(clip: Path) -> float:
        with torch.no_grad():
            return per_video(technical_quality(model, [str(clip)], "cpu"))

    return score


def similarity() -> Callable[[Path], Any]:
    """No VBench: pytorch-msssim's SSIM and MS-SSIM of a clip against itself played backwards, mean over frames."""
    import decord  # noqa: PLC0415
    import pytorch_msssim  # noqa: PLC0415

    def score(clip: Path) -> dict[str, float | None]:
        decord.bridge.set_bridge("native")
        reader = decord.VideoReader(str(clip))
        frames = torch.from_numpy(reader.get_batch(range(len(reader))).asnumpy()).permute(0, 3, 1, 2).double()
        pair = (frames, frames.flip(0))
        large = min(frames.shape[-2:]) > 160
        return {
            "ssim": float(pytorch_msssim.ssim(*pair, data_range=255)),
            "ms_ssim": float(pytorch_msssim.ms_ssim(*pair, data_range=255)) if large else None,
        }

    return score


if __name__ == "__main__":
    main()
