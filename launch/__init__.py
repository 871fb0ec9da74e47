"""The command line, launchers, benchmarks and the sample planet."""
