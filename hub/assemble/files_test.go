package assemble_test

import (
	"archive/zip"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/assemble"
)

// parts lays out one result folder for each map of names and texts.
func parts(t *testing.T, files ...map[string]string) []assemble.Part {
	t.Helper()
	var out []assemble.Part
	for i, chunk := range files {
		dir := t.TempDir()
		for name, text := range chunk {
			file := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, assemble.Part{Chunk: i, Dir: dir})
	}
	return out
}

// read gives all files of a folder by name.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		got[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func run(t *testing.T, strategy, config string, in []assemble.Part) (map[string]string, spare.Summary, error) {
	t.Helper()
	s, ok := assemble.Lookup(strategy)
	if !ok {
		t.Fatalf("no strategy %q", strategy)
	}
	out := t.TempDir()
	sum, err := s.Assemble(t.Context(), assemble.Input{Parts: in, Config: json.RawMessage(config), Out: out, Work: t.TempDir()})
	return read(t, out), sum, err
}

func TestFlatten_FollowsTheContractsRule(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []map[string]string
		want map[string]string
	}{
		{"unique names stay", []map[string]string{{"a.txt": "0"}, {"b.txt": "1"}}, map[string]string{"a.txt": "0", "b.txt": "1"}},
		{"a shared name gets the chunk in each", []map[string]string{{"i.png": "0"}, {"i.png": "1", "n": "x"}}, map[string]string{"i_0.png": "0", "i_1.png": "1", "n": "x"}},
		{"folders go under the chunk", []map[string]string{{"d/a": "0"}, {"d/a": "1"}}, map[string]string{"0/d/a": "0", "1/d/a": "1"}},
		{"names that differ by case are shared", []map[string]string{{"A.txt": "0"}, {"a.txt": "1"}}, map[string]string{"A_0.txt": "0", "a_1.txt": "1"}},
		{"a made name does not take a given one", []map[string]string{{"a": "0", "a_1": "own"}, {"a": "1"}}, map[string]string{"a_0": "0", "a_1": "own", "a_1_2": "1"}},
		{"no files", []map[string]string{{}, {}}, map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := t.TempDir()
			if err := assemble.Flatten(parts(t, c.in...), dst); err != nil {
				t.Fatal(err)
			}
			if got := read(t, dst); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestFlatten_RefusesWhatIsNoPlainFile(t *testing.T) {
	in := parts(t, map[string]string{"a": "0"})
	if err := os.Symlink("/etc/passwd", filepath.Join(in[0].Dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := assemble.Flatten(in, t.TempDir()); err == nil || !strings.Contains(err.Error(), "link is no regular file") {
		t.Errorf("got %v", err)
	}
}

func TestZip_HoldsAllResults(t *testing.T) {
	s, _ := assemble.Lookup("zip")
	out := t.TempDir()
	in := assemble.Input{Parts: parts(t, map[string]string{"i.png": "0"}, map[string]string{"i.png": "1"}), Out: out}
	if _, err := s.Assemble(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(filepath.Join(out, "results_archive.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if !slices.Equal(names, []string{"i_0.png", "i_1.png"}) {
		t.Errorf("archive holds %v", names)
	}
}

func TestConcat_JoinsInChunkOrder(t *testing.T) {
	for _, c := range []struct {
		name, config string
		in           []map[string]string
		want         map[string]string
	}{
		{"same path", ``, []map[string]string{{"o.txt": "1\n"}, {"o.txt": "2\n"}}, map[string]string{"o.txt": "1\n2\n"}},
		{"joints are at line ends", ``, []map[string]string{{"o.txt": "1"}, {"o.txt": ""}, {"o.txt": "2"}}, map[string]string{"o.txt": "1\n2"}},
		{"one CSV header", ``, []map[string]string{{"o.csv": "h\n1\n"}, {"o.csv": "h\n2\n"}, {"o.csv": "h"}}, map[string]string{"o.csv": "h\n1\n2\n"}},
		{"CSV without header", `{"header": false}`, []map[string]string{{"o.csv": "1\n"}, {"o.csv": "1\n"}}, map[string]string{"o.csv": "1\n1\n"}},
		{"folders", ``, []map[string]string{{"d/o": "1\n"}, {"d/o": "2\n"}}, map[string]string{"d/o": "1\n2\n"}},
		{"all into one, numbers in order", `{"output": "all.jsonl"}`, []map[string]string{{"r_10.json": "3\n", "r_9.json": "2"}, {"r_1.json": "4\n"}}, map[string]string{"all.jsonl": "2\n3\n4\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := run(t, "concat", c.config, parts(t, c.in...))
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestConcat_SaysWhatCannotBeJoined(t *testing.T) {
	for _, c := range []struct {
		config string
		in     []map[string]string
		want   string
	}{
		{``, []map[string]string{{}, {}}, "no chunk made a result file"},
		{``, []map[string]string{{"o.csv": "h\n1\n"}, {"o.csv": "g\n2\n"}}, `chunk 1 begins with "g"`},
		{`{"output": "../x"}`, []map[string]string{{"a": "1"}}, "no plain file name"},
		{`{"name": "x"}`, []map[string]string{{"a": "1"}}, "unknown field"},
	} {
		if _, _, err := run(t, "concat", c.config, parts(t, c.in...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: got %v, want %q", c.config, c.in, err, c.want)
		}
	}
}

func TestStrategies_DocumentTheirSettings(t *testing.T) {
	for _, name := range assemble.Names() {
		s, _ := assemble.Lookup(name)
		var schema map[string]any
		if err := json.Unmarshal(s.ConfigSchema(), &schema); err != nil || schema["title"] != name || schema["additionalProperties"] != false {
			t.Errorf("%s: schema %v, %v", name, schema, err)
		}
	}
}
