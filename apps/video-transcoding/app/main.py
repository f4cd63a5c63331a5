"""Transcodes one chunk of a video with ffmpeg.

A chunk is a stretch of the film, or the sound and subtitles that go with it: both come
as TASK_DIR/data.bin, and ffprobe tells which it is. Each wanted output becomes one .mp4
in TASK_RESULTS_DIR, under the same name for every chunk; the merge joins them.
"""

import json
import os
import subprocess
import sys
from fractions import Fraction

import naming
import picture
import sound


def fail(why):
    print(f"video-transcoding: {why}", file=sys.stderr)
    sys.exit(1)


def last_words(stderr):
    """The last line in which ffmpeg says something, without its module's address."""
    verdict = ""
    for line in reversed(stderr.strip().splitlines()):
        while line.startswith("[") and "] " in line:
            line = line.split("] ", 1)[1]
        line = line.strip()
        if not line:
            continue
        if "Conversion failed" in line or "Invalid data found when processing input" in line:
            verdict = verdict or line
            continue
        return line
    return verdict or "it said nothing"


def run(argv):
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    except FileNotFoundError:
        fail(f"{argv[0]} is not installed on this node")
    return done


def probe(path):
    done = run(["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", path])
    if done.returncode != 0:
        fail(f"the chunk is not a video ffmpeg can read ({last_words(done.stderr)})")
    return json.loads(done.stdout)


def cores():
    """How many cores this run may use."""
    wanted = os.environ.get("SPARE_CORES", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def outputs(params, results):
    """The wanted outputs with the path of each file."""
    wanted = params.get("outputs")
    if not isinstance(wanted, list) or not wanted:
        fail("the parameters name no output; give at least one in outputs")
    job = os.environ.get("JOB_NAME", "")
    for i, out in enumerate(wanted):
        kind = out.get("output_type") or "mp4"
        if kind != "mp4":
            fail(f"outputs[{i}].output_type is {kind!r}; this version makes mp4 only")
        try:
            name = naming.file_name(params.get("output_template", ""), job, out)
        except naming.BadTemplate as e:
            fail(f"output_template: {e}")
        folder = results if len(wanted) == 1 else os.path.join(results, f"out_{i}")
        os.makedirs(folder, exist_ok=True)
        yield out.get("output_params") or {}, os.path.join(folder, f"{name}.{kind}")


def main():
    chunk = os.path.join(os.environ["TASK_DIR"], "data.bin")
    params = json.loads(os.environ["APP_PARAMS"])
    number = os.environ.get("CHUNK_NUMBER", "0")
    info = probe(chunk)
    films = [s for s in info["streams"] if s["codec_type"] == "video" and not s.get("disposition", {}).get("attached_pic")]
    others = [s for s in info["streams"] if s["codec_type"] in ("audio", "subtitle")]
    if not films and not others:
        fail("the chunk holds neither picture nor sound")
    threads = cores()

    argv = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y", "-threads", str(threads), "-i", chunk]
    files = []
    for out, path in outputs(params, os.environ["TASK_RESULTS_DIR"]):
        args = []
        try:
            if films:
                args += picture.arguments(films[0], out, params.get("segment") or {}, bool(others), threads)
            if others:
                args += sound.arguments(others, out)
        except picture.NoFrames:
            print(f"chunk {number}: too short for a frame of {os.path.basename(path)}")
            continue
        except ValueError as e:
            fail(e)
        if not args:
            continue
        argv += args + ["-map_metadata:g", "-1", "-map_chapters", "-1", "-dn", "-f", "mp4", path]
        files.append(path)
    if files:
        done = run(argv)
        if done.returncode != 0:
            fail(f"chunk {number}: ffmpeg: {last_words(done.stderr)}")
    what = f"{films[0]['width']}x{films[0]['height']} {films[0]['codec_name']}" if films else ", ".join(s["codec_name"] for s in others)
    length = float(Fraction(info["format"].get("duration") or 0))
    print(f"chunk {number}: {what}, {length:.3f} s, {threads} threads -> " + ", ".join(f"{os.path.basename(f)} ({os.path.getsize(f)} bytes)" for f in files))


if __name__ == "__main__":
    main()
