package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/device"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/node/work"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/engine"
	"github.com/spare-compute/spare/sandbox/wasm"
	"github.com/spare-compute/spare/sandbox/wasm/python"
)

// probeNative finds out what runs Apps and tools with the system's own means. It is
// quick, and goes before everything else.
func (n *Node) probeNative(ctx context.Context) {
	all, found := device.Runtimes(ctx)
	for i, c := range found {
		rt := work.Runtime{Capability: c}
		if i < len(all) { // where there is none, there is still a reason
			rt.Runtime = all[i]
		}
		n.prove(rt)
	}
}

// native is the first of the system's own runtimes that works, or nil.
func (n *Node) native() *work.Runtime {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, rt := range n.proved {
		if rt.Capability.OK && !slices.Contains([]string{"engine", "wasm"}, rt.Capability.Runtime) {
			return &rt
		}
	}
	return nil
}

// probeMore finds out about the runtimes that take longer to try, and keeps nobody
// waiting. What the owner does not lend is not tried.
func (n *Node) probeMore(ctx context.Context) {
	prefs := n.preferences()
	containers := engine.New(engine.Config{
		Command: prefs.Engine, OCIRuntime: prefs.EngineRuntime, Instance: n.home.dir, GPU: prefs.GPU, AcceptKnownFlaws: prefs.EngineFlaws,
	})
	interpreter := n.pythonFolder()
	inside := wasm.Config{Cache: n.home.path("wasm"), Python: interpreter}
	if rt := n.native(); rt != nil && rt.Runtime.Name() == "linux" {
		inside.Inside = rt.Runtime
	}
	modules := wasm.New(inside)
	var forgetting sync.WaitGroup
	defer forgetting.Wait()
	for _, rt := range []sandbox.Runtime{modules, containers} {
		switch {
		case !policy.Lent(prefs, rt.Name()):
			n.keepBack(rt, "the owner did not lend it when the node started")
		case rt == sandbox.Runtime(containers) && n.native() != nil && !prefs.ChoosesEngine():
			n.keepBack(rt, "not tried: this system runs images without it; spare-node prefs set engine=podman chooses it, from the next start on")
		default:
			n.probe(ctx, rt)
			if rt == sandbox.Runtime(containers) {
				forgetting.Go(func() { n.forgetImages(ctx, containers.Forget) })
			}
		}
	}
	debug.FreeOSMemory()
	for interpreter == "" && policy.Lent(prefs, modules.Name()) {
		select {
		case b := <-n.offered:
			if err := n.fetchPython(ctx, b); err != nil {
				n.log.Warn("cannot get Python for the wasm runtime", "error", err)
				continue
			}
			interpreter = n.pythonHome()
			modules.SetPython(interpreter)
			n.probe(ctx, modules)
		case <-ctx.Done():
			return
		}
	}
}

// probe tries a runtime and offers what it proved.
func (n *Node) probe(ctx context.Context, rt sandbox.Runtime) {
	c := rt.Probe(ctx)
	if ctx.Err() != nil {
		return
	}
	n.prove(work.Runtime{Runtime: rt, Capability: c})
	n.report(true)
}

// keepBack says why a runtime is not tried.
func (n *Node) keepBack(rt sandbox.Runtime, why string) {
	n.prove(work.Runtime{Runtime: rt, Capability: spare.Capability{Runtime: rt.Name(), Reason: why}})
}

// prove takes in what a probe found, in place of what it found before.
func (n *Node) prove(rt work.Runtime) {
	if c := rt.Capability; !c.OK {
		n.log.Info("runtime not offered", "runtime", c.Runtime, "reason", c.Reason)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.proved, func(p work.Runtime) bool { return p.Capability.Runtime == rt.Capability.Runtime })
	if i < 0 {
		n.proved = append(n.proved, rt)
	} else {
		n.proved = slices.Clone(n.proved)
		n.proved[i] = rt
	}
	n.lend()
}

// lend offers what of the proved runtimes the owner lends. The caller holds the lock.
func (n *Node) lend() {
	proved := make([]spare.Capability, len(n.proved))
	for i, rt := range n.proved {
		proved[i] = rt.Capability
	}
	lent := policy.Lend(n.prefs, proved)
	runtimes := slices.Clone(n.proved)
	for i := range runtimes {
		runtimes[i].Capability = lent[i]
	}
	n.device.Runtimes = lent
	n.work.SetRuntimes(runtimes)
}

// An offer is an interpreter that a hub has.
type offer struct {
	hub  *hubLink
	blob *pb.Blob
}

// offer notes that a hub has the interpreter for the wasm runtime.
func (n *Node) offer(h *hubLink, runtimes []*pb.Blob) {
	for _, b := range runtimes {
		if b.Name == python.Name {
			select {
			case n.offered <- offer{h, b}:
			default: // another hub's is waiting
			}
		}
	}
}

func (n *Node) pythonHome() string { return n.home.path(python.Name) }

// pythonFolder is where the interpreter lies; "" if it does not, or if the disk has lost
// or changed some of it: then it is fetched again. It reads all of it, once at the start.
func (n *Node) pythonFolder() string {
	err := python.Verify(n.pythonHome())
	if err == nil {
		return n.pythonHome()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("getting Python for the wasm runtime again", "reason", err)
	}
	return ""
}

// fetchWithin bounds the download of the interpreter, so that another hub gets a turn.
const fetchWithin = 30 * time.Minute

// fetchPython downloads the interpreter and unpacks it. Package python knows what has to
// be in it: no hub can bring in another one.
func (n *Node) fetchPython(ctx context.Context, o offer) error {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	pin, err := n.cache.Blob(ctx, spare.Digest(o.blob.Digest), int64(o.blob.Size), func(ctx context.Context, offset int64, w io.Writer) error {
		return transfers{o.hub}.Get(ctx, spare.Digest(o.blob.Digest), offset, w)
	})
	if err != nil {
		return err
	}
	defer pin.Release()
	f, err := os.Open(pin.Path())
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := python.Unpack(f, n.pythonHome()); err != nil {
		return fmt.Errorf("what %s sent: %w", o.hub.hub.Name, err)
	}
	return nil
}
