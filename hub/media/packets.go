package media

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Packet is one coded frame in decoding order.
type Packet struct {
	PTS, DTS int64 // ticks of the track's time base
	Duration int64 // ticks, 0 if unknown
	Key      bool
	Hidden   bool // decoded but never shown: before the point where the film begins
	Damaged  bool
}

const (
	flagKey     = 1
	flagCorrupt = 2
	flagDiscard = 4
	noPTS       = -1 << 63
)

// A Track is what a packet list says of a track before its packets.
type Track struct {
	TimeBase Rational
	Type     string // "video", "audio", …
	Codec    string
	Size     string // "1280x720"
	Header   string // length and checksum of the codec's global header, "" if it has none
}

// ReadPackets reads the text of ffmpeg's framecrc muxer line by line and gives each
// packet with its track's number in that output. It returns the tracks, by number.
func ReadPackets(r io.Reader, each func(track int, tb Rational, p Packet) error) (map[int]Track, error) {
	tracks := map[int]Track{}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if line == "" {
			continue
		}
		if line[0] == '#' {
			if err := readHeader(tracks, line); err != nil {
				return nil, err
			}
			continue
		}
		track, p, err := parsePacket(line)
		if err != nil {
			return nil, err
		}
		if err := each(track, tracks[track].TimeBase, p); err != nil {
			return nil, err
		}
	}
	return tracks, sc.Err()
}

// readHeader takes in "#tb 0: 1/30000" and its like.
func readHeader(tracks map[int]Track, line string) error {
	key, value, _ := strings.Cut(line[1:], ": ")
	name, index, ok := strings.Cut(key, " ")
	if !ok {
		return nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(index))
	if err != nil {
		return fmt.Errorf("packet list: header %.60q", line)
	}
	t := tracks[n]
	value = strings.TrimSpace(value)
	switch name {
	case "tb":
		t.TimeBase = rational(value)
	case "media_type":
		t.Type = value
	case "codec_id":
		t.Codec = value
	case "dimensions":
		t.Size = value
	case "extradata":
		t.Header = value
	}
	tracks[n] = t
	return nil
}

// parsePacket reads "0, -2002, 0, 1001, 3354, 0xfc817e39, F=0x0". Flags are written
// only where they are not just "key".
func parsePacket(line string) (int, Packet, error) {
	var num [4]int64
	rest := line
	for i := range num {
		field, after, ok := strings.Cut(rest, ",")
		if !ok {
			return 0, Packet{}, fmt.Errorf("packet list: line %.80q", line)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(field), 10, 64)
		if err != nil {
			return 0, Packet{}, fmt.Errorf("packet list: line %.80q", line)
		}
		num[i], rest = n, after
	}
	flags := int64(flagKey)
	if _, after, ok := strings.Cut(rest, "F=0x"); ok {
		hex, _, _ := strings.Cut(after, ",")
		f, err := strconv.ParseInt(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return 0, Packet{}, fmt.Errorf("packet list: line %.80q", line)
		}
		flags = f
	}
	return int(num[0]), Packet{
		DTS: num[1], PTS: num[2], Duration: num[3],
		Key: flags&flagKey != 0, Damaged: flags&flagCorrupt != 0, Hidden: flags&flagDiscard != 0,
	}, nil
}

// HasPTS reports whether the container says when the packet is shown.
func (p Packet) HasPTS() bool { return p.PTS != noPTS }
