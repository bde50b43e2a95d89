"""Ratings, notes and votes: given, read, and exported for other tools."""

from service.votes.export import EXPORTS, exported
from service.votes.judging import cast_vote, change_rating, votes_of

__all__ = ["EXPORTS", "cast_vote", "change_rating", "exported", "votes_of"]
