"""What people and programs can ask for, by the command line, HTTP or Python.

Here a prompt file or a request becomes a stored batch, and rows become the values that ``--json`` and HTTP show.
"""
