"""What became of each message: Postfix's log, followed and turned into delivery events."""
