"""Block formats and the choice of values: arrays in, blocks out; no files, models or devices."""
