package media_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spare-compute/spare/hub/media"
	"github.com/spare-compute/spare/hub/media/mediatest"
)

func TestSentence_IsFFmpegsLastWordThatTellsSomething(t *testing.T) {
	for _, c := range []struct{ name, stderr, want string }{
		{"reason before the verdict", "[mov,mp4 @ 0x55d0] moov atom not found\n/spare/in/a.mp4: Invalid data found when processing input\n", "moov atom not found"},
		{"only a verdict", "/spare/in/a.txt: Invalid data found when processing input\n", "Invalid data found when processing input"},
		{"nested modules", "[out#0/mp4 @ 0x1] [libx264 @ 0x2] broken settings\nConversion failed!\n", "broken settings"},
		{"path with a reason", "/spare/in/a: b.mp4: Permission denied", "b.mp4: Permission denied"},
		{"nothing", "\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := media.Sentence(c.stderr); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestProbe_TellsWhatAPhoneClipIs(t *testing.T) {
	file := mediatest.Phone.Write(t, t.TempDir())
	info, err := media.New().Probe(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	film := info.Video()
	if len(film) != 1 || film[0].Codec != "h264" || film[0].Width != 320 || film[0].Rotation != 90 || film[0].TimeBase.Den != 90000 {
		t.Errorf("film: %+v", film)
	}
	if film[0].Frames == 0 || film[0].HeaderSum == "" {
		t.Errorf("no frame count or no header digest: %+v", film[0])
	}
	audio := info.Of("audio")
	if len(audio) != 1 || audio[0].Codec != "aac" || audio[0].Hertz != 48000 {
		t.Errorf("audio: %+v", audio)
	}
}

func TestProbe_SaysWhyAFileIsNoVideo(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	whole, err := os.ReadFile(mediatest.Silent.Write(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, want string }{
		{write("noise.bin", strings.Repeat("\x00\xff\x13", 500)), "Invalid data found"},
		{write("cut.mp4", string(whole[:len(whole)/2])), "moov atom not found"},
	} {
		_, err := media.New().Probe(t.Context(), c.file)
		var bad *media.ErrUnreadable
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ErrUnreadable with %q", filepath.Base(c.file), err, c.want)
		}
	}
}

func TestRational_RescaleRoundsToTheNearest(t *testing.T) {
	for _, c := range []struct {
		from  media.Rational
		ticks int64
		to    media.Rational
		want  int64
	}{
		{media.Rational{Num: 1, Den: 90000}, 3003, media.Rational{Num: 1, Den: 1000}, 33},
		{media.Rational{Num: 1001, Den: 30000}, 1, media.Rational{Num: 1, Den: 1_000_000}, 33367},
		{media.Rational{Num: 1, Den: 1000}, -1500, media.Rational{Num: 1, Den: 1}, -1},
		{media.Rational{Num: 1, Den: 1 << 30}, 1 << 62, media.Rational{Num: 1, Den: 1}, 1 << 32},
	} {
		if got := c.from.Rescale(c.ticks, c.to); got != c.want {
			t.Errorf("%d × %s in %s: got %d, want %d", c.ticks, c.from, c.to, got, c.want)
		}
	}
}

func TestReadPackets_ReadsFlagsAndTracks(t *testing.T) {
	text := "#extradata 0:       43, 0x2ef20fe9\n#tb 0: 1/30000\n#media_type 0: video\n#codec_id 0: h264\n#dimensions 0: 320x180\n" +
		"0,     -17017,     -15015,     1001,     4103, 0xf8f2efcd, F=0x5\n" +
		"0,          0,       1001,     1001,      816, 0x51d78eca, F=0x0, S=1,       24\n" +
		"0,       1001,       2002,     1001,      816, 0x51d78eca\n"
	var got []media.Packet
	tracks, err := media.ReadPackets(strings.NewReader(text), func(n int, tb media.Rational, p media.Packet) error {
		if n != 0 || tb != (media.Rational{Num: 1, Den: 30000}) {
			t.Errorf("track %d in %s", n, tb)
		}
		got = append(got, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []media.Packet{
		{PTS: -15015, DTS: -17017, Duration: 1001, Key: true, Hidden: true},
		{PTS: 1001, Duration: 1001},
		{PTS: 2002, DTS: 1001, Duration: 1001, Key: true},
	}
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("packet %d: %+v, want %+v", i, got[i], want[i])
		}
	}
	if h := tracks[0]; h.Codec != "h264" || h.Size != "320x180" || h.Header != "43, 0x2ef20fe9" {
		t.Errorf("track: %+v", h)
	}
}

func FuzzReadPackets(f *testing.F) {
	f.Add("#tb 0: 1/30000\n0, 0, 0, 1, 2, 0x1, F=0x0\n")
	f.Add("#tb x: y\n0,,,\n")
	f.Add("0, 1, 2, 3, 4, 0x1, F=0xzz")
	f.Fuzz(func(t *testing.T, text string) {
		n := 0
		_, err := media.ReadPackets(strings.NewReader(text), func(int, media.Rational, media.Packet) error {
			n++
			return nil
		})
		if err == nil && n > strings.Count(text, "\n")+1 {
			t.Errorf("%d packets in %d lines", n, strings.Count(text, "\n")+1)
		}
	})
}
