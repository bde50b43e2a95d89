"""The denoising loop: interrupted at any step, kept as a checkpoint, and continued with equal frames."""
