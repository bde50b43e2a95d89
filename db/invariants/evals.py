"""Rules for evaluation runs and their steps."""

from sqlalchemy import exists, select

from db.invariants.rule import OPEN, Query, Rule
from db.models import EvalRun, ScoreStep
from pipeline.states import EvalState, StepState


def _ended_too_soon() -> Query:
    still = exists().where(ScoreStep.run_id == EvalRun.id, ScoreStep.state.in_((*OPEN, StepState.PENDING)))
    return select(EvalRun.batch_id, EvalRun.id.label("run")).where(EvalRun.state != EvalState.OPEN, still)


def _complete_without() -> Query:
    bad = exists().where(ScoreStep.run_id == EvalRun.id, ScoreStep.state == StepState.FAILED)
    return select(EvalRun.batch_id, EvalRun.id.label("run")).where(EvalRun.state == EvalState.COMPLETE, bad)


RULES = (
    Rule("eval_ended", "an evaluation run ends after its last step", _ended_too_soon()),
    Rule("eval_complete", "a run of which a step failed is not complete", _complete_without()),
)
