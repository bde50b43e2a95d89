"""What `--json` and tables show, as plain values made of rows. docs/json-output.md is generated from here."""
