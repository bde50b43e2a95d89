"""What people and programs may ask of the line, whichever way they ask: the layer under the command line and HTTP.

Here a prompt file or a request becomes a stored batch, and rows become the values that ``--json`` and HTTP show.
"""
