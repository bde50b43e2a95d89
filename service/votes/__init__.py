"""Stars, notes and votes of people: given, read, and exported for the tools that people judge clips with."""

from service.votes.export import EXPORTS, exported
from service.votes.judging import cast_vote, change_rating, votes_of

__all__ = ["EXPORTS", "cast_vote", "change_rating", "exported", "votes_of"]
