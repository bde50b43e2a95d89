"""`vgen doctor`: checks the installation and its services, and says how to repair what is wrong."""

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json
from db import invariants, schema
from db.listen import hears
from db.session import Database
from pipeline import extras
from pipeline.encoding.ffmpeg import available_codecs, ffmpeg_version
from pipeline.errors import VgenError
from pipeline.models import hub
from pipeline.models.gpus import find_gpus
from pipeline.presets import load_library
from pipeline.redaction import redact
from pipeline.safety.filter import PromptSafetyFilter
from pipeline.safety.result import SafetyDecision
from pipeline.settings import Settings, notices_of
from pipeline.wiring import make_storage
from service.exit_codes import ExitCode, of_error
from service.views.operations import CheckView, DoctorView
from tasks.broker import check_broker
from tasks.lifecycle import check_settings

_OUR_NAMES = ("pipeline", "tasks", "db", "service", "server", "cli", "vgen", "migrations")
_TESTED_PYTHON = (3, 11)
_POOLED = "; a pooler such as PgBouncer stands before it: no prepared statements, time limits set in each transaction"
Check = Callable[["Settings"], "Iterator[CheckView]"]


def doctor(ctx: typer.Context, json: Json = False) -> int:
    """Check the installation and its services. Exits with 4 if a service is unreachable, with 1 on another failure."""
    settings = settings_of(ctx)
    checks: list[CheckView] = []
    code = ExitCode.DONE
    for check in CHECKS:
        try:
            for line in check(settings):
                checks.append(line)
                if line.result == "fail":
                    code = max(code, ExitCode.INTERNAL)
        except (VgenError, OSError) as error:
            name = check.__name__.strip("_").replace("_", " ")
            checks.append(_fail(name, str(error), MEND.get(check)))
            unreachable = of_error(error) is ExitCode.UNREACHABLE
            code = max(code, ExitCode.UNREACHABLE if unreachable else ExitCode.INTERNAL)
    if json:
        output.as_json(DoctorView(checks=checks, exit_code=int(code)))
        return code
    output.table(
        ("", "check", "result"),
        [(line.result, line.name, f"{line.message}{f' → {line.mend}' if line.mend else ''}") for line in checks],
    )
    return code


def _line(result: str, name: str, message: str, mend: str | None = None) -> CheckView:
    return CheckView(name=name, result=result, message=redact(message), mend=mend)


def _ok(name: str, message: str) -> CheckView:
    return _line("ok", name, message)


def _warn(name: str, message: str, mend: str | None) -> CheckView:
    return _line("warn", name, message, mend)


def _fail(name: str, message: str, mend: str | None) -> CheckView:
    return _line("fail", name, message, mend)


def _python(settings: Settings) -> Iterator[CheckView]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] == _TESTED_PYTHON:
        yield _ok("python", version)
    else:  # older than 3.11 does not even import
        yield _warn("python", version, "vgen is tested with Python 3.11")


def _packages(settings: Settings) -> Iterator[CheckView]:
    """Our top-level names are plain words: another distribution with one of them would shadow ours."""
    owners = packages_distributions()
    foreign = {name: sorted({owner for owner in owners.get(name, []) if owner != "vgen"}) for name in _OUR_NAMES}
    clashes = {name: names for name, names in foreign.items() if names}
    for name, names in clashes.items():
        mend = f"uninstall {', '.join(names)}, or install vgen into a separate environment"
        yield _fail("packages", f"package {name!r} also belongs to {', '.join(names)}", mend)
    if not clashes:
        yield _ok("packages", "no other distribution owns our names")


def _extras(settings: Settings) -> Iterator[CheckView]:
    """What is installed apart: a host that only submits or serves does without what makes clips."""
    installed = extras.installed()
    here = ", ".join(name for name, whole in installed.items() if whole) or "none"
    if installed.get(extras.GENERATE, True):
        yield _ok("extras", here)
        return
    message = f"{here}; what makes clips is not installed"
    if settings.solo:
        yield _fail("extras", message, "`pip install 'vgen[generate]'`")
    else:
        yield _ok("extras", f"{message}, and a host without workers needs none of it")


