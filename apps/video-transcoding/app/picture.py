"""ffmpeg's arguments for the picture of one output."""

import re
from fractions import Fraction

HEIGHTS = {"480p": 480, "540p": 540, "720p": 720, "1080p": 1080, "2160p": 2160}
CAMERA_RATES = {23.976: Fraction(24000, 1001), 23.98: Fraction(24000, 1001), 29.97: Fraction(30000, 1001), 59.94: Fraction(60000, 1001), 119.88: Fraction(120000, 1001)}
EIGHT_BIT = {"baseline", "main", "high", "high422", "mainstillpicture", "msp", "0", "1"}
FINEST = 10_000  # ticks per second that a time scale has at least


class NoFrames(Exception):
    """The chunk is too short to hold a frame at the wanted rate."""


def arguments(stream, out, segment, whole, threads):
    """segment tells the chunk's place in the film; whole says that sound is in the
    chunk too, so that the film's start relative to it must stay."""
    timing, time_filters = times(stream, out.get("video") or {}, segment, whole)
    filters = time_filters + geometry(stream, out.get("aspect") or {})
    pixels, codec = encoder(stream, out.get("video") or {}, timing, threads)
    filters.append(f"format={pixels}")
    return ["-map", "0:V:0", "-vf", ",".join(filters)] + codec + timing["output"]


# Time


def rate_of(text):
    """A frame rate as a fraction, None if it is not told."""
    if text in (None, "", "0/0"):
        return None
    try:
        rate = Fraction(str(text).strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"frame rate {text!r}: give a number such as 25, 29.97 or 30000/1001") from None
    if rate <= 0:
        return None
    return CAMERA_RATES.get(round(float(rate), 3), rate) if "/" not in str(text) else rate


def scale_for(ticks):
    while ticks < FINEST:
        ticks *= 2
    return ticks


def times(stream, video, segment, whole):
    """How frames get their times. Frames that are evenly spaced are counted, so that
    rounding in a container cannot add up; others keep the times they have."""
    source = rate_of(segment.get("frame_rate"))
    average = source or rate_of(segment.get("average_frame_rate")) or rate_of(stream.get("avg_frame_rate")) or Fraction(25)
    if not segment and not whole and stream.get("r_frame_rate") == stream.get("avg_frame_rate"):
        source = rate_of(stream.get("r_frame_rate"))
    wanted = rate_of((video.get("frame_rate") or {}).get("fps"))
    if wanted and (video.get("frame_rate") or {}).get("up_mode") == "avoid" and wanted > average:
        wanted = None
    if wanted and wanted != source:
        return even(wanted), new_rate(wanted, source, stream, segment, whole)
    if source and not whole:
        return even(source), [f"settb={source.denominator}/{source.numerator}", "setpts=N"]
    scale = scale_for(Fraction(stream["time_base"]).denominator)
    timing = {"rate": average, "even": False, "output": ["-fps_mode", "passthrough", "-enc_time_base", f"1:{scale}", "-video_track_timescale", str(scale)]}
    return timing, [] if whole else ["setpts=PTS-STARTPTS"]


def even(rate):
    text = f"{rate.numerator}/{rate.denominator}"
    return {"rate": rate, "even": True, "output": ["-r", text, "-fps_mode", "cfr", "-video_track_timescale", str(scale_for(rate.numerator))]}


def new_rate(wanted, source, stream, segment, whole):
    """Filters to another rate, in a grid that starts with the film and not with the
    chunk: then chunks fit together without a frame too few or too many."""
    grid = f"{wanted.numerator}/{wanted.denominator}"
    tick = f"settb={wanted.denominator}/{wanted.numerator}"
    if whole or "start" not in segment:
        return [f"fps={grid}", tick]
    start, end = Fraction(segment["start"]), Fraction(segment["end"])
    first, last = nearest(start * wanted), nearest(end * wanted)
    if last <= first:
        raise NoFrames
    if source:
        place = [f"settb={source.denominator}/{source.numerator}", f"setpts=N+{nearest(start * source)}"]
    else:
        place = [f"setpts=PTS-STARTPTS+round({start.numerator}/{start.denominator}/TB)"]
    count = last - first
    return place + [
        f"fps={grid}:round=near:start_time={float(first / wanted):.9f}",
        f"tpad=stop={count}:stop_mode=clone", f"trim=end_frame={count}", tick, "setpts=N",
    ]


def nearest(x):
    return int(x + Fraction(1, 2))


# Geometry


