"""Changes the case of a text. Reads TASK_DIR/data.bin, writes hello_world_processed.txt."""

import json
import os
import sys

CASES = {"upper": str.upper, "lower": str.lower, "title": str.title}

params = json.loads(os.environ["APP_PARAMS"])
case = params.get("case", "upper")
if case not in CASES:
    sys.exit(f"hello-world: case {case!r}: give one of {', '.join(CASES)}")

source = os.path.join(os.environ["TASK_DIR"], "data.bin")
result = os.path.join(os.environ["TASK_RESULTS_DIR"], "hello_world_processed.txt")
lines = 0
try:
    with open(source, encoding="utf-8", newline="") as text, open(result, "w", encoding="utf-8", newline="") as out:
        for line in text:
            out.write(CASES[case](line))
            lines += 1
except UnicodeDecodeError as e:
    sys.exit(f"hello-world: the input is no UTF-8 text (byte {e.start}); save it as UTF-8")
print(f"chunk {os.environ.get('CHUNK_NUMBER', '0')}: {lines} lines to {case} case")
