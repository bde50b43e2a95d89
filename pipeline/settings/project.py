"""The folder of the project: the current one, or the nearest above with a home or a ``vgen.toml``, as git finds it.

Only what belongs to the user counts above the current folder: anybody may put files into a folder such as /tmp, and
whoever works below it would use them unasked.
"""

import os
from pathlib import Path

from pipeline.settings.files import ENV_FILE, TOML_FILE, current_folder

HOME_NAME = "vgen-home"
"""The folder of a solo run, unless a setting names another."""
DATABASE_NAME = "vgen.sqlite3"
_MARKS = (f"{HOME_NAME}/{DATABASE_NAME}", TOML_FILE)


def project_folder() -> Path:
    """Return the folder whose settings files count, and in which the home is unless a setting says otherwise."""
    folder = current_folder()
    if any(os.path.lexists(folder / mark) for mark in (HOME_NAME, TOML_FILE, ENV_FILE)):
        return folder
    try:
        device, user = folder.stat().st_dev, os.geteuid()
        for above in folder.parents:
            status = above.stat()
            if status.st_dev != device:  # as git does, and a network's folders may be slow
                break
            if status.st_uid == user and any(_is_own(above / mark, user) for mark in _MARKS):
                return above
    except OSError:  # a folder that cannot be looked into
        pass
    return folder


def _is_own(mark: Path, user: int) -> bool:
    try:
        return all(path.lstat().st_uid == user for path in (mark, mark.parent))
    except OSError:
        return False
