package sandbox

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox/first"
)

// An entry of an image for tests: a folder if the name ends in a slash, a link if it has
// a target, else a file.
type entry struct {
	name, text, link string
	mode             fs.FileMode
}

// tools is an image's least: a shell and what it calls.
var tools = []entry{
	{name: "bin/"},
	{name: "sbin", link: "bin"},
	{name: "bin/sh", link: "busybox"},
	{name: "etc/passwd", text: "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n"},
	{name: "etc/os-release", text: "ID=tiny\n"},
	{name: "etc/deep/file", text: "deep\n"},
	{name: "root/"},
	{name: "var/tmp/"},
	{name: "srv/data", text: "data\n"},
}

// imageOf makes an image from statically linked tools and the entries, as the cache of
// images keeps it: all of it belongs to the user that programs run as.
func imageOf(t *testing.T, entries ...entry) *Image {
	t.Helper()
	dir := t.TempDir()
	for _, e := range append(tools[:len(tools):len(tools)], entries...) {
		name := filepath.Join(dir, e.name)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		switch {
		case err != nil:
		case e.link != "":
			_ = os.RemoveAll(name)
			err = os.Symlink(e.link, name)
		case strings.HasSuffix(e.name, "/"):
			err = os.MkdirAll(name, 0o755)
		default:
			err = os.WriteFile(name, []byte(e.text), 0o644)
		}
		if err == nil && e.mode != 0 {
			err = os.Chmod(name, e.mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "bin")); err == nil {
		copyFile(t, "/bin/busybox", filepath.Join(dir, "bin/busybox"), 0o755)
	}
	if id, given := Owner(); given {
		if err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(name, id, id)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return &Image{Folder: dir}
}

// shell runs a script in an image. What it prints is wanted to be "ok": helpers print
// more if something is wrong.
func shell(t *testing.T, img *Image, script string, change func(*Spec)) ended {
	t.Helper()
	const helpers = `
bad() { echo "BAD $*"; }
same() { [ "$1" = "$2" ] || bad "[$1] is not [$2]"; }
no() { "$@" 2>/dev/null && bad "works: $*"; true; }
has() { [ -e "$1" ] || bad "$1 is missing"; }
hasnt() { [ -e "$1" ] && bad "$1 is there"; true; }
`
	var out bytes.Buffer
	s := Spec{
		Image: img, Argv: []string{"/bin/sh", "-c", helpers + script + "\necho ok"}, Env: []string{"PATH=/bin"}, Stdout: &out, Stderr: &out,
		Limits: Limits{Wall: 30 * time.Second, Output: 1 << 20, Processes: 64, Memory: 1 << 30},
	}
	if change != nil {
		change(&s)
	}
	r, err := linux{}.Run(t.Context(), s)
	if err != nil {
		t.Fatalf("the sandbox failed: %v\n%s", err, out.Bytes())
	}
	return ended{r, out.String()}
}

func TestImage_IsAllThatThereIs(t *testing.T) {
	shell(t, imageOf(t), `
alias ls="busybox ls" cat="busybox cat"
same "$(busybox ls / | busybox tr '\n' ' ')" "bin dev etc proc root run sbin srv tmp var "
same "$(busybox cat /etc/os-release /etc/deep/file /srv/data | busybox tr '\n' ' ')" "ID=tiny deep data "
same "$(busybox readlink /sbin)" bin
for f in /usr /lib /etc/ssl /etc/shadow /home /work /sys; do hasnt $f; done
same "$(busybox ls /root)" ""
same "$(busybox id -u)" 1000`, nil).wantOK(t)
}

func TestImage_KeepsItsAccountsAndGetsOurs(t *testing.T) {
	shell(t, imageOf(t, entry{name: "etc/hosts", link: "/nowhere"}, entry{name: "etc/hostname", text: "theirs\n"}), `
same "$(busybox cut -d: -f1 /etc/passwd | busybox tr '\n' ' ')" "root daemon spare "
same "$(busybox id -un)" spare
same "$(busybox cat /etc/hostname)" spare
same "$(busybox hostname)" spare
same "$(busybox head -n1 /etc/hosts)" "127.0.0.1 localhost"
same "$(busybox cat /etc/resolv.conf)" ""`, nil).wantOK(t)
	shell(t, imageOf(t, entry{name: "etc/passwd", text: "app:x:1000:1000::/srv:/bin/sh\n"}), `same "$(busybox id -un)" app`, nil).wantOK(t)
}

func TestImage_WithoutEtcGetsOne(t *testing.T) {
	img := imageOf(t)
	if err := os.RemoveAll(filepath.Join(img.Folder, "etc")); err != nil {
		t.Fatal(err)
	}
	shell(t, img, `same "$(busybox id -un)" spare; has /etc/hosts`, nil).wantOK(t)
}

func TestImage_IsReadOnly(t *testing.T) {
	img := imageOf(t)
	shell(t, img, `
for d in / /bin /etc /etc/deep /root /run /srv /var /dev /proc; do no busybox touch $d/new; done
no busybox rm /srv/data
no busybox chmod 700 /srv/data
no busybox sh -c "echo x >> /srv/data"
for d in /tmp /var/tmp /dev/shm; do busybox touch $d/new || bad $d; done`, nil).wantOK(t)
	if text, err := os.ReadFile(filepath.Join(img.Folder, "srv/data")); err != nil || string(text) != "data\n" {
		t.Errorf("the image's file is now %q, %v", text, err)
	}
}

func TestImage_MountsNeedNoFolderInIt(t *testing.T) {
	ro, rw := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(ro, "in"), []byte("in\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mounts := func(s *Spec) {
		s.Mounts = []Mount{{Host: ro, Inner: "/spare/task"}, {Host: rw, Inner: "/srv/more/results", Writable: true}, {Host: filepath.Join(ro, "in"), Inner: "/spare/data.bin"}}
	}
	const script = `
same "$(busybox cat /spare/task/in /spare/data.bin /srv/data | busybox tr '\n' ' ')" "in in data "
no busybox touch /spare/task/new
busybox touch /srv/more/results/made || bad results`
	shell(t, imageOf(t), script, mounts).wantOK(t)
	if _, err := os.Stat(filepath.Join(rw, "made")); err != nil {
		t.Error(err)
	}
	// A link in the image where a mount goes leads nowhere.
	shell(t, imageOf(t, entry{name: "spare", link: shared(t)}, entry{name: "srv/more", link: "/"}), script, mounts).wantOK(t)
}

func TestImage_LinksLeadNowhereOnTheHost(t *testing.T) {
	outside := shared(t)
	for _, name := range []string{"secret", "passwd", "group"} { // the last two are read of an image's /etc
		if err := os.WriteFile(filepath.Join(outside, name), []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	links := []entry{{name: "out", link: outside}, {name: "srv/out", link: "../../../../../../../.." + outside}}
	for _, name := range []string{"etc", "tmp", "dev", "proc", "run", "var", "spare"} {
		links = append(links, entry{name: name, link: outside})
	}
	shell(t, imageOf(t, links...), `
for f in /out/secret /srv/out/secret /etc/secret /tmp/secret /dev/secret /proc/secret /run/secret /var/secret /spare/secret; do hasnt $f; done
has /dev/null; has /proc/self/status; has /etc/hosts; has /spare/rw
busybox grep -q secret /etc/passwd /etc/group && bad accounts
busybox touch /tmp/x || bad tmp`, func(s *Spec) { s.Mounts = []Mount{{Host: t.TempDir(), Inner: "/spare/rw", Writable: true}} }).wantOK(t)
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 3 {
		t.Errorf("outside there is now %v, %v", left, err)
	}
}

func TestImage_ItsOwnDevicesAndProcAreHidden(t *testing.T) {
	shell(t, imageOf(t, entry{name: "dev/null", text: "evil"}, entry{name: "dev/sda", text: "evil"}, entry{name: "proc/self/status", text: "evil"}), `
[ -c /dev/null ] || bad null
hasnt /dev/sda
busybox grep -q '^Seccomp:.2' /proc/self/status || bad seccomp
busybox grep -q '^NoNewPrivs:.1' /proc/self/status || bad no_new_privs`, nil).wantOK(t)
}

func TestImage_NothingInItIsSetuid(t *testing.T) {
	shell(t, imageOf(t, entry{name: "srv/suid", mode: 0o755 | os.ModeSetuid}), `
while read -r _ at kind options _; do
	case ",$options," in *,nosuid,*) ;; *) bad "$at without nosuid" ;; esac
	case ",$options,$kind,$at" in *,nodev,*|*,devtmpfs,*|*/dev/*|*/proc/*) ;; *) bad "$at without nodev" ;; esac
done < /proc/self/mounts`, nil).wantOK(t)
}

func TestImage_MissingIsNamed(t *testing.T) {
	_, err := linux{}.Run(t.Context(), Spec{Image: &Image{Folder: "/no/such/image"}, Argv: []string{"sh"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/image") {
		t.Errorf("%v", err)
	}
}

func TestImage_LandlockHoldsInItToo(t *testing.T) {
	file := filepath.Join(shared(t), "secret")
	if err := os.WriteFile(file, []byte("the secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	img := imageOf(t)
	for _, without := range [][]string{nil, {first.WallSeccomp}} {
		var out bytes.Buffer
		r, err := linux{without: without}.Run(t.Context(), Spec{
			Image: img, Argv: []string{"/bin/sh", "-c", "busybox kill -0 1 2>&1; busybox stty -F /dev/null 2>&1"}, Stdout: &out,
		})
		if err != nil || r.Cause != Exited || first.LandlockVersion() >= 6 && strings.Count(out.String(), "ermi") != 2 {
			t.Errorf("%+v, %v: %s", r, err, out.String())
		}
	}
}
