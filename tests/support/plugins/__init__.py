"""What pytest loads for every test, and the event loops tests run on."""
