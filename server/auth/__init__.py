"""Who calls, and what they may see."""

from server.auth.caller import Caller, CurrentCaller, require
from server.auth.ownership import owned

__all__ = ["Caller", "CurrentCaller", "owned", "require"]
