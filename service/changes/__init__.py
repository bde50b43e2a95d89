"""Changes of what is already stored: holding, cancelling, deleting, draining, pausing, budgets."""
