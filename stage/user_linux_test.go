package stage_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/spare-compute/spare/sandbox/attack"
)

const (
	ordinaryUser = 12345
	asUserEnv    = "SPARE_TEST_AS_USER"
)

// TestAsOrdinaryUser runs the tests of RunApp again, by a user who owns nothing: most who
// lend a machine are one.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // this is it
	}
	dir, err := os.MkdirTemp("", "spare-user-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	program, home := filepath.Join(dir, "suite"), filepath.Join(dir, "home")
	kept, err := attack.Debian(t.Context())
	must(t, err)
	cache, err := os.UserCacheDir()
	must(t, err)
	inCache, err := filepath.Rel(cache, kept)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	here := filepath.Join(home, "source", "stage")
	for _, err := range []error{
		os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.MkdirAll(here, 0o755),
		os.CopyFS(filepath.Join(home, "source", "apps"), os.DirFS("../apps")),
		os.MkdirAll(filepath.Dir(filepath.Join(home, ".cache", inCache)), 0o755),
		exec.CommandContext(t.Context(), "cp", "--recursive", "--no-dereference", "--preserve=mode,timestamps", kept, filepath.Join(home, ".cache", inCache)).Run(),
		exec.CommandContext(t.Context(), "cp", self, program).Run(),
		filepath.WalkDir(home, func(name string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(name, ordinaryUser, ordinaryUser))
		}),
	} {
		must(t, err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.timeout=5m", "-test.run=^TestRunApp_", "-test.skip=Transcoding|OpenCV|HowManyCores", "-test.v")
	cmd.Dir = here
	cmd.Env = append(os.Environ(), "TMPDIR="+home, "HOME="+home, "XDG_CACHE_HOME=", asUserEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("--- PASS: TestRunApp_PureApps")) {
		t.Fatalf("as an ordinary user too little ran:\n%s", out)
	}
	t.Logf("as an ordinary user:\n%s", out)
}
