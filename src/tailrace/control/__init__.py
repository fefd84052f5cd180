"""What a long-running command tells of itself: a document, at a socket and in the log.

No argv, and nothing that only one command has to tell: that, its own room describes.
"""
