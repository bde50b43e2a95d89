"""A folder that holds more modules than a reader can take in is split."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_MODULES = 20
PACKAGES = ("pipeline", "db", "tasks", "service", "server", "cli", "vgen", "bench", "examples")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_has_more_modules_than_a_reader_can_take_in(package: str) -> None:
    folders = [ROOT / package, *(folder for folder in (ROOT / package).rglob("*") if folder.is_dir())]
    modules = {folder: [file for file in folder.glob("*.py") if file.name != "__init__.py"] for folder in folders}
    crowded = {
        str(folder.relative_to(ROOT)): len(files) for folder, files in modules.items() if len(files) > MOST_MODULES
    }
    assert not crowded, f"split these folders: {crowded}"
