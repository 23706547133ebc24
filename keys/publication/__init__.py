"""Between a key and the DNS: asking the servers that answer for a name, and publishing there."""
