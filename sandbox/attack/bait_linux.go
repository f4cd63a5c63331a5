package attack

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bait is what attacks go for on the host, made for one suite: files, services, a process,
// shared memory. Whatever they can reach of it tells them a token that is nowhere else.
type Bait struct {
	Facts

	dir     string
	closers []func() error
	serving sync.WaitGroup
}

// Facts are what scripts know of the bait, as H.
type Facts struct {
	Token    string            `json:"token"`
	Secret   string            `json:"secret"`  // a file that everybody may read
	Key      string            `json:"key"`     // one that its owner may read
	Home     string            `json:"home"`    // a folder
	Open     string            `json:"open"`    // a folder that everybody may write
	Other    string            `json:"other"`   // a file in another task's writable folder
	Unix     string            `json:"unix"`    // a socket that everybody may connect to
	TTY      string            `json:"tty"`     // a terminal
	Mount    string            `json:"mount"`   // what the host's list of mounts says and no other
	Same     map[string]string `json:"same"`    // device and inode of the host's files, by name
	Roots    []uint64          `json:"roots"`   // inodes that roots of file systems have
	Disk     uint64            `json:"disk"`    // device number of a disk
	Opens    bool              `json:"opens"`   // this user can open it
	Port     int               `json:"port"`    // TCP and UDP, on every address
	Address  string            `json:"address"` // one of the host's
	Abstract string            `json:"abstract"`
	PID      int               `json:"pid"`
	Marker   string            `json:"marker"` // in that process's arguments
	Own      bool              `json:"own"`    // programs run as a user of their own
	Hostname string            `json:"hostname"`
	Shm      int               `json:"shm"`
	MQ       string            `json:"mq"`
	KeyName  string            `json:"keyname"`
	CPUs     int               `json:"cpus"`
	Memory   int64             `json:"memory"` // limits that attacks of their own run under
	Files    int               `json:"files"`  // limits of what may be collected
	Bytes    int64             `json:"bytes"`
	RO       string            `json:"ro"` // where things are inside
	RW       string            `json:"rw"`
	Programs string            `json:"programs"`
	Patience float64           `json:"patience"` // seconds to wait for walls that watch
	Bare     bool              `json:"bare"`     // there are no walls at all
	Args     []string          `json:"args"`
}

// patience is how long attacks that fill something wait to be ended: the watches look every
// quarter of a second, and less often where looking is work. Where they are switched off,
// nobody comes.
const patience = 9

// What package bundle is given as limits for the attacks' results.
const (
	CollectedFiles = 200
	CollectedBytes = 1 << 20
)

// names are files and folders of the host that attacks ask for by their usual names.
var names = []string{
	"/", "/etc", "/usr", "/usr/local/lib", "/bin", "/lib", "/var", "/opt", "/srv", "/root", "/home",
	"/etc/shadow", "/etc/passwd", "/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostname", "/etc/ssh/ssh_host_ed25519_key.pub",
	"/usr/bin/env", "/etc/ld.so.cache", "/etc/resolv.conf",
}

// Set lays out the bait below a folder of its own. The process that it makes belongs to
// uid, as another task's would. Close takes it away.
func Set(dir string, uid int) (*Bait, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	token := "bait-" + strings.ToLower(rand.Text())
	b := &Bait{dir: dir, Facts: Facts{
		Token: token, Abstract: "spare-" + token, Marker: token, MQ: token, KeyName: "spare-" + token,
		Own: uid != os.Getuid(), Hostname: host, Address: arenaAddress, Memory: memoryLimit, Files: CollectedFiles, Bytes: CollectedBytes,
		RO: "/spare/app", RW: "/spare/rw", Programs: "/spare/programs", CPUs: runtime.NumCPU(), Patience: patience, Same: map[string]string{},
	}}
	for _, step := range []func() error{
		b.setFiles, b.setHost, b.setServices, func() error { return b.setProcess(uid) }, b.setTerminal, b.setShared, b.setKey,
	} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("set bait: %w", err), b.Close())
		}
	}
	return b, nil
}

// Close takes the bait away.
func (b *Bait) Close() error {
	var all []error
	for _, c := range b.closers {
		all = append(all, c())
	}
	b.serving.Wait()
	return errors.Join(all...)
}

// JSON is what a run finds as bait.json.
func (f Facts) JSON() []byte {
	text, err := json.Marshal(f)
	if err != nil {
		panic(err) // plain values always marshal
	}
	return text
}

func (b *Bait) setFiles() error {
	b.Secret, b.Key = filepath.Join(b.dir, "secret"), filepath.Join(b.dir, "node.key")
	b.Home, b.Open = filepath.Join(b.dir, "home"), filepath.Join(b.dir, "open")
	for _, d := range []string{b.Home, b.Open} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Chmod(b.Open, 0o777),
		os.WriteFile(b.Secret, []byte(b.Token), 0o644), os.WriteFile(b.Key, []byte(b.Token), 0o600),
		os.WriteFile(filepath.Join(b.Home, "letter"), []byte(b.Token), 0o644))
}

