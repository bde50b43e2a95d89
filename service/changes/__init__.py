"""Changes to stored work: pausing, cancelling, deleting, draining, budgets."""
