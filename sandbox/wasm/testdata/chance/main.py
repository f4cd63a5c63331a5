"""Looks at all that differs from run to run and from machine to machine."""

import datetime
import os
import random
import secrets
import sys
import tempfile
import time
import uuid

out = open(os.path.join(os.environ["TASK_RESULTS_DIR"], "seen.txt"), "w", encoding="utf-8")


def say(*what):
    print(*what, file=out)


say(time.time(), time.monotonic(), time.perf_counter_ns(), datetime.datetime.now(), time.process_time())
before = time.monotonic()
time.sleep(3600)
say(time.monotonic() - before)
say(random.random(), secrets.token_hex(), uuid.uuid4(), os.urandom(8).hex())
say(hash("spare"), {"a", "b", "c", "d"}, id(out) % 16)
with tempfile.NamedTemporaryFile() as f:
    say(f.name)
say(sorted(os.environ.items()), sys.argv, sys.path, sys.version, sys.platform, sys.byteorder, sys.executable)
for folder, folders, files in os.walk("/"):
    if folder.startswith("/lib/"):  # Python's own
        continue
    say(folder, folders, files)
    for name in folders + files:
        say(name, os.stat(os.path.join(folder, name)))
for step in (
    lambda: open("/none"),
    lambda: os.mkdir("/spare"),
    lambda: os.rmdir("/spare/results"),
    lambda: os.listdir("/spare/task/data.bin"),
    lambda: open("/spare/app", "w"),
    lambda: open("/spare/app/new", "w"),
    lambda: open("/spare/task/data.bin/x"),
    lambda: os.rename("/spare/results/seen.txt", "/tmp/x"),
    lambda: os.symlink("a", "/tmp/b"),
    lambda: open("/tmp/a:b", "w"),
):
    try:
        say("no error", step())
    except OSError as e:
        say(repr(e))
