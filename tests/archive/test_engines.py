"""The databases that the tests run on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from support.postfix import is_running
from support.waiting import wait_until

PATIENCE = 30.0
TESTS = Path(__file__).parent.parent


def test_each_engine_takes_a_table(database_url: str) -> None:
    """The database is there, empty, and ours to fill."""
    engine = sqlalchemy.create_engine(database_url)
    with engine.begin() as connection:
        assert sqlalchemy.inspect(connection).get_table_names() == []
        connection.exec_driver_sql("CREATE TABLE fact (number INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO fact VALUES (1)")
    engine.dispose()


LEFT_ALONE = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from support import {module}
server = {module}.shared()
print(server.pid, server.directory, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("module", ["postgresql", "mariadb"])
def test_a_server_does_not_outlive_a_killed_test(module: str) -> None:
    """kill -9 of the test process ends its server, too, and removes the directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT_ALONE.format(module=module), str(TESTS)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    wait_until(lambda: not Path(directory).exists(), f"the end of {directory}", PATIENCE)
    assert not is_running(int(pid))
