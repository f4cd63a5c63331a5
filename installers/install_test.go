//go:build linux

package installers_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// programs makes a folder with stand-ins for the three programs: the installer only copies them.
func programs(t *testing.T, says string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"spare", "spare-hub", "spare-node"} {
		text := "#!/bin/sh\necho " + name + " " + says + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// install runs install.sh and gives its output and exit code.
func install(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"install.sh"}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("install.sh %v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func mustInstall(t *testing.T, args ...string) string {
	t.Helper()
	out, code := install(t, args...)
	if code != 0 {
		t.Fatalf("install.sh %v ended with %d:\n%s", args, code, out)
	}
	return out
}

// tree lists every file below dir with its mode; folders that are empty count too.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if rel != "." {
			list = append(list, info.Mode().String()+" "+rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestInstall_PutsEverythingInPlaceAndUninstallLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		roles []string
		want  []string
		not   []string
	}{
		{
			[]string{"--node"},
			[]string{"-rwxr-xr-x usr/local/bin/spare", "-rwxr-xr-x usr/local/bin/spare-node", "-rw-r--r-- etc/systemd/system/spare-node.service", "drwx------ var/lib/spare-node"},
			[]string{"-rwxr-xr-x usr/local/bin/spare-hub", "-rw-r--r-- etc/systemd/system/spare-hub.service"},
		},
		{
			[]string{"--hub", "--node"},
			[]string{"-rwxr-xr-x usr/local/bin/spare-hub", "-rwxr-xr-x usr/local/bin/spare-node", "drwx------ var/lib/spare-hub"},
			nil,
		},
	} {
		t.Run(strings.Join(c.roles, ""), func(t *testing.T) {
			root := t.TempDir()
			mustInstall(t, append(c.roles, "--from", programs(t, "one"), "--root", root)...)
			got := tree(t, root)
			for _, f := range c.want {
				if !slices.Contains(got, f) {
					t.Errorf("missing %q in\n%s", f, strings.Join(got, "\n"))
				}
			}
			for _, f := range c.not {
				if slices.Contains(got, f) {
					t.Errorf("%q was installed without being asked for", f)
				}
			}
			mustInstall(t, "--uninstall", "--root", root)
			if left := tree(t, root); len(left) != 0 {
				t.Errorf("uninstall left\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

func TestInstall_AgainUpgradesAndChangesNothingElse(t *testing.T) {
	root := t.TempDir()
	mustInstall(t, "--node", "--from", programs(t, "one"), "--root", root)
	before := tree(t, root)
	installed := filepath.Join(root, "usr/local/bin/spare-node")
	running, err := os.Open(installed) // a program that runs keeps its file open like this
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()

	mustInstall(t, "--node", "--from", programs(t, "two"), "--root", root)
	if after := tree(t, root); !slices.Equal(before, after) {
		t.Errorf("a second install changed the tree:\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	text, err := os.ReadFile(installed)
	if err != nil || !strings.Contains(string(text), "spare-node two") {
		t.Errorf("the program was not replaced: %q, %v", text, err)
	}
	old := make([]byte, 64)
	n, _ := running.Read(old)
	if !strings.Contains(string(old[:n]), "spare-node one") {
		t.Errorf("the running program's file was written over: %q", old[:n])
	}
}

// Where AppArmor knows of user namespaces, the program is allowed to make them; elsewhere
// its profile would be an error.
func TestInstall_TellsAppArmorWhereItAsks(t *testing.T) {
	for _, version := range []string{"", "3.0", "4.0"} {
		root := t.TempDir()
		folder := filepath.Join(root, "etc/apparmor.d")
		abi := filepath.Join(folder, "abi", version)
		if version != "" {
			if err := os.MkdirAll(abi, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		mustInstall(t, "--node", "--from", programs(t, "one"), "--root", root)
		text, err := os.ReadFile(filepath.Join(folder, "spare-node"))
		if want := version == "4.0"; want != (err == nil) {
			t.Errorf("with AppArmor %q: profile %q, %v", version, text, err)
		}
		if err == nil && !strings.Contains(string(text), "profile spare-node /usr/{,local/}bin/spare-node ") {
			t.Errorf("the profile is not the installed program's:\n%s", text)
		}
		mustInstall(t, "--uninstall", "--root", root)
		if _, err := os.Lstat(filepath.Join(folder, "spare-node")); err == nil {
			t.Error("uninstall left the profile")
		}
	}
}

func TestUninstall_KeepsDataUntilPurged(t *testing.T) {
	root := t.TempDir()
	mustInstall(t, "--node", "--from", programs(t, "one"), "--root", root)
	key := filepath.Join(root, "var/lib/spare-node/identity.key")
	if err := os.WriteFile(key, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := mustInstall(t, "--uninstall", "--root", root)
	if !strings.Contains(out, "kept "+filepath.Dir(key)) {
		t.Errorf("uninstall does not say where the data is:\n%s", out)
	}
	if _, err := os.Stat(key); err != nil {
		t.Fatalf("uninstall without --purge deleted the node's key: %v", err)
	}
	mustInstall(t, "--uninstall", "--purge", "--root", root)
	if left := tree(t, root); len(left) != 0 {
		t.Errorf("purge left\n%s", strings.Join(left, "\n"))
	}
}

func TestUninstall_OfOneLeavesTheOther(t *testing.T) {
	root := t.TempDir()
	mustInstall(t, "--node", "--hub", "--from", programs(t, "one"), "--root", root)
	mustInstall(t, "--uninstall", "--node", "--root", root)
	got := strings.Join(tree(t, root), "\n")
	if strings.Contains(got, "spare-node") {
		t.Errorf("the node is still there:\n%s", got)
	}
	for _, f := range []string{"usr/local/bin/spare\n", "usr/local/bin/spare-hub", "spare-hub.service"} {
		if !strings.Contains(got, f) {
			t.Errorf("%q is gone too:\n%s", f, got)
		}
	}
}

func TestInstall_RefusesWhatItCannotDo(t *testing.T) {
	empty, root := t.TempDir(), t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "--node or --hub"},
		{[]string{"--nod"}, 2, "unknown option --nod"},
		{[]string{"--hub", "--purge"}, 2, "--purge goes with --uninstall"},
		{[]string{"--hub", "--ticket", "spare1:x"}, 2, "--ticket goes with --node"},
		{[]string{"--node", "--from"}, 2, "--from wants a value"},
		{[]string{"--node", "--root", root, "--from", empty}, 1, "has no program spare"},
		{[]string{"--node", "--root", root, "--from", filepath.Join(empty, "none")}, 1, "no such folder"},
	} {
		out, code := install(t, c.args...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("install.sh %v: code %d, want %d; output %q, want %q in it", c.args, code, c.code, out, c.says)
		}
	}
	if left := tree(t, root); len(left) != 0 {
		t.Errorf("a refused install left\n%s", strings.Join(left, "\n"))
	}
}

// A wall in a unit that hides /proc or forbids namespaces would take the sandbox from the
// program, and one that is missing opens the machine to it.
func TestUnits_KeepTheSandboxPossibleAndTheMachineClosed(t *testing.T) {
	forbidden := regexp.MustCompile(`(?m)^(ProtectProc|ProcSubset|ProtectControlGroups|PrivateUsers|ProtectKernelTunables|ProtectKernelLogs|ProtectHostname|RestrictNamespaces|MemoryDenyWriteExecute|Nice|CPUSchedulingPolicy|SystemCallFilter=~)`)
	for _, name := range []string{"spare-node", "spare-hub"} {
		text, err := os.ReadFile(filepath.Join("systemd", name+".service"))
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.Find(text); found != nil {
			t.Errorf("%s: %s breaks the sandbox or the heartbeat", name, found)
		}
		for _, line := range []string{
			"User=" + name, "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectHome=yes",
			"PrivateTmp=yes", "StateDirectory=" + name, "StateDirectoryMode=0700", "UMask=0077", "Restart=on-failure", "WantedBy=multi-user.target",
		} {
			if !slices.Contains(strings.Split(string(text), "\n"), line) {
				t.Errorf("%s: no line %q", name, line)
			}
		}
	}
}

func TestUnits_SystemdAcceptsThem(t *testing.T) {
	root := t.TempDir()
	mustInstall(t, "--node", "--hub", "--from", programs(t, "one"), "--root", root)
	for _, name := range []string{"spare-node", "spare-hub"} {
		unit := filepath.Join(root, "etc/systemd/system", name+".service")
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		program := "/usr/local/bin/" + name
		if !strings.Contains(string(text), "ExecStart="+program+" ") {
			t.Fatalf("%s does not start the installed program", unit)
		}
		text = []byte(strings.ReplaceAll(string(text), program, filepath.Join(root, program)))
		if err := os.WriteFile(unit, text, 0o644); err != nil {
			t.Fatal(err)
		}
		// It says a bad value on stderr and still ends with 0, so any word fails.
		if out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
	}
}
