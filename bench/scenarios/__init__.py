"""The scenarios: each knows what to do with a contender and which figures come out."""
