"""What a person at a terminal does with tunnels: on the library only.

No argv and no exit codes; the one exception is the status of a program that is run for its user.
"""
