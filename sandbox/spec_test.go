package sandbox

import (
	"strings"
	"testing"
)

func TestSpec_RefusesWhatNoRuntimeCanDo(t *testing.T) {
	ok := Spec{Argv: []string{"true"}, Mounts: []Mount{{Host: "/a", Inner: "/spare/a"}, {Host: "/b", Inner: "/spare/b"}}}
	if err := ok.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Spec){
		"no program":     func(s *Spec) { s.Argv = nil },
		"network":        func(s *Spec) { s.Network = "all" },
		"zero byte":      func(s *Spec) { s.Env = []string{"A=\x00"} },
		"overlaps":       func(s *Spec) { s.Mounts[1].Inner = "/spare/a/b" },
		"same place":     func(s *Spec) { s.Mounts[1].Inner = "/spare/a" },
		"relative":       func(s *Spec) { s.Mounts[0].Inner = "spare" },
		"not clean":      func(s *Spec) { s.Mounts[0].Inner = "/spare/../etc" },
		"the root":       func(s *Spec) { s.Mounts[0].Inner = "/" },
		"system's own":   func(s *Spec) { s.Mounts[0].Inner = "/usr/bin" },
		"system's own 2": func(s *Spec) { s.Mounts[0].Inner = "/proc" },
	} {
		s := ok
		s.Mounts = append([]Mount(nil), ok.Mounts...)
		change(&s)
		if err := s.Check(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestOutput_HandsOnUpToItsLimit(t *testing.T) {
	for _, c := range []struct {
		limit int64
		in    string
		want  string
		cut   bool
	}{
		{0, "hello", "hello", false}, {5, "hello", "hello", false}, {4, "hello", "hell", true}, {1, "", "", false},
	} {
		var got strings.Builder
		o := newOutput(c.limit)
		o.drain(strings.NewReader(c.in), &got)
		if got.String() != c.want || o.truncated.Load() != c.cut {
			t.Errorf("limit %d of %q: %q, cut %t", c.limit, c.in, got.String(), o.truncated.Load())
		}
	}
}
