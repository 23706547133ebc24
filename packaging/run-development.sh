#!/bin/sh
# Serve in the foreground with a development configuration under build/run.
# Makes the configuration and a key for example.com on the first run and keeps them afterwards.
set -eu
cd "$(dirname "$0")/.."
carbonseal=$PWD/.venv/bin/carbonseal
mkdir -p build/run/spool
config=build/run/carbonseal.yaml
if [ ! -e "$config" ]; then
    cat >"$config" <<'YAML'
milter:
  socket: inet:8894@127.0.0.1
ours:
  domains: [example.com]
  networks: [127.0.0.0/8]   # development only: whoever can connect locally may speak for us
  local_submission: true
signing:
  keys: keys
archive:
  recipients: [archive@archive.example.net]
record:
  spool: spool
  database: sqlite:///archive.db
YAML
    "$carbonseal" --config "$config" keys generate example.com --activate --assume-published
fi
echo "Configuration: $config   Postfix lines:"
echo
"$carbonseal" --config "$config" postfix snippet
echo
echo "Serving; stop with Ctrl-C, read the configuration again with kill -HUP."
exec "$carbonseal" --config "$config" run
