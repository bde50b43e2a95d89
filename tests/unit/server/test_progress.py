"""How far a video is, from its steps."""

from db.models import Step
from pipeline.generators.base import Phase
from pipeline.states import Stage
from server.openai.objects import share_done


def test_progress_never_goes_back_while_a_clip_is_generated() -> None:
    order = [Phase.LIBRARIES, Phase.LOAD, Phase.WARM_UP, Phase.ENCODE_TEXT, Phase.DENOISE, Phase.DECODE, Phase.HAND_OFF]
    assert set(order) == set(Phase)

    shares = [
        share_done(Step(stage=Stage.GENERATE, progress_phase=phase, progress_step=step, progress_total=4))
        for phase in order
        for step in range(5)
    ]

    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert share_done(Step(stage=Stage.GENERATE, progress_phase=None, progress_step=0, progress_total=0)) == 0
    assert share_done(Step(stage=Stage.ENCODE, progress_phase=None, progress_step=1, progress_total=4)) == 0.25
