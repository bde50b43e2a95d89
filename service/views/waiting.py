"""Views of the reasons why something waits, and of the command that helps."""

from pydantic import Field

from db.reading.reasons import Reason
from db.reading.waiting import Wait
from service.views.base import View, when_if_set


class ReasonView(View):
    """Why a job waits or is tried again."""

    code: str = Field(description="The reason's code, such as store_away, batch_paused or in_turn.")
    text: str = Field(description="The reason in words.")
    needs: str = Field(
        description="What has to happen: person (somebody's decision), service (something is away or full), worker "
        "(nobody can do it), or nothing (it goes on by itself)."
    )
    mend: str | None = Field(description="The command that mends it, or helps to; null where none is needed.")
    since: str | None = Field(description="Since when it is so, where that is known.")
    until: str | None = Field(description="It is not tried again before that time.")


class WaitView(View):
    """Jobs of a batch that wait for the same reason."""

    jobs: int
    stage: str
    reason: ReasonView


def reason_view(reason: Reason) -> ReasonView:
    return ReasonView.of(
        reason, code=reason.code.value, needs=reason.needs.value, since=when_if_set(reason.since),
        until=when_if_set(reason.until),
    )  # fmt: skip


def wait_view(wait: Wait) -> WaitView:
    return WaitView(jobs=wait.jobs, stage=wait.stage.value, reason=reason_view(wait.reason))
