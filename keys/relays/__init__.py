"""Between a key and the relays that sign with it: what workers acknowledge, what queues hold."""
