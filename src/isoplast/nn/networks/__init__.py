"""The networks of the benchmarks, and how they are specified and built."""
