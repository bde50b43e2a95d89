from __future__ import annotations

from pipeline.states import (
    JOB_MOVES,
    JOB_STATE_MEANING,
    STEP_MOVES,
    STEP_STATE_MEANING,
    TERMINAL_JOB_STATES,
    JobState,
    Stage,
    StepState,
    next_stage,
)


def test_every_state_has_a_sentence_and_its_moves() -> None:
    for meanings in (JOB_STATE_MEANING, STEP_STATE_MEANING):
        assert all(meaning.endswith(".") for meaning in meanings.values())
    assert set(JOB_STATE_MEANING) == set(JOB_MOVES) == set(JobState)
    assert set(STEP_STATE_MEANING) == set(STEP_MOVES) == set(StepState)


def test_terminal_states_are_left_by_a_retry_only() -> None:
    left = {state: JOB_MOVES[state] for state in TERMINAL_JOB_STATES if JOB_MOVES[state]}
    assert set(left) == {JobState.FAILED, JobState.CANCELLED}
    assert all(targets <= {JobState.WAITING, JobState.HELD} for targets in left.values())


def test_every_state_can_be_reached_and_come_to_an_end() -> None:
    for moves, first in ((JOB_MOVES, JobState.WAITING), (STEP_MOVES, StepState.WAITING)):
        seen, ahead = set(), [first]
        while ahead:
            state = ahead.pop()
            if state not in seen:
                seen.add(state)
                ahead += moves[state]  # type: ignore[index]
        assert seen == set(moves)


def test_stages_follow_each_other_to_the_end() -> None:
    assert [next_stage(stage, scored=True) for stage in Stage] == [*list(Stage)[1:], None]
    assert [stage for stage in Stage if next_stage(stage) is Stage.SCORE] == []
    assert next_stage(Stage.ENCODE) is Stage.PUBLISH
