"""The commit of a checkout, by git's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.evals.software import checked_out_commit, software_version

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git/refs/heads/main").write_text(f"{COMMIT}\n")
    return tmp_path


def test_the_commit_of_a_branch_of_packed_refs_and_of_no_branch(checkout: Path) -> None:
    assert checked_out_commit(checkout) == COMMIT
    (checkout / ".git/refs/heads/main").unlink()
    (checkout / ".git/packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    assert checked_out_commit(checkout) == COMMIT
    (checkout / ".git/HEAD").write_text(f"{COMMIT}\n")
    assert checked_out_commit(checkout) == COMMIT


def test_the_commit_of_a_further_work_tree(checkout: Path, tmp_path: Path) -> None:
    own = checkout / ".git/worktrees/other"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "commondir").write_text("../..\n")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {own}\n")
    assert checked_out_commit(tree) == COMMIT


@pytest.mark.parametrize("head", ["", "ref: refs/heads/none", "not a commit", "\xff\xfe"])
def test_what_is_no_checkout_has_no_commit(checkout: Path, head: str) -> None:
    (checkout / ".git/HEAD").write_text(head, "latin-1")
    assert checked_out_commit(checkout) is None
    assert checked_out_commit(checkout / "nowhere") is None


def test_the_version_is_that_of_the_package() -> None:
    assert software_version().startswith("0.")
