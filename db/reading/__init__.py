"""Reads for people and for upkeep: history, reports, estimates, alerts, what may be removed. Changes nothing."""
