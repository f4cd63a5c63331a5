package partition_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/spare-compute/spare/hub/partition"
)

// cut runs a strategy over files and returns what the chunks hold.
func cut(t testing.TB, strategy, config string, files map[string][]byte) (chunks []string, params []map[string]any, err error) {
	t.Helper()
	dir, work := t.TempDir(), t.TempDir()
	in := partition.Input{Dir: dir, Work: work, Config: json.RawMessage(config)}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		in.Files = append(in.Files, name)
	}
	s, ok := partition.Lookup(strategy)
	if !ok {
		t.Fatalf("no strategy %q", strategy)
	}
	_, err = s.Partition(context.Background(), in, func(_ context.Context, c partition.Chunk) error {
		b, err := os.ReadFile(c.Path)
		chunks, params = append(chunks, string(b)), append(params, c.Params)
		return err
	})
	left, _ := os.ReadDir(work)
	if len(left) > 0 {
		t.Errorf("%d files are left in the scratch folder", len(left))
	}
	return chunks, params, err
}

func one(name, text string) map[string][]byte { return map[string][]byte{name: []byte(text)} }

func gz(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.Bytes()
}

func zst(text string) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll([]byte(text), nil)
}

func TestPassthrough_IsOneChunkAsItIs(t *testing.T) {
	for _, text := range []string{"hello", ""} {
		chunks, _, err := cut(t, "passthrough", "", one("a.txt", text))
		if err != nil || len(chunks) != 1 || chunks[0] != text {
			t.Errorf("%q: %q, %v", text, chunks, err)
		}
	}
}

func TestReplicate_LaysTheIndexIntoTheParameters(t *testing.T) {
	for _, config := range []string{`{"num_replicas": 3}`, `{"n": 3}`} {
		chunks, params, err := cut(t, "replicate", config, one("a.txt", "x"))
		if err != nil || len(chunks) != 3 {
			t.Fatalf("%s: %d chunks, %v", config, len(chunks), err)
		}
		for i, p := range params {
			if chunks[i] != "x" || p["replica"] != i || p["replicas"] != 3 {
				t.Errorf("%s: chunk %d holds %q with %v", config, i, chunks[i], p)
			}
		}
	}
	if chunks, _, err := cut(t, "replicate", "", one("a.txt", "x")); err != nil || len(chunks) != 5 {
		t.Errorf("without settings: %d chunks, %v; want 5", len(chunks), err)
	}
}

func TestLines_CutsWhereAsked(t *testing.T) {
	for _, c := range []struct {
		name, config string
		file         string
		input        []byte
		want         []string
	}{
		{"by lines", `{"lines_per_chunk": 2}`, "a.txt", []byte("1\n2\n3\n4\n5\n"), []string{"1\n2\n", "3\n4\n", "5\n"}},
		{"no line end at the end", `{"lines_per_chunk": 2}`, "a.txt", []byte("1\n2\n3"), []string{"1\n2\n", "3"}},
		{"by chunks", `{"chunks": 2}`, "a.jsonl", []byte("{}\n[]\n3\n"), []string{"{}\n[]\n", "3\n"}},
		{"more chunks than lines", `{"chunks": 9}`, "a.txt", []byte("1\n2\n"), []string{"1\n", "2\n"}},
		{"by size", `{"chunk_size": 3}`, "a.txt", []byte("1\n2\n3\n"), []string{"1\n2\n", "3\n"}},
		{"CSV header on each", `{"lines_per_chunk": 1}`, "a.csv", []byte("h\r\n1\r\n2\r\n"), []string{"h\r\n1\r\n", "h\r\n2\r\n"}},
		{"CSV without header", `{"lines_per_chunk": 1, "header": false}`, "a.csv", []byte("1\n2\n"), []string{"1\n", "2\n"}},
		{"line ends in quotes", `{"lines_per_chunk": 1}`, "a.csv", []byte("h\n\"a\nb\"\"\n\",1\nc\n"), []string{"h\n\"a\nb\"\"\n\",1\n", "h\nc\n"}},
		{"quotes mean nothing in text", `{"lines_per_chunk": 1}`, "a.txt", []byte("\"a\nb\n"), []string{"\"a\n", "b\n"}},
		{"gzip", `{"lines_per_chunk": 1}`, "a.csv.gz", gz("h\n1\n2\n"), []string{"h\n1\n", "h\n2\n"}},
		{"zstd", `{"chunks": 2}`, "a.csv.zst", zst("h\n1\n2\n"), []string{"h\n1\n", "h\n2\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := cut(t, "lines", c.config, map[string][]byte{c.file: c.input})
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLines_ChunksJoinToTheInput(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune("ab\n\"")), 1, 300, -1).Draw(r, "text")
		config := rapid.SampledFrom([]string{`{"lines_per_chunk":3}`, `{"chunks":4}`, `{"chunk_size":7}`, ``}).Draw(r, "settings")
		chunks, _, err := cut(t, "lines", config, one("a.txt", text))
		if err != nil {
			r.Fatal(err)
		}
		if strings.Join(chunks, "") != text {
			r.Fatalf("%q became %q", text, chunks)
		}
	})
}

