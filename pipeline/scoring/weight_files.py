"""The weight files of the metrics: official names, where they come from, sizes and digests.

Names, sizes, digests and licences as VBench's release and the authors' pages have them. ``hub`` is a repository on the
hub that holds the same weights in transformers' own layout; it may stand in for the file.
"""

from dataclasses import dataclass

_VBENCH_HUB = "https://huggingface.co/OpenGVLab/VBench_Used_Models/resolve/main"
_CLIP = "https://openaipublic.azureedge.net/clip/models"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One official file."""

    name: str
    cached_as: str
    """Its path inside VBench's own cache folder (``VBENCH_CACHE_DIR``)."""
    size: int
    """Bytes; 0 where that is not known, as of a folder of the hub."""
    sha256: str
    """Empty of a folder of the hub, and where the authors publish none and no copy was at hand."""
    licence: str
    url: str
    member: str | None = None
    """The file's path inside ``url``, where that is a zip archive."""
    hub: str | None = None

    @property
    def is_folder(self) -> bool:
        """True of weights that are a folder of the hub: with configuration and vocabulary, and no one digest."""
        return self.hub is not None and not self.sha256


DINO = WeightFile(
    "dino_vitbase16_pretrain.pth",
    "dino_model/dino_vitbase16_pretrain.pth",
    343242485,
    "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e",
    "Apache-2.0",
    "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
    hub="facebook/dino-vitb16",
)
CLIP_B32 = WeightFile(
    "ViT-B-32.pt",
    "clip_model/ViT-B-32.pt",
    353976522,
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "MIT",
    f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    hub="openai/clip-vit-base-patch32",
)
CLIP_L14 = WeightFile(
    "ViT-L-14.pt",
    "clip_model/ViT-L-14.pt",
    932768134,
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "MIT",
    f"{_CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    hub="openai/clip-vit-large-patch14",
)
AESTHETIC_HEAD = WeightFile(
    "sa_0_4_vit_l_14_linear.pth",
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
    4071,
    "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
    "MIT",
    "https://github.com/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
)
BPE = WeightFile(
    "bpe_simple_vocab_16e6.txt.gz",
    "ViCLIP/bpe_simple_vocab_16e6.txt.gz",
    1356917,
    "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
    "MIT",
    "https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
)
VICLIP = WeightFile(
    "ViClip-InternVid-10M-FLT.pth",
    "ViCLIP/ViClip-InternVid-10M-FLT.pth",
    1710545812,
    "7a4d6ad6eac6632db3693f4b97f9f8f6445b65b1e139a6fc6686150522238c56",
    "MIT",
    f"{_VBENCH_HUB}/ViClip-InternVid-10M-FLT.pth",
)
UMT = WeightFile(
    "l16_ptk710_ftk710_ftk400_f16_res224.pth",
    "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",
    607024201,
    "bfee78a03bf806fbc0c216309e8f92792011b7db6556fa860e9d869c1e69fecd",
    "MIT",
    f"{_VBENCH_HUB}/l16_ptk710_ftk710_ftk400_f16_res224.pth",
)
RAFT = WeightFile(
    "raft-things.pth",
    "raft_model/models/raft-things.pth",
    21108000,
    "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
    "BSD-3-Clause",
    "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip",
    member="models/raft-things.pth",
)
MUSIQ = WeightFile(
    "musiq_spaq_ckpt-358bb6af.pth",
    "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
    108610983,
    "358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
    "Apache-2.0 original, converted by a non-commercial project",
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
)
ALEXNET = WeightFile(
    "alexnet-owt-7be5be79.pth",
    "hub/checkpoints/alexnet-owt-7be5be79.pth",
    244408911,
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "BSD-3-Clause",
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
)
LPIPS_LINEAR = WeightFile(
    "alex.pth",
    "lpips/weights/v0.1/alex.pth",
    6009,
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "BSD-2-Clause",
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
)

_DREAMSIM = (
    "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/dreamsim_ensemble_checkpoint.zip"
)
DREAMSIM_CLIP = WeightFile(
    "clip_vitb16_pretrain.pth.tar",
    "models/clip_vitb16_pretrain.pth.tar",
    0,
    "",
    "MIT",
    _DREAMSIM,
    member="clip_vitb16_pretrain.pth.tar",
)
"""OpenAI's CLIP ViT-B/16 in DINO's form. DreamSim's third model is DINO's own file."""
DREAMSIM_OPEN_CLIP = WeightFile(
    "open_clip_vitb16_pretrain.pth.tar",
    "models/open_clip_vitb16_pretrain.pth.tar",
    0,
    "",
    "MIT",
    _DREAMSIM,
    member="open_clip_vitb16_pretrain.pth.tar",
)
"""OpenCLIP's ViT-B/16, trained on LAION-400M, in DINO's form."""
DREAMSIM_LORA = WeightFile(
    "ensemble_lora/adapter_model.safetensors",
    "models/ensemble_lora/adapter_model.safetensors",
    0,
    "",
    "MIT",
    _DREAMSIM,
    member="ensemble_lora/adapter_model.safetensors",
)
"""``adapter_config.json`` lies beside it."""

CLAP = WeightFile(
    "clap-htsat-unfused",
    "clap-htsat-unfused",
    0,
    "",
    "Apache-2.0",
    "https://huggingface.co/laion/clap-htsat-unfused",
    hub="laion/clap-htsat-unfused",
)
WHISPER = WeightFile(
    "whisper-base",
    "whisper-base",
    0,
    "",
    "Apache-2.0",
    "https://huggingface.co/openai/whisper-base",
    hub="openai/whisper-base",
)

WEIGHT_FILES: dict[str, WeightFile] = {
    file.name: file
    for file in (
        DINO,
        CLIP_B32,
        CLIP_L14,
        AESTHETIC_HEAD,
        BPE,
        VICLIP,
        UMT,
        RAFT,
        MUSIQ,
        ALEXNET,
        LPIPS_LINEAR,
        DREAMSIM_CLIP,
        DREAMSIM_OPEN_CLIP,
        DREAMSIM_LORA,
        CLAP,
        WHISPER,
    )
}
