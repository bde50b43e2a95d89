"""Who calls, and what they may see."""

from server.auth.caller import Caller, CurrentCaller, require, still_holds
from server.auth.ownership import owned
from server.auth.visit import CurrentVisit, Visit, seeing, sending

__all__ = ["Caller", "CurrentCaller", "CurrentVisit", "Visit", "owned", "require", "seeing", "sending", "still_holds"]
