"""Who calls, and what they may see."""

from server.auth.caller import Caller, CurrentCaller, Permission, admit, require, still_holds
from server.auth.ownership import owned

__all__ = ["Caller", "CurrentCaller", "Permission", "admit", "owned", "require", "still_holds"]
