"""A stage is one file: added to a copy of the code by the edits of docs/stages.md alone, it is passed by a job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.faults.run_mutants import COPIED

STAGE = '''"""Stamp: note the digest of the clip that is about to be published."""

from __future__ import annotations

from pipeline.outputs import StampOutput
from pipeline.work import StageContext, StageResult, StepWork


def run(work: StepWork, context: StageContext) -> StageResult[StampOutput]:
    context.check()
    return StageResult(StampOutput(of=work.outputs.encoded.file("video").sha256))
'''
MIGRATION = '''"""Stamps."""

from alembic import op

from db.base import one_of
from pipeline.states import Stage

revision = "8999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("steps") as table:
        table.drop_constraint(op.f("ck_steps_stage"), type_="check")
        table.create_check_constraint(op.f("ck_steps_stage"), one_of("stage", Stage))


def downgrade() -> None:
    with op.batch_alter_table("steps") as table:
        table.drop_constraint(op.f("ck_steps_stage"), type_="check")
        before = ", ".join(repr(stage.value) for stage in Stage if stage.value != "stamp")
        table.create_check_constraint(op.f("ck_steps_stage"), f"stage IN ({{before}})")
'''
OUTPUT = '''class StampOutput(StageOutput):
    """The sha256 of the encoded video."""

    of: str


'''
EDITS = (
    ("pipeline/outputs.py", "class PublishOutput(", OUTPUT + "class PublishOutput("),
    (
        "pipeline/outputs.py",
        "    publish: PublishOutput |",
        "    stamp: StampOutput | None = None\n    publish: PublishOutput |",
    ),
    ("pipeline/outputs.py", "    Stage.PUBLISH:", "    Stage.STAMP: StampOutput,\n    Stage.PUBLISH:"),
    ("pipeline/states.py", '    PUBLISH = "publish"\n', '    STAMP = "stamp"\n    PUBLISH = "publish"\n'),
    ("pipeline/policy/routes.py", "Stage.PUBLISH: IO_QUEUE}", "Stage.STAMP: CPU_QUEUE, Stage.PUBLISH: IO_QUEUE}"),
    ("docs/stages.md", "\n| `publish` | `vgen.io` |", "\n| `stamp` | `vgen.cpu` | | |\n| `publish` | `vgen.io` |"),
    ("docs/stages.md", "\n## publish\n", "\n## stamp\n\nIt notes the digest.\n\n## publish\n"),
)
JOB = '''
from tests.faults.conftest import *  # the cluster of the fault tests


def test_a_job_passes_the_new_stage(world):
    batch_id = world.clips(2, steps=2)

    world.wait_ended(batch_id)

    runs = world.rows(f"""SELECT r.stage, r.outcome, r.queue FROM stage_runs r JOIN jobs j ON j.id = r.job_id
        WHERE j.batch_id = '{batch_id}' AND j.state = 'succeeded' ORDER BY r.job_id, r.id""")
    stages = [stage for stage, _, _ in runs]
    assert stages == ["screen", "generate", "encode", "stamp", "publish"] * 2
    assert ("stamp", "done", "vgen.cpu") in runs
    outputs = world.rows("SELECT output->>'of' FROM steps WHERE stage = 'stamp'")
    videos = world.rows("SELECT sha256 FROM artifacts WHERE kind = 'video'")
    assert set(outputs) == set(videos)
'''


def test_a_job_passes_a_stage_that_was_added_by_the_documented_edits(tmp_path: Path) -> None:
    # Given a copy of the code with one stage more
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / name)
    (tree / "pipeline/stages/stamp.py").write_text(STAGE)
    head = max(path.name[:4] for path in (tree / "migrations/versions").glob("0*.py"))
    (tree / "migrations/versions/8999_stamp.py").write_text(MIGRATION.format(head=head))
    for file, old, new in EDITS:
        text = (tree / file).read_text("utf-8")
        assert text.count(old) == 1, (file, old)
        (tree / file).write_text(text.replace(old, new), "utf-8")
    (tree / "tests/faults/test_new_stage.py").write_text(JOB)

    # When its tests and a cluster run
    docs = "tests/unit/test_docs.py::test_every_stage_has_its_row_and_its_section"
    tests = ["tests/faults/test_new_stage.py", docs, "tests/migrations/test_migrations.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    # Then a job has passed it, and nothing else had to be told
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
