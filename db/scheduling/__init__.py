"""The dispatch of steps to queues: capacity, placement of models, budgets."""
