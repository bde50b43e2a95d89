"""This module defines the states of jobs, steps and sessions, what each means, and the allowed moves between them.

docs/states.md has the same tables and diagrams; a test compares the two. CHECK constraints in the database refuse
any other value.
"""

from enum import StrEnum


class Stage(StrEnum):
    """The stages of a job, in their order."""

    ENHANCE = "enhance"
    SCREEN = "screen"
    GENERATE = "generate"
    ENCODE = "encode"
    SCORE = "score"
    """Only if the batch asks for it."""
    PUBLISH = "publish"


class JobState(StrEnum):
    WAITING = "waiting"
    HELD = "held"
    IN_FLIGHT = "in_flight"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


JOB_STATE_MEANING: dict[JobState, str] = {
    JobState.WAITING: "The job's next step waits to be dispatched.",
    JobState.HELD: "The safety policy holds the job until a person runs `vgen approve` or `vgen reject`.",
    JobState.IN_FLIGHT: "One of the job's steps is in the broker or with a worker.",
    JobState.SUCCEEDED: "The clip is published, verified and recorded.",
    JobState.FAILED: "A step used up its tries, or the input can never work; the error code says which.",
    JobState.BLOCKED: "The screen stage blocked the prompt.",
    JobState.CANCELLED: "A person cancelled the job.",
}

TERMINAL_JOB_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED})

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.IN_FLIGHT, JobState.CANCELLED}),
    JobState.HELD: frozenset({JobState.WAITING, JobState.BLOCKED, JobState.CANCELLED}),
    JobState.IN_FLIGHT: frozenset(
        {JobState.WAITING, JobState.HELD, JobState.SUCCEEDED, JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED}
    ),
    # Only an explicit `vgen retry` leaves a terminal state.
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.WAITING}),
    JobState.BLOCKED: frozenset(),
    JobState.CANCELLED: frozenset({JobState.WAITING, JobState.HELD}),
}


class StepState(StrEnum):
    PENDING = "pending"
    WAITING = "waiting"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


STEP_STATE_MEANING: dict[StepState, str] = {
    StepState.PENDING: "The step waits for another step (a repeated one, or another segment's), or its job is held.",
    StepState.WAITING: "The dispatcher may send the step once its not-before time has come and its queue has room.",
    StepState.DISPATCHED: "A message for the step is, or was, in the broker; any worker of its queue may claim it.",
    StepState.RUNNING: "A worker holds the step's lease.",
    StepState.DONE: "The step's result is recorded.",
    StepState.SKIPPED: "There was nothing to do, for example because no safety classifier is configured.",
    StepState.FAILED: "The step used up its tries, or its error can never go away.",
    StepState.CANCELLED: "The job was cancelled before the step was done.",
}

STEP_MOVES: dict[StepState, frozenset[StepState]] = {
    # To `waiting`: the step before it is done, or a person approved the job.
    StepState.PENDING: frozenset({StepState.WAITING, StepState.DISPATCHED, StepState.CANCELLED}),
    StepState.WAITING: frozenset({StepState.DISPATCHED, StepState.PENDING, StepState.CANCELLED}),
    # To `waiting`: its message was lost. To `pending`: its hand-off's host is gone.
    StepState.DISPATCHED: frozenset({StepState.RUNNING, StepState.WAITING, StepState.PENDING, StepState.CANCELLED}),
    # To `waiting`: released (drain, pause), retried after an error, or its lease ended.
    # To `pending`: the frames it needs are gone.
    StepState.RUNNING: frozenset(
        {StepState.DONE, StepState.SKIPPED, StepState.WAITING, StepState.PENDING, StepState.FAILED, StepState.CANCELLED}
    ),
    # Back to `waiting`: rewound by a recorded event (the frames it left behind are gone).
    # To `pending`: a step before it was rewound.
    StepState.DONE: frozenset({StepState.WAITING, StepState.PENDING}),
    StepState.SKIPPED: frozenset(),
    # Back to `waiting`: an explicit `vgen retry`; to `pending` when an earlier step of the job goes first.
    StepState.FAILED: frozenset({StepState.WAITING, StepState.PENDING}),
    StepState.CANCELLED: frozenset({StepState.WAITING, StepState.PENDING}),
}


class AttemptOutcome(StrEnum):
    """The outcome of one attempt at a step; a column of its row."""

    DONE = "done"
    SKIPPED = "skipped"
    HELD = "held"
    BLOCKED = "blocked"
    REJECTED = "rejected"
    RETRIED = "retried"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    REWOUND = "rewound"
    LEASE_ENDED = "lease_ended"


class SessionState(StrEnum):
    """The states of a streaming session."""

    QUEUED = "queued"
    GPU_BINDING = "gpu_binding"
    ACTIVE = "active"
    COMPLETE = "complete"
    ERROR = "error"
    TIMEOUT = "timeout"


SESSION_STATE_MEANING: dict[SessionState, str] = {
    SessionState.QUEUED: "The session waits for a GPU.",
    SessionState.GPU_BINDING: "A GPU is reserved for the session; its worker gives back its clip or loads the model.",
    SessionState.ACTIVE: "The session has had a ready GPU; if it loses that one, it waits for another in this state.",
    SessionState.COMPLETE: "The client ended the session, or the session has reached its limit of segments.",
    SessionState.ERROR: "The session could not continue.",
    SessionState.TIMEOUT: "The client was silent for too long.",
}

SESSION_ENDS = frozenset({SessionState.COMPLETE, SessionState.ERROR, SessionState.TIMEOUT})

SESSION_MOVES: dict[SessionState, frozenset[SessionState]] = {
    SessionState.QUEUED: frozenset({SessionState.GPU_BINDING, *SESSION_ENDS}),
    # To `queued`: its GPU was lost before it was ready.
    SessionState.GPU_BINDING: frozenset({SessionState.QUEUED, SessionState.ACTIVE, *SESSION_ENDS}),
    SessionState.ACTIVE: SESSION_ENDS,
    SessionState.COMPLETE: frozenset(),
    SessionState.ERROR: frozenset(),
    SessionState.TIMEOUT: frozenset(),
}


class EvalState(StrEnum):
    """The state of an evaluation run."""

    OPEN = "open"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """A clip is missing, or one of its scores."""


_ORDER = tuple(Stage)


def is_after(stage: Stage, other: Stage) -> bool:
    """Return whether a job passes the stage later than the other one."""
    return _ORDER.index(stage) > _ORDER.index(other)


def next_stage(stage: Stage, *, scored: bool = False) -> Stage | None:
    """The stage after this one, with ``SCORE`` where the batch is ``scored``; None after the last."""
    position = _ORDER.index(stage) + 1
    following = _ORDER[position] if position < len(_ORDER) else None
    return next_stage(Stage.SCORE) if following is Stage.SCORE and not scored else following
