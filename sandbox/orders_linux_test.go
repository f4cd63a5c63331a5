package sandbox

import (
	"bytes"
	"reflect"
	"testing"
)

func TestOrders_TravelWhole(t *testing.T) {
	want := orders{
		Argv: []string{"a", ""}, Env: []string{"A=ä\n"}, Dir: "/tmp", CPUs: []int{0, 1023}, Memory: 1 << 40, Processes: 1, Files: 2, CPU: 3,
		Disk: 4, Tmp: 5, Nice: true, Mounts: []order{{FD: 5, Host: "/h", Inner: "/i", Folder: true}, {Writable: true}},
	}
	var got orders
	if err := decode(bytes.NewReader(encode(&want)), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	wantReport := report{Failed: "f", NoStart: "n", Errno: 2, Status: 256, Cause: KilledDisk, CPU: 1, MaxRSS: 2, Peak: 3}
	var gotReport report
	if err := decode(bytes.NewReader(encode(&wantReport)), &gotReport); err != nil || gotReport != wantReport {
		t.Errorf("%+v, %v", gotReport, err)
	}
	cut := encode(&want)
	if err := decode(bytes.NewReader(cut[:len(cut)-1]), &got); err == nil {
		t.Error("a message that is cut off is taken")
	}
}

func FuzzOrders(f *testing.F) {
	f.Add(encode(&orders{Argv: []string{"a"}})[4:])
	f.Add(encode(&report{Failed: "x"})[4:])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []message{&orders{}, &report{}} {
			c := &codec{buf: b, reading: true}
			m.code(c) // must neither panic nor ask for more memory than the message is long
		}
	})
}

func TestMaps_ReadsAnIDMap(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"0 1000 1\n":                         false,
		"0 100000 65536\n":                   true,
		"0 0 1\n60999 60999 1\n":             true,
		"":                                   false,
	} {
		if maps(text, ownID) != want {
			t.Errorf("%q", text)
		}
	}
}
