"""What may happen to a line in any order, a file a cause; tests/unit/db/test_state_machine.py lets it happen."""