// setHost notes what the host's own files are, to tell them from others of the same name.
func (b *Bait) setHost() error {
	interpreter, err := filepath.EvalSymlinks("/usr/bin/python3")
	if err != nil {
		return err
	}
	for _, name := range append([]string{interpreter, b.Home, b.Open, b.Secret}, names...) {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err == nil {
			b.Same[name] = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
		}
	}
	b.setDisk()
	// ext, xfs and btrfs number their roots so.
	b.Roots = []uint64{2, 64, 96, 128, 256}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 5 && f[4] == "/" { // its device, and where on it: "254:0 / / "
			b.Mount = strings.Join(f[2:5], " ") + " "
		}
	}
	return nil
}

// setDisk notes a disk that whoever may open disks can open: some hosts keep their own even
// from root.
func (b *Bait) setDisk() {
	files, _ := filepath.Glob("/dev/*")
	for _, name := range files {
		var st unix.Stat_t
		if unix.Stat(name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			continue
		}
		if b.Disk == 0 {
			b.Disk = st.Rdev
		}
		if f, err := os.Open(name); err == nil {
			_ = f.Close()
			b.Disk, b.Opens = st.Rdev, true
			return
		}
	}
}

// setServices answers with the token whoever calls: on every address by TCP and UDP, by
// an abstract socket and by one in a folder.
func (b *Bait) setServices() error {
	tcp, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		return err
	}
	b.Port = tcp.Addr().(*net.TCPAddr).Port
	b.answer(tcp)
	udp, err := net.ListenPacket("udp", fmt.Sprintf("[::]:%d", b.Port))
	if err != nil {
		return err
	}
	b.echo(udp)
	abstract, err := net.Listen("unix", "@"+b.Abstract)
	if err != nil {
		return err
	}
	b.answer(abstract)
	b.Unix = filepath.Join(b.dir, "service.sock")
	inFolder, err := net.Listen("unix", b.Unix)
	if err != nil {
		return err
	}
	b.answer(inFolder)
	return os.Chmod(b.Unix, 0o666)
}

func (b *Bait) answer(l net.Listener) {
	b.closers = append(b.closers, l.Close)
	b.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(b.Token))
			_ = c.Close()
		}
	})
}

func (b *Bait) echo(p net.PacketConn) {
	b.closers = append(b.closers, p.Close)
	b.serving.Go(func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo([]byte(b.Token), from)
		}
	})
}

// setProcess starts a process that has a file of the token's open.
func (b *Bait) setProcess(uid int) error {
	own := filepath.Join(b.dir, "own")
	if err := os.WriteFile(own, []byte(b.Token), 0o600); err != nil {
		return err
	}
	if err := os.Chown(own, uid, uid); err != nil {
		return err
	}
	f, err := os.Open(own)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", "while read -r line; do :; done; : "+b.Marker) // until its input ends
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{f}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.PID = cmd.Process.Pid
	b.closers = append(b.closers, func() error { return errors.Join(in.Close(), cmd.Wait()) })
	return nil
}

// setTerminal opens a terminal that everybody may write to.
func (b *Bait) setTerminal() error {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, ptmx.Close)
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetUint32(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		return err
	}
	b.TTY = fmt.Sprintf("/dev/pts/%d", n)
	return os.Chmod(b.TTY, 0o666)
}

// setShared makes a memory segment and a message queue that everybody may read. They
// belong to the arena's own ipc namespace, and go with it.
func (b *Bait) setShared() error {
	b.Shm = 0x5ba9e000 | os.Getpid()&0xfff
	id, err := unix.SysvShmGet(b.Shm, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		return err
	}
	b.closers = append(b.closers, func() error { _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); return err })
	at, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	copy(at, b.Token)
	if err := unix.SysvShmDetach(at); err != nil {
		return err
	}
	name, err := unix.BytePtrFromString(b.MQ)
	if err != nil {
		return err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o666, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("make a message queue: %w", errno)
	}
	b.closers = append(b.closers, func() error {
		_, _, errno := unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0)
		return errors.Join(unix.Close(int(fd)), asError(errno))
	})
	return nil
}

// setKey adds a key that everybody may read to the user's keyring.
func (b *Bait) setKey() error {
	// Whose a key is goes by the thread: another may not change it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	key, err := unix.AddKey("user", b.KeyName, []byte(b.Token), unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		return fmt.Errorf("add a key: %w", err)
	}
	b.closers = append(b.closers, func() error {
		_, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, key, unix.KEY_SPEC_USER_KEYRING, 0, 0)
		return err
	})
	return unix.KeyctlSetperm(key, 0x3f3f3f3f)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