def _settings(settings: Settings) -> Iterator[CheckView]:
    check_settings(settings)  # the visibility timeout against the longest stage
    notices = notices_of()
    for text in notices:
        yield _warn("settings", text, "`vgen config` lists the settings")
    if not notices:
        mode = "solo" if settings.solo else "cluster"
        yield _ok("settings", f"{mode} mode; visibility timeout {settings.worker.visibility_timeout_s} s")


def _database(settings: Settings) -> Iterator[CheckView]:
    if settings.database_url is None and not (settings.home / "vgen.sqlite3").exists():
        yield _ok("database", f"none yet in {settings.home.absolute()}; `vgen run` makes it")
        return
    database = Database(settings.effective_database_url)
    try:
        first = database.now()
        time.sleep(0.02)
        if database.now() <= first:
            yield _fail("database clock", "it does not move, so leases never end", "use Postgres or a newer SQLite")
        else:
            skew = abs(first / 1000 - time.time())
            url = database.redacted_url
            pooled = "" if database.is_sqlite or not database.is_pooled else _POOLED
            yield _ok("database", f"{url}; its clock moves and differs from ours by {skew:.1f} s{pooled}")
        damage = database.damage()
        if damage is not None:
            yield _fail("database file", f"it is damaged: {damage}", "restore it from a backup, or move it away")
            return
        problems = schema.check(database)
        for text in problems:
            yield _fail("schema", text, "`vgen db upgrade`")
        if problems:
            return
        yield _ok("schema", "current")
        wrong = invariants.violations(database)
        for violation in wrong:
            yield _fail("accounts", str(violation), "this is a bug: please report it with `vgen events` of that id")
        if not wrong:
            yield _ok(
                "accounts", f"the counts of every batch are right; {len(invariants.RULES)} rules hold for all rows"
            )
    finally:
        database.close()


def _wake_up(settings: Settings) -> Iterator[CheckView]:
    """Steps that wait are looked for in any case; dispatchers that hear of them are quicker."""
    if settings.database_url is None or settings.database_url.startswith("sqlite"):
        return
    database = Database(settings.effective_database_url)
    try:
        try:
            database.now()
        except VgenError:
            return  # the check of the database says what is wrong with it
        is_heard = hears(database, settings.database_listen_url)
    finally:
        database.close()
    if is_heard:
        yield _ok("wake-up", "dispatchers hear of waiting steps at once")
    else:
        seconds = settings.worker.dispatch_s
        message = f"dispatchers hear nothing, and look for waiting steps every {seconds:g} s"
        yield _warn("wake-up", message, "set VGEN_DATABASE_LISTEN_URL to the database itself, past the pooler")


def _broker(settings: Settings) -> Iterator[CheckView]:
    if settings.broker_url is None:
        yield _ok("broker", "in process (solo mode)")
        return

    broker = check_broker(settings)
    encryption = "" if not broker.tls else ", by TLS, certificate verified" if broker.verified else ", by TLS"
    yield _ok("broker", f"{broker.address}: took a message and gave it back{encryption}")
    if broker.tls and not broker.verified:
        mend = "leave out ssl_cert_reqs and ssl_check_hostname; name your own authority by ssl_ca_certs"
        yield _warn("broker", "its certificate is not verified, by VGEN_BROKER_URL: anybody may pose as it", mend)
    if broker.eviction == "noeviction":
        yield _ok("broker memory", "maxmemory-policy is noeviction")
    elif broker.eviction is not None:
        mend = "set maxmemory-policy to noeviction"
        yield _warn("broker memory", f"maxmemory-policy is {broker.eviction}: Redis may drop messages", mend)


def _storage(settings: Settings) -> Iterator[CheckView]:
    make_storage(settings).check()
    yield _ok("storage", f"{settings.effective_storage}: put, read, listed and deleted objects")


def _ffmpeg(settings: Settings) -> Iterator[CheckView]:
    if not extras.installed().get(extras.GENERATE, True):
        return
    codecs = available_codecs()
    yield _ok("ffmpeg", f"{ffmpeg_version()}; encoders: {', '.join(codecs)}")
    if settings.encode.codec not in codecs:
        mend = "set VGEN_ENCODE_CODEC to one of them"
        yield _fail("ffmpeg", f"VGEN_ENCODE_CODEC {settings.encode.codec!r} is not among its encoders", mend)


