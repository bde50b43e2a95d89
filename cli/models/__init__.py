"""`vgen models` and `vgen bench`: presets, their models, calibration, accelerations side by side."""