func TestLines_ALineLongerThanTheBufferStaysWhole(t *testing.T) {
	long := strings.Repeat("x", 1<<20) + "\n"
	chunks, _, err := cut(t, "lines", `{"lines_per_chunk":1}`, one("a.txt", long+"b\n"))
	if err != nil || len(chunks) != 2 || chunks[0] != long {
		t.Fatalf("%d chunks, %v", len(chunks), err)
	}
}

func TestLines_SaysWhatIsWrongWithTheInput(t *testing.T) {
	whole := gz(strings.Repeat("line\n", 10_000))
	for _, c := range []struct {
		name, file string
		input      []byte
		want       string
	}{
		{"empty", "a.txt", nil, "holds no line"},
		{"only a header", "a.csv", []byte("h\n"), "holds no line"},
		{"cut off", "a.gz", whole[:len(whole)/2], "cut off in the middle"},
		{"open quote", "a.csv", []byte("h\nok\n\"never closed\n"), "quote in line 3 is never closed"},
		{"damaged", "a.zst", append([]byte("\x28\xb5\x2f\xfd"), "rubbish that is no frame"...), "cannot be unpacked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := cut(t, "lines", `{"lines_per_chunk":100000}`, map[string][]byte{c.file: c.input})
			var refused *partition.Refused
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a refusal with %q", err, c.want)
			}
		})
	}
}

func TestLines_RefusesABomb(t *testing.T) {
	var b bytes.Buffer
	w, _ := zstd.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 1100 {
		_, _ = w.Write(zeros)
	}
	_ = w.Close()
	_, _, err := cut(t, "lines", "", map[string][]byte{"a.zst": b.Bytes()})
	var refused *partition.Refused
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "1000 times") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestStrategies_RefuseSettingsTheyDoNotObey(t *testing.T) {
	for strategy, configs := range map[string][]string{
		"passthrough": {`{"n": 1}`},
		"replicate":   {`{"num_replicas": 0}`, `{"num_replicas": 1, "n": 2}`, `{"copies": 3}`, `{"n": 2000000}`},
		"lines":       {`{"lines_per_chunk": 1, "chunks": 2}`, `{"chunk_size": -1}`, `{"format": "xml"}`, `{"lines": 3}`},
		"video":       {`{"segments": 2, "segment_seconds": 3}`, `{"segments": -1}`, `{"seconds": 3}`},
	} {
		for _, config := range configs {
			if _, _, err := cut(t, strategy, config, one("a.txt", "1\n")); err == nil || !strings.Contains(err.Error(), "partition settings") {
				t.Errorf("%s %s: %v", strategy, config, err)
			}
		}
	}
}

func TestStrategies_DocumentTheirSettings(t *testing.T) {
	for _, name := range partition.Names() {
		s, _ := partition.Lookup(name)
		var schema map[string]any
		if err := json.Unmarshal(s.ConfigSchema(), &schema); err != nil || schema["title"] != name || schema["additionalProperties"] != false {
			t.Errorf("%s: schema %v, %v", name, schema, err)
		}
	}
}
