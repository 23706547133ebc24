# What Python sees of _many_rows.c, which SQLite loads; see inserting.py.
CAN_READ: bool  # false where it was built without SQLite's header
