"""`vgen db`: creates, upgrades and checks the tables."""

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json
from db import invariants, schema
from db.session import Database
from service.exit_codes import ExitCode
from service.views.operations import DatabaseCheckView

app = typer.Typer(help="The database's tables.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(ctx: typer.Context) -> int:
    """Bring the tables to this release's form; again changes nothing."""
    database = Database(settings_of(ctx).effective_database_url)
    try:
        schema.upgrade(database)
    finally:
        database.close()
    output.line("the database is up to date")
    return 0


@app.command("check")
def check(ctx: typer.Context, json: Json = False) -> int:
    """Check the schema version and the rules that all rows must obey. Exits with 3 if not."""
    database = Database(settings_of(ctx).effective_database_url)
    try:
        problems = list(schema.check(database))
        if not problems:
            problems = [str(violation) for violation in invariants.violations(database)]
        url = database.redacted_url
    finally:
        database.close()
    if json:
        output.as_json(DatabaseCheckView(database=url, problems=problems))
    else:
        for text in problems or ["the database is up to date"]:
            output.line(text)
    return ExitCode.INCOMPLETE if problems else ExitCode.DONE