def even_down(x):
    return max(2, int(x) // 2 * 2)


def nearest_even(x):
    return max(2, int(x / 2 + Fraction(1, 2)) * 2)


def ratio(text, what):
    m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[:/]\s*(\d+(?:\.\d+)?)\s*", text)
    if not m or Fraction(m[1]) == 0 or Fraction(m[2]) == 0:
        raise ValueError(f"{what} {text!r}: give something like 16:9")
    return Fraction(m[1]) / Fraction(m[2])


def turned(stream):
    """Whether a player shows the stream on its side; ffmpeg turns it upright by itself."""
    for side in stream.get("side_data_list", []):
        if "rotation" in side and abs(int(side["rotation"])) % 180 == 90:
            return True
    return False


def number(x, default=0):
    return default if x in (None, "") else int(x)


def geometry(stream, aspect):
    width, height = stream["width"], stream["height"]
    pixel = Fraction((stream.get("sample_aspect_ratio") or "1:1").replace(":", "/")) if stream.get("sample_aspect_ratio") not in (None, "N/A", "0:1") else Fraction(1)
    if turned(stream):
        width, height, pixel = height, width, 1 / pixel
    filters = []

    crop = aspect.get("cropping") or {}
    top, bottom, left, right = (number(crop.get(side)) for side in ("top", "bottom", "left", "right"))
    if top or bottom or left or right:
        if left + right >= width - 1 or top + bottom >= height - 1:
            raise ValueError(f"cropping takes {left + right}x{top + bottom} pixels of a picture of {width}x{height}")
        width, height = width - left - right, height - top - bottom
        filters.append(f"crop={width}:{height}:{left}:{top}:exact=1")

    filters_turn, swaps = orientation(aspect.get("orientation") or {})
    filters += filters_turn
    if swaps:
        width, height, pixel = height, width, 1 / pixel

    wide, high = target(width, height, pixel, aspect.get("resolution") or {})
    if pixel == 1 and 0 <= width - wide < 2 and 0 <= height - high < 2:
        if (wide, high) != (width, height):
            filters.append(f"crop={wide}:{high}:0:0")  # one odd line or column
    else:
        filters += [f"scale={wide}:{high}:flags=bicubic"]
    filters.append("setsar=1")
    return filters + padding(wide, high, aspect.get("padding") or {})


def orientation(o):
    turns = {"": [], "0": [], "90": ["transpose=clock"], "180": ["hflip", "vflip"], "270": ["transpose=cclock"]}
    flips = {"": [], "horizontal": ["hflip"], "vertical": ["vflip"]}
    rotation, flip = str(o.get("rotation") or ""), o.get("flip") or ""
    if rotation not in turns:
        raise ValueError(f"orientation.rotation {rotation!r}: give 90, 180 or 270 (degrees clockwise)")
    if flip not in flips:
        raise ValueError(f"orientation.flip {flip!r}: give horizontal or vertical")
    return turns[rotation] + flips[flip], rotation in ("90", "270")


def target(width, height, pixel, resolution):
    """The size of the picture in square pixels, both even."""
    shape = Fraction(width, height) * pixel
    if resolution.get("aspect_ratio"):
        shape = ratio(resolution["aspect_ratio"], "resolution.aspect_ratio")
    wanted = resolution.get("height") or ""
    high = height
    if wanted == "custom":
        high = number(resolution.get("custom_height"))
        if high < 2:
            raise ValueError('resolution.height is "custom": give custom_height, 2 or more')
    elif wanted:
        if wanted not in HEIGHTS:
            raise ValueError(f"resolution.height {wanted!r}: give one of {', '.join(HEIGHTS)} or custom")
        high = HEIGHTS[wanted]
    if resolution.get("avoid_upscaling") and high > height:
        high = height
    if high == height and shape == Fraction(width, height):
        return even_down(width), even_down(height)
    high = nearest_even(high)
    return nearest_even(high * shape), high


def padding(width, height, pad):
    if not pad.get("final_aspect_ratio"):
        return []
    shape = ratio(pad["final_aspect_ratio"], "padding.final_aspect_ratio")
    wide, high = width, height
    if shape > Fraction(width, height):
        wide = nearest_even(height * shape)
    else:
        high = nearest_even(width / shape)
    if (wide, high) == (width, height):
        return []
    color = pad.get("fill_color") or "#000000"
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
        raise ValueError(f"padding.fill_color {color!r}: give #rrggbb")
    return [f"pad={wide}:{high}:(ow-iw)/2:(oh-ih)/2:color={color}"]


# Coding


def bits(x, what):
    """A bit rate in bits per second, from 2500000, "2500k" or "2.5M"."""
    m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmM]?)(?:b?ps|bit/s)?\s*", str(x))
    if not m or Fraction(m[1]) == 0:
        raise ValueError(f"{what} {x!r}: give something like 2500k or 2.5M")
    return int(Fraction(m[1]) * {"": 1, "k": 1000, "m": 1_000_000}[m[2].lower()])


