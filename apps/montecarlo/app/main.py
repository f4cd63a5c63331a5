"""Estimates pi. Every chunk throws its own darts, seeded by the job's seed and its number,
and writes one line of JSON to result.json."""

import json
import os
import random
import sys

params = json.loads(os.environ["APP_PARAMS"])
samples = params.get("samples", 200_000)
if not isinstance(samples, int) or samples < 1:
    sys.exit(f"montecarlo: samples is {samples!r}; give a whole number above 0")
chunk = int(os.environ["CHUNK_NUMBER"])
draw = random.Random(f"{params.get('seed', 1)}:{chunk}").random

inside = 0
for _ in range(samples):
    x, y = draw(), draw()
    if x * x + y * y <= 1.0:
        inside += 1

result = {"chunk": chunk, "samples": samples, "inside": inside, "pi": 4 * inside / samples}
with open(os.path.join(os.environ["TASK_RESULTS_DIR"], "result.json"), "w", encoding="utf-8") as out:
    json.dump(result, out)
    out.write("\n")
print(f"chunk {chunk}: {inside} of {samples} inside, pi is about {result['pi']:.6f}")
