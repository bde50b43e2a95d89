"""What is dispatched to which queue and when: capacity, placement of models, budgets."""
