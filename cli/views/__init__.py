"""What `--json` prints and tables show: plain values made of rows. docs/json-output.md is generated from here."""
