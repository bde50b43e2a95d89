"""`vgen keys`: keys with which programs call `vgen serve`."""

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
    typer.Option("--max-active-jobs", metavar="N", help="Most of its jobs that are open at once, or 'none'."),
]
MaxClips = Annotated[
    str | None,
    typer.Option("--max-daily-clips", metavar="N", help="Most clips that it asks for in 24 hours, or 'none'."),
]
MaxGpu = Annotated[
    str | None,
    typer.Option(
        "--max-daily-gpu-seconds", metavar="SECONDS", help="GPU time of what it submits in 24 hours, or 'none'."
    ),
]
_NONE = "none"
_WHOLE = ("max_active_jobs", "max_daily_clips")
app = typer.Typer(help="Make, list and revoke the keys with which programs call `vgen serve`.", no_args_is_help=True)


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, so that you know it again.")],
    owner: Annotated[
        str | None,
        typer.Option(
            "--owner", callback=checked_owner, help="Whose batches it makes and sees; default: the setting owner."
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="What it may do; repeatable. Default: all but metrics.read and admin, which sees every owner's.",
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="When it ends: +90d, +8h or 2027-03-01T07:00.")
    ] = None,
    max_active_jobs: MaxActive = None,
    max_daily_clips: MaxClips = None,
    max_daily_gpu_seconds: MaxGpu = None,
    json: Json = False,
) -> int:
    """Make a key and show it, which happens only now: what is stored is a digest."""
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
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Keys, by the eight characters of their ids.")],
    json: Json = False,
) -> int:
    """End keys for good, at once; what was made with them stays."""
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
    key: Annotated[str, typer.Argument(metavar="ID", help="A key, by the eight characters of its id.")],
    max_active_jobs: MaxActive = None,
    max_daily_clips: MaxClips = None,
    max_daily_gpu_seconds: MaxGpu = None,
    json: Json = False,
) -> int:
    """Change how much a key may have; without options, show it. Requests beyond it are answered 429."""
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
