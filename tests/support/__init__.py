"""What tests, benchmarks, fuzzing and the soak share; nothing here is a test."""
