"""What the tables in docs/results.md are made with: parity, faults, benchmarks, the reference."""
