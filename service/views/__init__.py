"""The documents of `--json` and HTTP, as plain values. docs/json-output.md is generated from them."""
