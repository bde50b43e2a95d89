"""The states of jobs and steps, a sentence for each, and the moves that are allowed.

The same table, with a diagram, is in docs/states.md; a test compares the two. The database refuses any other
value with CHECK constraints.
"""

from enum import StrEnum


class Stage(StrEnum):
    """The stages of the line, in the order in which a job passes them."""

    ENHANCE = "enhance"
    SCREEN = "screen"
    GENERATE = "generate"
    ENCODE = "encode"
    SCORE = "score"
    """Only where the batch asks for it."""
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
    JobState.WAITING: "Its next step waits to be dispatched.",
    JobState.HELD: "The screen stage wants a person's word: `vgen approve` or `vgen reject`.",
    JobState.IN_FLIGHT: "One of its steps is in the broker or with a worker.",
    JobState.SUCCEEDED: "Its video is published, checked and recorded.",
    JobState.FAILED: "It used up its tries, or its input can never work; the error code says which.",
    JobState.BLOCKED: "The screen stage refused its prompt.",
    JobState.CANCELLED: "A person stopped it.",
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
    StepState.PENDING: "Another step goes first (what it left is gone, or is another segment's), or the job is held.",
    StepState.WAITING: "The dispatcher may publish it once its not-before time has come and its queue has room.",
    StepState.DISPATCHED: "A message for it is, or was, in the broker; any worker of its queue may claim it.",
    StepState.RUNNING: "A worker holds its lease.",
    StepState.DONE: "Its work is recorded.",
    StepState.SKIPPED: "There was nothing to do, for example no safety classifier is configured.",
    StepState.FAILED: "It used up its tries.",
    StepState.CANCELLED: "Its job was cancelled before it was done.",
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
    """The outcome of one attempt at a step; the last column of the stage_runs table."""

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
    """The states of a session that watches a video while it is made."""

    QUEUED = "queued"
    GPU_BINDING = "gpu_binding"
    ACTIVE = "active"
    COMPLETE = "complete"
    ERROR = "error"
    TIMEOUT = "timeout"


SESSION_STATE_MEANING: dict[SessionState, str] = {
    SessionState.QUEUED: "It waits for a GPU.",
    SessionState.GPU_BINDING: "A GPU is reserved for it: what ran there is put aside, or the model is loaded.",
    SessionState.ACTIVE: "A GPU has been ready for it; should it lose that one, it waits for another in this state.",
    SessionState.COMPLETE: "Its client ended it, or it has as many segments as it may have.",
    SessionState.ERROR: "It could not go on.",
    SessionState.TIMEOUT: "Nothing was heard of its client for too long.",
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
