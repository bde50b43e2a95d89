"""The texts that tell a language model what to do: shipped ones, or those of a folder, read again when they change."""

from enum import StrEnum
from importlib import resources
from pathlib import Path

from pipeline.errors import RefusedError


class Operation(StrEnum):
    """The operations of an enhancer; each has a system prompt of its name."""

    ENHANCE = "enhance"
    """Make a prompt richer."""
    AUTO_EXTEND = "auto_extend"
    """Write the prompt of the next segment."""
    REWRITE = "rewrite"
    """Write alternatives."""
    WRITE_WINDOW = "write_window"
    """Write the prompts of a whole video, one a segment, from an idea."""
    REWRITE_WINDOW = "rewrite_window"
    """Change the prompts of a whole video, one a segment, as an instruction says."""


class SystemPrompts:
    """System prompts from ``directory``; a file that is not there is replaced by the shipped one."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self._read: dict[Operation, tuple[tuple[int, int, int], str]] = {}

    def get(self, operation: Operation) -> str:
        """The text in force now.

        Raises:
            RefusedError: code ``system_prompt_invalid``; the folder's file is empty, unreadable or not UTF-8.
        """
        if self.directory is None:
            return _shipped(operation)
        path = self.directory / f"{operation}.txt"
        try:
            stat = path.stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if operation not in self._read or self._read[operation][0] != version:
                self._read[operation] = (version, path.read_text("utf-8-sig").strip())
        except FileNotFoundError:
            return _shipped(operation)
        except (OSError, UnicodeDecodeError) as error:
            raise RefusedError(f"system prompt {path} cannot be read: {error}", code="system_prompt_invalid") from None
        text = self._read[operation][1]
        if not text:
            raise RefusedError(f"system prompt {path} is empty", code="system_prompt_invalid")
        return text

    def reload(self) -> None:
        """Forget what was read."""
        self._read.clear()


def _shipped(operation: Operation) -> str:
    return (resources.files("pipeline.enhancers") / "system_prompts" / f"{operation}.txt").read_text("utf-8").strip()
