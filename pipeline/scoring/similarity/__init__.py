"""How alike a clip is to a reference: the clip that a baseline made of the same prompt and seed."""

from pipeline.scoring.similarity.metrics import COMMON, MAX_PSNR, psnr, ssim

__all__ = ["COMMON", "MAX_PSNR", "psnr", "ssim"]