def rate_control(codec, bitrate):
    mode = bitrate.get("rate_control_mode") or "constant_quality"

    def limit(flag, key):
        return [flag, str(bits(bitrate[key], f"bitrate.{key}"))] if bitrate.get(key) not in (None, "") else []

    if mode == "constant_quality":
        quality = number(bitrate.get("crf"), {"libx264": 23, "libx265": 28, "libvpx-vp9": 31}[codec])
        args = ["-crf", str(quality)] + limit("-maxrate", "max_bitrate")
        if codec == "libvpx-vp9":
            return args + ["-b:v", "0"]
        return args + (limit("-bufsize", "buffer_size") if bitrate.get("max_bitrate") else [])
    if mode == "constant_bitrate":
        if bitrate.get("target_bitrate") in (None, ""):
            raise ValueError("bitrate.rate_control_mode is constant_bitrate: give target_bitrate")
        rate = bits(bitrate["target_bitrate"], "bitrate.target_bitrate")
        buffer = limit("-bufsize", "buffer_size") or ["-bufsize", str(rate * 2)]
        return ["-b:v", str(rate), "-minrate", str(rate), "-maxrate", str(rate)] + buffer
    if mode == "variable_bitrate":
        if bitrate.get("avg_bitrate") in (None, ""):
            raise ValueError("bitrate.rate_control_mode is variable_bitrate: give avg_bitrate")
        args = limit("-b:v", "avg_bitrate") + limit("-minrate", "min_bitrate") + limit("-maxrate", "max_bitrate") + limit("-bufsize", "buffer_size")
        if bitrate.get("max_bitrate") not in (None, "") and bitrate.get("buffer_size") in (None, ""):
            args += ["-bufsize", str(2 * bits(bitrate["max_bitrate"], "bitrate.max_bitrate"))]
        return args
    raise ValueError(f"bitrate.rate_control_mode {mode!r}: give constant_quality, constant_bitrate or variable_bitrate")


def encoder(stream, video, timing, threads):
    """The pixel format and the encoder's arguments."""
    codec = video.get("codec") or "libx264"
    extra = video.get("codec_params") or {}
    if codec not in ("libx264", "libx265", "libvpx-vp9"):
        raise ValueError(f"video.codec {codec!r}: give libx264, libx265 or libvpx-vp9")
    deep = re.search(r"(10|12|14|16)(le|be)$|^p0?1[026]", stream.get("pix_fmt") or "") is not None
    pixels = "yuv420p10le" if deep and str(extra.get("profile") or "") not in EIGHT_BIT else "yuv420p"
    args = ["-c:v", codec] + rate_control(codec, video.get("bitrate") or {})
    if codec == "libvpx-vp9":
        args += ["-deadline", "good", "-cpu-used", str(number(extra.get("cpu_used"), 2)), "-row-mt", "1", "-threads", str(threads)]
        return pixels, args + (["-profile:v", str(extra["profile"])] if extra.get("profile") else [])
    for flag, key in (("-preset", "preset"), ("-tune", "tune")):
        if extra.get(key):
            args += [flag, str(extra[key])]
    rate = f"{timing['rate'].numerator}/{timing['rate'].denominator}"
    if codec == "libx264":
        args += ["-threads", str(threads)]
        for flag, key in (("-profile:v", "profile"), ("-level:v", "level")):
            if extra.get(key):
                args += [flag, str(extra[key])]
        # The rate decides the level in the header, and a header must be alike in all chunks.
        return pixels, args + ([] if timing["even"] else ["-x264-params", f"fps={rate}"])
    # Without its name card (info) in the header, x265 writes equal ones on unequal nodes.
    tuned = ["log-level=error", "info=0", f"pools={threads}", f"frame-threads={min(max(threads // 2, 1), 4)}"]
    if extra.get("level"):
        tuned.append(f"level-idc={extra['level']}")
    if not timing["even"]:
        tuned.append(f"fps={rate}")
    if extra.get("profile"):
        args += ["-profile:v", str(extra["profile"])]
    return pixels, args + ["-x265-params", ":".join(tuned), "-tag:v", "hvc1"]
