"""Who calls, and what they may see."""

from server.auth.caller import Caller, CurrentCaller, require, still_holds
from server.auth.ownership import owned

__all__ = ["Caller", "CurrentCaller", "owned", "require", "still_holds"]
