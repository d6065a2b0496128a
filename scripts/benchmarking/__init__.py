"""What the benchmark measures: its inputs, its workloads, and how their time grows."""
