"""VBench-I2V's subject: whether a clip that was made from a picture keeps what the picture shows."""

import numpy as np

from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context, Metric, Need, Score, not_scored
from pipeline.scoring.residency import weights_of


def i2v_subject(clip: Clip, context: Context) -> Score:
    """Half the likeness of the frame most like the picture, half the mean likeness of consecutive frames, by DINO."""
    if len(clip.frames) < 2:
        return not_scored(f"needs at least 2 frames; this clip has {len(clip.frames)}")
    assert context.image is not None
    model = context.models.get("dino")
    frames, picture = clip.once(("dino", id(model)), lambda: model.features(clip)), model.picture(context.image)
    to_picture = np.maximum((frames @ picture.t()).numpy()[:, 0].astype(np.float64), 0.0)
    consecutive = np.maximum((frames[:-1] * frames[1:]).sum(-1).numpy().astype(np.float64), 0.0)
    score = 0.5 * float(to_picture.max()) + 0.5 * float(consecutive.mean())
    return Score(score, details={"like_picture": float(to_picture.max()), "like_before": float(consecutive.mean())})


I2V_SUBJECT = Metric(
    "vbench_i2v.i2v_subject",
    "like the picture it was made from, by DINO",
    i2v_subject,
    needs=frozenset({Need.IMAGE, Need.WEIGHTS, Need.GPU}),
    family="dino",
    weights=weights_of("dino"),
)
