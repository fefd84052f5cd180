"""Child processes: started clean, watched from outside, always reaped."""
