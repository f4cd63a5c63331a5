package service

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kardianos/service"
)

// installed renders the unit as an installation would, into a home of the test's own,
// with a systemctl that only says yes.
func installed(t *testing.T, o Options) string {
	t.Helper()
	home, bin := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	cfg, err := config(o)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Option["UserService"] = true
	cfg.Executable = "/opt/spare programs/spare-node"
	var systemd service.System
	for _, s := range service.AvailableSystems() {
		if s.String() == "linux-systemd" {
			systemd = s
		}
	}
	if systemd == nil {
		t.Fatal("the service library knows no systemd")
	}
	s, err := systemd.New(&program{done: make(chan struct{})}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Install(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, ".config", "systemd", "user", Name+".service")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Uninstall(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("uninstalling left the unit behind")
	}
	return string(raw)
}

func TestUnit_RendersWithWhatWasGiven(t *testing.T) {
	unit := installed(t, Options{Data: "/srv/spare node", User: "spare"})
	for _, want := range []string{
		`ExecStart=/opt/spare\x20programs/spare-node "run" "--data" "/srv/spare node"` + "\n",
		"User=spare\n", "Restart=on-failure\n", "RestartPreventExitStatus=3\n", "Description=Spare node: lends", "[Install]\nWantedBy=multi-user.target\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %q:\n%s", want, unit)
		}
	}
	if strings.Contains(unit, "{{") {
		t.Errorf("the unit is not rendered whole:\n%s", unit)
	}
	if unit := installed(t, Options{Data: "/srv/spare"}); strings.Contains(unit, "User=") {
		t.Errorf("a user nobody named:\n%s", unit)
	}
}

func TestUnit_SystemdUnderstandsIt(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed; only the rendering was checked")
		return
	}
	unit := installed(t, Options{Data: "/srv/spare"})
	program := filepath.Join(t.TempDir(), "spare-node")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	unit = strings.Replace(unit, `/opt/spare\x20programs/spare-node`, program, 1)
	path := filepath.Join(t.TempDir(), "spare-node.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "--man=no", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}
