package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

func TestDecide_PowerAndLimits(t *testing.T) {
	percent := 41.0
	laptop := func(onAC bool) spare.Device {
		return spare.Device{
			CPU:     spare.CPU{Cores: 8},
			Memory:  &spare.Amount{Total: 16 << 30, Free: 4 << 30},
			Disk:    &spare.Amount{Total: 400 << 30, Free: 100 << 30},
			Battery: &spare.Battery{Percent: &percent, OnAC: onAC},
		}
	}
	desktop := spare.Device{CPU: spare.CPU{Cores: 4}}
	for _, c := range []struct {
		name   string
		device spare.Device
		prefs  Prefs
		run    bool
		code   string
		limits Limits
	}{
		{"laptop on mains", laptop(true), Default(), true, ReasonAllowed, Limits{8, 12 << 30, 20 << 30}},
		{"laptop on battery", laptop(false), Default(), false, ReasonOnBattery, Limits{8, 12 << 30, 20 << 30}},
		{"laptop on battery, owner says always", laptop(false), Prefs{When: WhenAlways}, true, ReasonAllowed, Limits{8, 12 << 30, 20 << 30}},
		{"no battery counts as mains", desktop, Default(), true, ReasonAllowed, Limits{4, 0, 20 << 30}},
		{
			"the owner's limits hold", laptop(true),
			Prefs{When: WhenAC, Cores: 2, Memory: 1 << 30, Disk: 1 << 30},
			true, ReasonAllowed,
			Limits{2, 1 << 30, 1 << 30},
		},
		{
			"not more than there is", laptop(true),
			Prefs{When: WhenAC, Cores: 64, Memory: 1 << 40},
			true, ReasonAllowed,
			Limits{8, 16 << 30, 20 << 30},
		},
		{
			"a small volume lends a quarter",
			spare.Device{Disk: &spare.Amount{Total: 8 << 30}},
			Default(), true, ReasonAllowed,
			Limits{1, 0, 2 << 30},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Decide(c.device, c.prefs, time.Unix(0, 0))
			if got.Run != c.run || got.Reason.Code != c.code || got.Limits != c.limits {
				t.Errorf("Decide = %+v, want run %v, code %s, limits %+v", got, c.run, c.code, c.limits)
			}
			if got.Reason.Detail == "" {
				t.Error("the reason has no sentence for people")
			}
		})
	}
}

func TestDecide_BatteryReasonSaysTheCharge(t *testing.T) {
	percent := 41.0
	got := Decide(spare.Device{Battery: &spare.Battery{Percent: &percent}}, Default(), time.Now())
	if !strings.Contains(got.Reason.Detail, "41 %") {
		t.Errorf("reason %q does not say the charge", got.Reason.Detail)
	}
}

func TestPrefs_RoundTripThroughFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "prefs.json")
	if p, err := Load(path); err != nil || p != Default() {
		t.Fatalf("a missing file is %+v, %v; want the default", p, err)
	}
	want := Default()
	for k, v := range map[string]string{"when": "always", "cores": "2", "memory": "4GiB", "disk": "1.5g", "name": "attic"} {
		if err := want.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := Save(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil || got != want {
		t.Fatalf("Load = %+v, %v; want %+v", got, err, want)
	}
	if got.Disk != 3<<29 || got.Memory != 4<<30 {
		t.Errorf("sizes came back as %d and %d bytes", got.Disk, got.Memory)
	}
}

func TestPrefs_BadInputIsRefusedWithWhatIsAllowed(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{`{"corse": 2}`, `did you mean "cores"`},
		{`{"When": "always"}`, `did you mean "when"`},
		{`{"when": "sometimes"}`, "use ac or always"},
		{`{"cores": -1}`, "0 for all"},
		{`{"cores": "two"}`, "cores"},
		{`{"memory": "lots"}`, "as 4GiB"},
		{`{"memory": "1KiB"}`, "64MiB"},
		{`{"memory": "NaN"}`, "as 4GiB"},
		{`{"when":"ac"} {"when":"always"}`, "JSON"},
		{`{"name": "a\nb"}`, "printable"},
		{`[]`, "JSON object"},
		{``, "JSON object"},
	} {
		path := filepath.Join(t.TempDir(), "prefs.json")
		if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Load(%s) = %v, want an error with %q", c.file, err, c.want)
		}
	}
}

func TestPrefs_SetLeavesTheOldValueWhenRefused(t *testing.T) {
	p := Default()
	if err := p.Set("cores", "many"); err == nil || !strings.Contains(err.Error(), "cores") {
		t.Fatalf("Set = %v", err)
	}
	if err := p.Set("core", "1"); err == nil || !strings.Contains(err.Error(), `did you mean "cores"`) {
		t.Fatalf("Set = %v", err)
	}
	if p != Default() {
		t.Errorf("a refused Set changed the preferences to %+v", p)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"when":"ac","cores":2,"memory":"4GiB"}`))
	f.Add([]byte(`{"disk":1e30}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decode(raw)
		if err != nil {
			return
		}
		if err := p.check(); err != nil {
			t.Errorf("decode took what check refuses: %v", err)
		}
	})
}
