"""`vgen keys`: creates, lists, limits and revokes API keys for `vgen serve`."""

from typing import Annotated, Any

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import Json, checked_owner
from db import api_keys
from pipeline.errors import InputError, Problem
from service import keys
from service.views.keys import KeyListView, key_view

MaxActive = Annotated[
    str | None,
    typer.Option("--max-active-jobs", metavar="N", help="The most jobs that may be open at once, or 'none'."),
]
MaxClips = Annotated[
    str | None,
    typer.Option("--max-daily-clips", metavar="N", help="The most clips that it may request in 24 hours, or 'none'."),
]
MaxGpu = Annotated[
    str | None,
    typer.Option(
        "--max-daily-gpu-seconds",
        metavar="SECONDS",
        help="The most GPU seconds of what it submits in 24 hours, or 'none'.",
    ),
]
_NONE = "none"
_WHOLE = ("max_active_jobs", "max_daily_clips")
app = typer.Typer(help="Create, list, limit and revoke API keys for `vgen serve`.", no_args_is_help=True)


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that says what the key is for.")],
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner",
            callback=checked_owner,
            help="Owner of the batches that it makes and sees; default: the setting owner.",
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="What it may do; repeatable. Default: all scopes but metrics.read and admin."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="When it expires: +90d, +8h or 2027-03-01T07:00.")
    ] = None,
    max_active_jobs: MaxActive = None,
    max_daily_clips: MaxClips = None,
    max_daily_gpu_seconds: MaxGpu = None,
    json: Json = False,
) -> int:
    """Create a key and show it, only this once: the database stores a digest."""
    settings = settings_of(ctx)
    quotas = keys.Quotas(**_numbers(max_active_jobs, max_daily_clips, max_daily_gpu_seconds))
    with open_database(settings, upgrade=True) as database:
        view = keys.create(
            database,
            name=name,
            owner=settings.owner if owner is None else owner,
            scopes=scope or keys.DEFAULT_SCOPES,
            expires=expires,
            by=settings.owner,
            quotas=quotas,
        )
    if json:
        output.as_json(view)
        return 0
    output.line(view.secret)
    ends = f"ends {view.key.expires_at}" if view.key.expires_at else "does not end by itself"
    output.notice(f"key {view.key.id} of {view.key.owner} may {', '.join(view.key.scopes)}; it {ends}")
    output.notice("it is shown only now; `vgen keys revoke` ends it")
    return 0


@app.command("list")
def list_(
    ctx: typer.Context,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="Only this owner's keys.")
    ] = None,
    json: Json = False,
) -> int:
    """List the keys, without their secrets."""
    with open_database(settings_of(ctx), upgrade=True) as database, database.reading() as session:
        view = KeyListView(keys=[key_view(key) for key in api_keys.all_keys(session, owner=owner)])
    if json:
        output.as_json(view)
        return 0
    output.table(
        (
            "key",
            "name",
            "owner",
            "scopes",
            "made",
            "ends",
            "revoked",
            "last used",
            "open jobs",
            "clips a day",
            "GPU s a day",
        ),
        [
            (
                key.id,
                key.name,
                key.owner,
                ", ".join(key.scopes),
                key.created_at,
                key.expires_at,
                key.revoked_at,
                key.last_used_at,
                key.max_active_jobs,
                key.max_daily_clips,
                key.max_daily_gpu_seconds,
            )
            for key in view.keys
        ],
    )
    return 0


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of keys (eight characters).")],
    json: Json = False,
) -> int:
    """Revoke keys for good, at once; what was made with them is kept."""
    settings = settings_of(ctx)
    with open_database(settings, upgrade=True) as database:
        view = keys.revoke(database, ids, by=settings.owner)
    if json:
        output.as_json(view)
        return 0
    for key_id in view.revoked:
        output.line(f"key {key_id}: revoked")
    for key_id in view.unchanged:
        output.notice(f"key {key_id}: was revoked before")
    return 0


@app.command("limit")
def limit(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="Id of a key (eight characters).")],
    max_active_jobs: MaxActive = None,
    max_daily_clips: MaxClips = None,
    max_daily_gpu_seconds: MaxGpu = None,
    json: Json = False,
) -> int:
    """Change a key's quotas; without options, show them. Requests beyond it are answered 429."""
    settings = settings_of(ctx)
    changes = _numbers(max_active_jobs, max_daily_clips, max_daily_gpu_seconds)
    with open_database(settings, upgrade=True) as database:
        view = keys.limit(database, key, changes, by=settings.owner)
    if json:
        output.as_json(view)
        return 0
    output.facts(
        (
            ("key", view.id),
            ("open jobs", _shown(view.max_active_jobs)),
            ("clips a day", _shown(view.max_daily_clips)),
            ("GPU seconds a day", _shown(view.max_daily_gpu_seconds)),
        )
    )
    return 0


def _shown(value: float | None) -> str:
    return "no limit" if value is None else f"{value:g}"


def _numbers(active: str | None, clips: str | None, gpu: str | None) -> dict[str, Any]:
    """The quotas that are given; of 'none' the value is None. Raises InputError."""
    given = {"max_active_jobs": active, "max_daily_clips": clips, "max_daily_gpu_seconds": gpu}
    problems: list[Problem] = []
    numbers: dict[str, Any] = {}
    for name, text in given.items():
        if text is not None:
            try:
                numbers[name] = None if text == _NONE else int(text) if name in _WHOLE else float(text)
            except ValueError:
                kind = "a whole number" if name in _WHOLE else "a number"
                flag = f"--{name.replace('_', '-')}"
                problems.append(Problem(f"{text!r} is not {kind}: give one, or {_NONE!r}", field=flag))
    if problems:
        raise InputError(problems)
    return numbers
