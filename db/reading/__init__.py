"""What people and upkeep ask of the rows: history, reports, estimates, alerts, and what retention removes."""
