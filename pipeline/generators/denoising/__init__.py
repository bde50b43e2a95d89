"""The denoising loop: stopped at any step, saved as a checkpoint, and resumed with equal frames."""
