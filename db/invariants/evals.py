"""Rules for evaluation runs and their steps."""

from sqlalchemy import and_, exists, or_, select

from db.invariants.rule import OPEN, Query, Rule
from db.models import EvalRun, ScoreStep
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER, MAX_RETRYABLE
from pipeline.states import EvalState, StepState


def _ended_too_soon() -> Query:
    still = exists().where(ScoreStep.run_id == EvalRun.id, ScoreStep.state.in_((*OPEN, StepState.PENDING)))
    return select(EvalRun.batch_id, EvalRun.id.label("run")).where(EvalRun.state != EvalState.OPEN, still)


def _complete_without() -> Query:
    bad = exists().where(ScoreStep.run_id == EvalRun.id, ScoreStep.state == StepState.FAILED)
    return select(EvalRun.batch_id, EvalRun.id.label("run")).where(EvalRun.state == EvalState.COMPLETE, bad)


def _bounds() -> Query:
    """I9, as of the line's steps."""
    bounds = (
        (ScoreStep.errors, MAX_RETRYABLE),
        (ScoreStep.crashes, MAX_OTHER),
        (ScoreStep.faults, MAX_OTHER),
        (ScoreStep.losses, MAX_LOSSES),
    )
    beyond = or_(*(counter > bound for counter, bound in bounds))
    used_up = or_(*(counter >= bound for counter, bound in bounds))
    return select(ScoreStep.batch_id, ScoreStep.id.label("step"), ScoreStep.state.label("state")).where(
        or_(beyond, and_(ScoreStep.state.in_(OPEN), used_up))
    )


RULES = (
    Rule("eval_ended", "an evaluation run ends after its last step", _ended_too_soon()),
    Rule("eval_complete", "a run of which a step failed is not complete", _complete_without()),
    Rule("score_bounds", "errors, crashes, faults and losses of a score step are bounded", _bounds()),
)
