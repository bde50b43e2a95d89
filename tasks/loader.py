"""Celery's loader, importing by ``sys.path`` alone, never from the current folder, which may be somebody else's."""

from types import ModuleType
from typing import Any

from celery.loaders.app import AppLoader


class PathLoader(AppLoader):  # type: ignore[misc]
    """Celery's loader without its habit to put the current folder in front of ``sys.path`` while it imports."""

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> ModuleType:
        imported: ModuleType = (imp or self.import_module)(module, package=package)
        return imported