def _hand_off(settings: Settings) -> Iterator[CheckView]:
    folder = settings.effective_handoff_dir
    existing: Path = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    message = f"{folder}: {free / 2**30:.1f} GiB free, cap {settings.handoff_bytes / 2**30:.1f} GiB"
    if free < settings.handoff_bytes:
        yield _warn("hand-off", message, "free some space, or lower VGEN_HANDOFF_BYTES")
    else:
        yield _ok("hand-off", message)


def _gpus(settings: Settings) -> Iterator[CheckView]:
    yield _ok(
        "GPUs", ", ".join(gpu.type for gpu in find_gpus(settings.gpu_type, 1, settings.gpus_per_worker)) or "none"
    )


def _presets(settings: Settings) -> Iterator[CheckView]:
    library = load_library(settings.effective_presets_dir)
    if settings.presets_dir is not None and not settings.effective_presets_dir.is_dir():
        yield _warn(
            "presets", f"VGEN_PRESETS_DIR {str(settings.presets_dir)!r} is not a folder", "make it, or correct it"
        )
    for problem in itertools.chain(*library.problems.values()):
        yield _warn("presets", str(problem), "correct the file; its preset cannot be used")
    if not library.problems:
        yield _ok("presets", f"{len(library.files)} of your own in {settings.effective_presets_dir}")


def _model(settings: Settings) -> Iterator[CheckView]:
    preset = load_library(settings.effective_presets_dir).get(settings.preset)
    status = hub.model_status(preset, settings.effective_cache_dir)
    if status is hub.ModelStatus.MISSING:
        say = _fail if settings.solo else _warn  # a host that only submits needs no model
        mend = f"`vgen models pull {preset.name}`"
        yield say("model", f"preset {preset.name} (VGEN_PRESET): its model is not on this machine", mend)
    elif status is hub.ModelStatus.DAMAGED:
        mend = f"`vgen models check {preset.name}` names the files; download them again"
        yield _fail("model", f"preset {preset.name} (VGEN_PRESET): its model is damaged", mend)
    else:
        weights = ", random weights" if preset.random_weights else ""
        yield _ok("model", f"preset {preset.name} (VGEN_PRESET): {status.value}{weights}")


def _safety(settings: Settings) -> Iterator[CheckView]:
    safety = settings.safety
    if safety.classifier is None:
        message = "no classifier is set: prompts are not screened"
        if "policy" in safety.model_fields_set and safety.policy != "open":
            mend = f"set VGEN_SAFETY_CLASSIFIER; without one the policy {safety.policy} has no effect"
            yield _warn("safety", message, mend)
        else:
            yield _ok("safety", message)
        return
    safety_filter = PromptSafetyFilter(safety.classifier, block_threshold=safety.threshold)
    result = safety_filter.screen("a kitten plays")  # loads it in a process of its own, as the workers do
    safety_filter.close()
    if result.decision is SafetyDecision.UNAVAILABLE:
        message = f"VGEN_SAFETY_CLASSIFIER {str(safety.classifier)!r}: {result.reason}"
        yield _fail("safety", message, "correct it; policies closed and hold refuse to run unscreened")
    else:
        yield _ok("safety", f"{safety.classifier}, policy {safety.policy}, threshold {safety.threshold:g}")


CHECKS: tuple[Check, ...] = (
    *(_python, _packages, _extras, _settings, _database, _wake_up, _broker, _storage),
    *(_ffmpeg, _hand_off, _gpus, _presets, _model, _safety),
)
MEND: dict[Check, str] = {
    _database: "start it, or correct VGEN_DATABASE_URL",
    _wake_up: "correct VGEN_DATABASE_LISTEN_URL",
    _broker: "start it, or correct VGEN_BROKER_URL",
    _storage: "start it, or correct VGEN_STORAGE and VGEN_S3_*",
    _model: "set VGEN_PRESET to one that `vgen models list` shows",
    _ffmpeg: "install imageio-ffmpeg again",
}
