"""`vgen models` and `vgen bench`: presets, their models, calibration, benchmarks of accelerations."""
