"""The models behind the native VBench dimensions. The only part of scoring that imports torch."""
