"""``/submit``: a prompt file that is pasted, dropped or chosen; first what would be made, then to make it."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.responses import RedirectResponse

from pipeline.errors import MAX_PROBLEMS_SHOWN, InputError, Problem
from pipeline.prompts.formats.lines import MAX_FILE_BYTES
from server.auth import Visit, seeing, sending
from server.database import ServedLine
from server.native.batches import submit_upload
from server.native.bodies import BatchOptions
from server.pages.rendering import page
from server.pages.route import PageRoute
from service.views.submissions import DryRunView

router = APIRouter(route_class=PageRoute, include_in_schema=False)
FORMATS = ("txt", "jsonl", "csv", "yaml")
_SHOWN = 50


@router.get("/submit")
def ask_for_prompts(request: Request, visit: Annotated[Visit, Depends(seeing("batches.write"))]) -> Response:
    """Show the form."""
    return _form(request, visit, {})


@router.post("/submit")
async def submit(
    request: Request,
    line: ServedLine,
    visit: Annotated[Visit, Depends(sending("batches.write"))],
    text: Annotated[str, Form()] = "",
    format: Annotated[str, Form()] = "txt",  # noqa: A002 - the field's name
    name: Annotated[str, Form()] = "",
    score: Annotated[str, Form()] = "",
    again: Annotated[bool, Form()] = False,
    dry_run: Annotated[bool, Form()] = False,
    file: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Store the prompts, or show what they would become."""
    given: dict[str, Any] = {"text": text, "format": format, "name": name, "score": score, "again": again}
    try:
        if file is not None and file.filename:
            given |= await _of_file(file)
        if given["format"] not in FORMATS:
            raise InputError([Problem(f"use one of {', '.join(FORMATS)}", field="format")])
        options = _options(given, dry_run=dry_run)
        data, source = given["text"].replace("\r\n", "\n").encode(), f"{name.strip() or 'prompts'}.{given['format']}"
        named = bool(name.strip()) or (file is not None and bool(file.filename))
        result = await run_in_threadpool(submit_upload, data, source, options, line, visit.caller, has_name=named)
    except InputError as error:
        return _form(request, visit, given, problems=error.problems[:MAX_PROBLEMS_SHOWN], status=400)
    if isinstance(result, DryRunView):
        return _form(request, visit, given, plan=result)
    return RedirectResponse(f"/batches/{result.batch.id}", 303)


async def _of_file(file: UploadFile) -> dict[str, str]:
    """The text and format of an uploaded file. Raises InputError."""
    data, path = await file.read(MAX_FILE_BYTES + 1), PurePosixPath(file.filename or "")
    ending = {"yml": "yaml"}.get(path.suffix[1:].lower(), path.suffix[1:].lower())
    try:
        return {"text": data.decode("utf-8-sig"), "format": ending if ending in FORMATS else "txt"}
    except UnicodeDecodeError as error:
        raise InputError([Problem(f"is not UTF-8 text: see byte {error.start}", file=path.name)]) from None


def _options(given: dict[str, Any], *, dry_run: bool) -> BatchOptions:
    """Raises InputError."""
    try:
        return BatchOptions(
            name=given["name"].strip() or None, score=given["score"].strip() or None, again=given["again"],
            dry_run=dry_run,
        )  # fmt: skip
    except ValidationError as error:
        raise InputError([Problem(item["msg"], field=str(item["loc"][0])) for item in error.errors()]) from None


def _form(
    request: Request,
    visit: Visit,
    given: dict[str, Any],
    *,
    problems: tuple[Problem, ...] = (),
    plan: DryRunView | None = None,
    status: int = 200,
) -> Response:
    values = {"text": "", "format": "txt", "name": "", "score": "", "again": False} | given
    shown = [] if plan is None else plan.jobs[:_SHOWN]
    return page(
        request,
        visit,
        "submit.html",
        status,
        given=values,
        problems=problems,
        plan=plan,
        planned=shown,
        formats=FORMATS,
    )
