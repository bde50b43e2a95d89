"""Views of workers."""

from pydantic import Field

from service.views.base import View


class WorkerView(View):
    """A worker, or a dispatcher without queues, that was seen within the last 30 seconds."""

    name: str
    host: str
    pid: int
    queues: list[str]
    slots: int
    gpu_type: str | None
    memory_bytes: int | None
    assigned_preset: str | None = Field(description="Preset that it is to hold; none while nothing waits for it.")
    loaded: str | None = Field(description="Preset whose model it holds.")
    ready: bool = Field(description="Whether it takes clips of its preset now, or, without a GPU, anything.")
    draining: bool
    drain_reason: str | None = Field(description="Why it takes no more work although nobody stopped it.")
    paused_queues: list[str] = Field(description="Its queues that are paused.")
    seen_at: str


class DrainedView(View):
    """A host that takes no more work."""

    host: str
    workers: list[str] = Field(description="Its GPU workers.")
    left: int = Field(description="Steps that it is still at, frames that wait for their encoder included.")


class WorkersView(View):
    """The live workers."""

    workers: list[WorkerView]
