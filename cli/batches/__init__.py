"""Commands about batches: submit and run, follow, report, results."""
