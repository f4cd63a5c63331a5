"""ffmpeg's arguments for the sound and the subtitles of one output."""

import re

CHANNELS = {"1.0": 1, "mono": 1, "2.0": 2, "stereo": 2, "5.1": 6, "7.1": 8}
TEXT = {"subrip", "srt", "ass", "ssa", "webvtt", "mov_text", "text"}


def arguments(streams, out):
    audio = [s for s in streams if s["codec_type"] == "audio"]
    subtitles = [s for s in streams if s["codec_type"] == "subtitle"]
    args = []
    for s in audio:
        args += ["-map", f"0:{s['index']}"]
    if audio:
        args += coding(audio, out.get("audio") or {})
    return args + titles(subtitles, out)


def coding(streams, params):
    codec = params.get("audio_codec") or "AAC"
    if codec.upper() != "AAC":
        raise ValueError(f"audio.audio_codec {codec!r}: this version makes AAC only")
    # Holes in the sound are filled with silence: it must last as long as the film.
    args = ["-c:a", "aac", "-af", "aresample=async=1"]
    if params.get("audio_bitrate"):
        args += ["-b:a", str(params["audio_bitrate"])]
    channels = str(params.get("audio_channel") or "")
    if channels:
        if channels not in CHANNELS:
            raise ValueError(f"audio.audio_channel {channels!r}: give one of {', '.join(CHANNELS)}")
        args += ["-ac", str(CHANNELS[channels])]
    rate = str(params.get("audio_sample_rate") or "")
    if rate:
        m = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(khz|hz)?", rate, flags=re.I)
        if not m:
            raise ValueError(f"audio.audio_sample_rate {rate!r}: give something like 48khz")
        hertz = float(m[1]) * (1000 if (m[2] or "").lower() == "khz" or float(m[1]) < 1000 else 1)
        args += ["-ar", str(round(hertz))]
    return args


def titles(streams, out):
    """mp4 holds subtitles as text. Those that are pictures are refused, not lost."""
    if (out.get("subtitles") or "keep") == "drop":
        for s in streams:
            print(f"subtitle track {s['index']} ({s.get('codec_name')}) is left out, as subtitles is \"drop\"")
        return []
    args = []
    for s in streams:
        if s.get("codec_name") not in TEXT:
            raise ValueError(f"subtitle track {s['index']} ({s.get('codec_name')}) is made of pictures, which mp4 cannot hold; set subtitles to \"drop\" to go without")
        args += ["-map", f"0:{s['index']}"]
    return args + (["-c:s", "mov_text"] if args else [])
