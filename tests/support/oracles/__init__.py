"""What outcomes are judged by, independent of the code under test."""
