"""Runs VBench-I2V's official functions on the stored clips with the tiny weights: adds them to scores.json.

Not part of vgen: run it in an environment of its own with ``dreamsim==0.2.1 torch torchvision peft timm
open_clip_torch opencv-python-headless decord tqdm`` and checkouts of Vchitect/VBench and facebookresearch/dino:

    python make_i2v_oracle.py --work /tmp/oracle --vbench /path/to/VBench --dino /path/to/dino

Shims: the transformers get the tiny sizes, torch.hub answers with the checkout of DINO, and torchvision's resize has
no antialiasing of frames unless ``--antialias`` asks for what is its default since 0.17. Models, the LoRA (by peft),
pre-processing, decoding and formulas are the official ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import tiny_weights  # noqa: E402

Score = Callable[[Path, Path], float]


def write_picture(name: str, folder: Path) -> Path:
    """The picture that a clip is said to be made from: blocks of colour, upright for every second clip."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    blocks = random.randint(0, 256, (25, 33, 3) if zlib.crc32(name.encode()) % 2 else (33, 25, 3)).astype(np.uint8)
    path = folder / f"{name}.png"
    Image.fromarray(np.kron(blocks, np.ones((9, 9, 1), np.uint8))).save(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--work", "--vbench", "--dino"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--antialias", action="store_true", help="print what it would be, and write nothing")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    tiny_weights.write_all(given.work / "weights")
    tiny_weights.write_dreamsim(given.work / "dreamsim")
    sys.path[:0] = [str(given.vbench), str(given.dino)]
    package = types.ModuleType("vbench2_beta_i2v")  # its own __init__ imports all of VBench
    package.__path__ = [str(given.vbench / "vbench2_beta_i2v")]
    sys.modules["vbench2_beta_i2v"] = package
    from vbench2_beta_i2v import utils  # noqa: PLC0415

    if not given.antialias:
        utils.Resize = partial(utils.Resize, antialias=False)
    target = HERE / "scores.json"
    stored = json.loads(target.read_text())
    for name, maker in (("i2v_subject", subject), ("i2v_background", background)):
        score = maker(given.work)
        scores: dict[str, Any] = {}
        for clip in sorted((HERE / "clips").glob("*.mp4")):
            try:
                scores[clip.stem] = score(write_picture(clip.stem, given.work), clip)
            except Exception as error:  # noqa: BLE001 - what it cannot score is a result
                scores[clip.stem] = {"error": f"{type(error).__name__}: {error}"}
            before = stored["dimensions"].get(name, {}).get(clip.stem)
            print(name, clip.stem, scores[clip.stem], before if given.antialias else "", flush=True)
        stored["dimensions"][name] = scores
    if not given.antialias:
        target.write_text(json.dumps(stored, indent=1, sort_keys=True, allow_nan=False) + "\n")


def per_video(result: tuple[Any, list[dict[str, Any]]]) -> float:
    return float(result[1][0]["video_results"])


def transformer(width: int, depth: int) -> Any:
    from vision_transformer import VisionTransformer  # noqa: PLC0415

    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    sizes = {"embed_dim": width, "depth": depth, "num_heads": width // 64}
    return VisionTransformer(patch_size=16, mlp_ratio=4, qkv_bias=True, norm_layer=norm, num_classes=0, **sizes)


def subject(work: Path) -> Score:
    from vbench2_beta_i2v.i2v_subject import i2v_subject  # noqa: PLC0415

    model = transformer(128, 2)
    model.load_state_dict(torch.load(work / "weights/dino_vitbase16_pretrain.pth"), strict=True)
    model.eval()

    @torch.no_grad()
    def score(picture: Path, clip: Path) -> float:
        return per_video(i2v_subject(model, [(str(picture), str(clip))], "cpu"))

    return score


def background(work: Path) -> Score:
    import dreamsim  # noqa: PLC0415
    from dreamsim.feature_extraction import load_clip_as_dino, load_open_clip_as_dino  # noqa: PLC0415
    from vbench2_beta_i2v.i2v_background import i2v_background  # noqa: PLC0415

    files = work / "dreamsim"
    for module, depth in ((load_clip_as_dino, 2), (load_open_clip_as_dino, 3)):
        module.vit_base = partial(
            module.VisionTransformer, embed_dim=64, depth=depth, num_heads=1, mlp_ratio=4, qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        )  # fmt: skip

    def tiny_hub(*_: Any) -> Any:
        model = transformer(64, 12)
        model.load_state_dict(torch.load(files / "dino_vitbase16_pretrain.pth"), strict=True)
        return model

    torch.hub.load = tiny_hub
    # The projection behind DINO, which no part of the ensemble uses
    shapes = {"mlp.0": (2048, 768), "mlp.2": (2048, 2048), "mlp.4": (256, 2048)}
    head = {f"module.head.{key}.weight": torch.zeros(shape) for key, shape in shapes.items()}
    head |= {f"module.head.{key}.bias": torch.zeros(shape[0]) for key, shape in shapes.items()}
    head["module.head.last_layer.weight"] = torch.zeros(2048, 256)
    torch.save({"student": head}, files / "dino_vitb16_pretrain.pth")
    model, _ = dreamsim.dreamsim(pretrained=True, device="cpu", cache_dir=str(files))
    return lambda picture, clip: per_video(i2v_background(model, [(str(picture), str(clip))], "cpu"))


if __name__ == "__main__":
    main()
