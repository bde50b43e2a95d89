"""Batches, their jobs, and what belongs to a clip: segments, rolls, checkpoints, scores, spending."""
