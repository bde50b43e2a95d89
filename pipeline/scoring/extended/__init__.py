"""Metrics beside VBench's sixteen dimensions: of text, motion, sound, long clips, and clips made from a picture."""

from pipeline.scoring.extended.clip_score import CLIP_SCORE
from pipeline.scoring.extended.image_to_video import I2V_BACKGROUND, I2V_SUBJECT
from pipeline.scoring.extended.long_clips import LONG_FROM_S, VBENCH_LONG, is_long
from pipeline.scoring.extended.sound import CLAP, WORD_ERROR_RATE
from pipeline.scoring.extended.warp import WARP_ERROR

EXTENDED = (CLIP_SCORE, WARP_ERROR, *VBENCH_LONG, I2V_SUBJECT, I2V_BACKGROUND, CLAP, WORD_ERROR_RATE)

__all__ = ["EXTENDED", "LONG_FROM_S", "VBENCH_LONG", "is_long"]
