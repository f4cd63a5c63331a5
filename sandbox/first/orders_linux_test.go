package first

import (
	"bytes"
	"reflect"
	"testing"
)

func TestOrders_TravelWhole(t *testing.T) {
	want := Orders{
		Argv: []string{"a", ""}, Env: []string{"A=ä\n"}, Dir: "/tmp", CPUs: []int{0, 1023}, Memory: 1 << 40, Counted: true, Processes: 1, Files: 2, CPU: 3,
		Disk: 4, Tmp: 5, Nice: true,
		Image: "/i", ImageFD: 7, Proxy: 3128, ProxyFD: 8, Probe: true, Filter: []byte{0, 255}, Without: []string{"w"}, Mounts: []Mount{{FD: 5, Host: "/h", Inner: "/i", Folder: true}, {Writable: true}},
	}
	var got Orders
	if err := Decode(bytes.NewReader(Encode(&want)), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	wantReport := Report{Answer: OrderPause, Failed: "f", NoStart: "n", Errno: 2, Status: 256, Kill: KillDisk, CPU: 1, MaxRSS: 2, Peak: 3}
	var gotReport Report
	if err := Decode(bytes.NewReader(Encode(&wantReport)), &gotReport); err != nil || gotReport != wantReport {
		t.Errorf("%+v, %v", gotReport, err)
	}
	cut := Encode(&want)
	if err := Decode(bytes.NewReader(cut[:len(cut)-1]), &got); err == nil {
		t.Error("a message that is cut off is taken")
	}
}

func FuzzOrders(f *testing.F) {
	f.Add(Encode(&Orders{Argv: []string{"a"}})[8:])
	f.Add(Encode(&Report{Failed: "x"})[8:])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []Message{&Orders{}, &Report{}} {
			c := &codec{buf: b, reading: true}
			m.code(c) // must neither panic nor ask for more memory than the message is long
		}
	})
}
