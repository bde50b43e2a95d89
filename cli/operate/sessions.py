"""`vgen sessions`: lists, shows and closes streaming sessions."""

from typing import Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import Json, checked_owner
from db.reading.reasons import Needs
from service import sessions
from service.views.sessions import SessionListView, SessionView
from service.views.waiting import ReasonView

app = typer.Typer(help="List, show and close streaming sessions.", no_args_is_help=True)
_ID_HELP = "A session's id, or the start of one."


@app.command("list")
def list_(
    ctx: typer.Context,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="Only this owner's sessions.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Also sessions that have ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The most to show, the newest first.")] = 50,
    json: Json = False,
) -> int:
    """List the sessions that have not ended, newest first: state, GPU, place in the queue, segments."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        listed = sessions.list_sessions(database, owner=owner, open_only=not all_, limit=limit, settings=settings)
    view = SessionListView(sessions=listed)
    if json:
        output.as_json(view)
        return 0
    output.table(
        ("session", "owner", "preset", "state", "gpu", "queue", "segments", "waits for", "opened", "ends"),
        [
            (
                *(each.id, each.owner, each.preset, each.state, each.gpu, each.queue_position, _made(each)),
                _waits_for(each),
                *(each.created_at, each.ended_at or each.ends_at),
            )
            for each in view.sessions
        ],
    )
    return 0


@app.command("show")
def show(
    ctx: typer.Context, session_id: Annotated[str, typer.Argument(metavar="SESSION", help=_ID_HELP)], json: Json = False
) -> int:
    """Show one session: its GPU, its segments, why they wait, and the job that joins them."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        view = sessions.session_view(database, session_id, settings=settings)
    if json:
        output.as_json(view)
        return 0
    _facts(view)
    if view.segments:
        output.table(
            ("segment", "job", "state", "stage", "progress", "frames", "error", "prompt"),
            [
                (
                    *(each.segment, each.job_id, each.state, each.stage),
                    f"{each.step}/{each.total_steps}" if each.total_steps else None,
                    *(each.num_frames, each.error_code, each.prompt),
                )
                for each in view.segments
            ],
        )
    if view.reason is not None:
        output.line(f"no GPU yet: {_in_words(view.reason)}")
    for each in view.segments:
        if each.reason is not None and each.reason.needs != Needs.NOTHING.value:
            output.line(f"segment {each.segment}: {_in_words(each.reason)}")
    return 0


@app.command("close")
def close(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="SESSION...", help=_ID_HELP)],
    cancel: Annotated[
        bool,
        typer.Option("--cancel", help="Cancel the segments that are not finished; without this they are still made."),
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", help="The reason, for the session's history and its client.")
    ] = "closed_by_operator",
    json: Json = False,
) -> int:
    """Close sessions: each frees its GPU, and its segments are joined to one clip."""
    with open_database(settings_of(ctx)) as database:
        known = [sessions.session_view(database, each) for each in ids]  # all of them, before the first is closed
        closed = [
            sessions.close_session(database, each.id, reason=reason, cancel_open=cancel)
            for each in {each.id: each for each in known}.values()
        ]
    if json:
        output.as_json(SessionListView(sessions=closed))
        return 0
    ended_before = {each.id for each in known if each.ended_at is not None}
    for each in closed:
        if each.id in ended_before:
            output.notice(f"session {each.id}: had ended before ({each.end_reason})")
        else:
            output.line(f"session {each.id}: closed with {_made(each)} segments made")
    return 0


def _made(view: SessionView) -> str:
    return f"{sum(each.generated for each in view.segments)}/{len(view.segments)}"


def _in_words(reason: ReasonView) -> str:
    return f"{reason.text} ({reason.mend})" if reason.mend else reason.text


def _waits_for(view: SessionView) -> str | None:
    """Return the code of the reason for which the session has no GPU, or its first open segment does not go on."""
    if view.reason is not None:
        return view.reason.code
    reasons = (each.reason for each in view.segments if each.reason is not None)
    return next((reason.code for reason in reasons if reason.needs != Needs.NOTHING.value), None)


def _facts(view: SessionView) -> None:
    output.facts(
        [
            ("session", view.id),
            ("owner", view.owner),
            ("batch", view.batch_id),
            ("preset", f"{view.preset}, {view.width}x{view.height}, {view.num_frames} frames at {view.fps:g} a second"),
            ("state", view.state),
            ("waits for", _waits_for(view)),
            ("gpu", view.gpu),
            ("gpu ready", None if view.gpu is None else "yes" if view.gpu_ready else "no"),
            (
                "queue",
                None if view.queue_position is None else f"{view.queue_position} of {view.queue_depth} before it",
            ),
            ("opened", view.created_at),
            ("last seen", view.last_seen),
            ("ends", view.ends_at if view.ended_at is None else None),
            ("ended", view.ended_at),
            ("reason", view.end_reason),
            ("joined clip", view.joined_job),
        ]
    )
