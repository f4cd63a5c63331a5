package wasm

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
)

func TestOrders_ArriveWhole(t *testing.T) {
	o := orders{
		Version: spare.Version, Entry: "/e", Argv: raws([]string{"python3", "\xff\"\n", ""}), Env: raws([]string{"A=" + strings.Repeat("ä\x01", 200_000)}),
		Mounts: []folder{{Host: "/h\xfe", Inner: "/i", Writable: true}}, Memory: 1 << 40,
	}
	var pipe bytes.Buffer
	if err := writeOrders(&pipe, o); err != nil {
		t.Fatal(err)
	}
	cut := bytes.Clone(pipe.Bytes()[:pipe.Len()-1])
	got, err := readOrders(fromStdin, &pipe)
	if err != nil || !reflect.DeepEqual(got, o) {
		t.Fatalf("by a pipe: %v", err)
	}
	if _, err := readOrders(fromStdin, bytes.NewReader(cut)); err == nil {
		t.Fatal("orders that are cut off are taken")
	}
	env, err := ordersInEnv(o)
	if err != nil || len(env) < 3 {
		t.Fatalf("%d variables (%v)", len(env), err)
	}
	mark := ""
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if len(value) > 128<<10 {
			t.Fatalf("%s has %d bytes", name, len(value))
		}
		if name == markEnv {
			mark = value
			continue
		}
		t.Setenv(name, value)
	}
	got, err = readOrders(mark, nil)
	if err != nil || !reflect.DeepEqual(got, o) {
		t.Fatalf("by variables: %v", err)
	}
	o.Version = "another"
	if err := writeOrders(&pipe, o); err != nil {
		t.Fatal(err)
	}
	if _, err := readOrders(fromStdin, &pipe); err == nil || !strings.Contains(err.Error(), "restart it") {
		t.Fatalf("orders of another version: %v", err)
	}
	o.Env = raws([]string{strings.Repeat("x", maxOrders)})
	if writeOrders(&pipe, o) == nil {
		t.Fatal("orders without end are given")
	}
}

func FuzzOrders(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00{}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte(`I   {"Version":"x","Argv":["\"a\""],"Mounts":[{"Host":"\"\\xff\""}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if o, err := readOrders(fromStdin, bytes.NewReader(text)); err == nil && o.Version != spare.Version {
			t.Fatal("orders of another version are taken")
		}
		name := filepath.Join(t.TempDir(), "report")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		readReport(name)
	})
}
