"""Tables, verdicts and plots of the results."""
