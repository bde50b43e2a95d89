"""Who calls, and what they may see."""

from server.auth.caller import Caller, CurrentCaller, Permission, admit, require, still_holds
from server.auth.ownership import owned
from server.auth.visit import CurrentVisit, Visit, seeing, sending

__all__ = [
    "Caller",
    "CurrentCaller",
    "CurrentVisit",
    "Permission",
    "Visit",
    "admit",
    "owned",
    "require",
    "seeing",
    "sending",
    "still_holds",
]
