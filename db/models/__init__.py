"""The tables. Times are the database's clock, in integer milliseconds since 1970; texts are UTF-8 without NUL."""

from db.models.access import ApiKey, BrowserSession
from db.models.evaluation import EvalRun, Score, ScoreRun, ScoreStep
from db.models.history import Event
from db.models.hosts import MemoryNeed, Queue, Worker
from db.models.line import (
    LIVE_INDEX,
    STEPS,
    ArtifactRow,
    Batch,
    Checkpoint,
    ContinuationState,
    Job,
    Segment,
    StageRun,
    Step,
)
from db.models.metrics import Measurement, Total
from db.models.requests import RequestKey
from db.models.sessions import Reservation, StreamSession
from db.models.votes import ClipRating, ClipVote

__all__ = [
    "LIVE_INDEX",
    "STEPS",
    "ApiKey",
    "ArtifactRow",
    "Batch",
    "BrowserSession",
    "Checkpoint",
    "ClipRating",
    "ClipVote",
    "ContinuationState",
    "EvalRun",
    "Event",
    "Job",
    "Measurement",
    "MemoryNeed",
    "Queue",
    "RequestKey",
    "Reservation",
    "Score",
    "ScoreRun",
    "ScoreStep",
    "Segment",
    "StageRun",
    "Step",
    "StreamSession",
    "Total",
    "Worker",
]
