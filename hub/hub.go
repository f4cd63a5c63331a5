// Package hub wires the rooms of a hub together: store, blobs, catalogue, scheduler,
// pipeline, the gateway for nodes and the HTTP API. It holds no rule of its own. The
// program spare-hub opens one and runs it.
package hub

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/gateway"
	"github.com/spare-compute/spare/hub/pipeline"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/protocol"
)

// Options say where a hub lives and what it may do. Zero values mean the defaults.
type Options struct {
	Data       string              // data folder
	HTTP       string              // address of the API, "host:port"
	Nodes      string              // address for nodes (UDP), "host:port"
	Name       string              // what it calls itself; default the machine's name
	AllowFetch []netip.Prefix      // private addresses that jobs may name as url sources
	MinFree    int64               // bytes of disk it leaves alone; default 1 GiB
	Official   fs.FS               // Apps registered at start; nil = none
	Mirrors    map[string][]string // of registries, by host; see image.RegistryOptions
	Runtimes   string              // folder of interpreters' bundles for nodes; "" = none
	Log        *slog.Logger

	// The pace of leases; for tests. See scheduler.Config.
	Lease, HeartbeatBusy, HeartbeatIdle time.Duration
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Lease, 8*time.Second)
	def(&o.HeartbeatBusy, 2*time.Second)
	def(&o.HeartbeatIdle, 20*time.Second)
	if o.MinFree == 0 {
		o.MinFree = 1 << 30
	}
	if o.Name == "" {
		o.Name, _ = os.Hostname()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// maxResult is the largest result blob a node may upload.
const maxResult = 256 << 30

// A Hub is an open hub. Make it with Open, then Run it.
type Hub struct {
	opt      Options
	lock     *flock.Flock
	identity *protocol.Identity
	store    store.Store
	blobs    *blob.Disk
	catalog  *catalog.Catalog
	images   *catalog.Shelf
	events   *events.Bus
	dispatch *dispatch.Dispatcher
	pipeline *pipeline.Pipeline
	gateway  *gateway.Gateway
	handler  http.Handler
	listener net.Listener
	nodes    protocol.Listener
	first    bool
	keyHere  bool
}

// ErrInUse says that another process has the data folder.
var ErrInUse = errors.New("in use by another process")

// Open takes the data folder, makes what is missing in it, listens, and takes up the
// work of the last run. When it returns, clients and nodes can connect; they are served
// by Run.
func Open(ctx context.Context, opt Options) (_ *Hub, err error) {
	h := &Hub{opt: opt.withDefaults()}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if err := os.MkdirAll(h.opt.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w; choose another with --data", err)
	}
	if err := h.takeFolder(); err != nil {
		return nil, err
	}
	ledger, err := sqlite.Open(ctx, filepath.Join(h.opt.Data, "hub.db"), sqlite.Options{})
	if err != nil {
		return nil, explainStore(h.opt.Data, err)
	}
	h.store = ledger // only now: a nil *sqlite.Store in it would look like one to close
	if h.blobs, err = blob.OpenDisk(filepath.Join(h.opt.Data, "blobs"), h.opt.MinFree); err != nil {
		return nil, err
	}
	if err := h.adminKey(ctx); err != nil {
		return nil, err
	}
	h.events = events.New(time.Now())
	key, err := h.publisherKey()
	if err != nil {
		return nil, err
	}
	h.images = catalog.NewShelf(catalog.ShelfConfig{
		Store: h.store, Apps: h.store, Blobs: h.blobs,
		Registries: image.NewRegistries(image.RegistryOptions{Rule: egress.Rule{Allow: h.opt.AllowFetch, Hint: "an operator can allow it with --allow-fetch"}, Mirrors: h.opt.Mirrors}),
	})
	h.catalog = catalog.New(catalog.Config{
		Images: h.images,
		Store:  h.store, Blobs: h.blobs, Strategies: strategies{}, Work: h.folder("work"), Log: h.opt.Log,
		Publishers: h.publishers, Key: key,
	})
	if err := h.listen(ctx); err != nil {
		return nil, err
	}
	if err := h.wire(ctx); err != nil {
		return nil, err
	}
	if h.opt.Official != nil {
		if err := h.catalog.RegisterOfficial(ctx, h.opt.Official); err != nil {
			return nil, fmt.Errorf("register the official Apps: %w", err)
		}
	}
	h.catalog.ForgetKey()
	return h, h.writeAddresses()
}

func (h *Hub) folder(name string) string { return filepath.Join(h.opt.Data, name) }

// takeFolder makes sure that one process at a time writes the data folder.
func (h *Hub) takeFolder() error {
	lock := flock.New(h.folder("lock"))
	ok, err := lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock the data folder %s: %w", h.opt.Data, err)
	}
	if !ok {
		return fmt.Errorf("data folder %s: %w: stop the hub that uses it, or choose another with --data", h.opt.Data, ErrInUse)
	}
	h.lock = lock
	return nil
}

func explainStore(data string, err error) error {
	if errors.Is(err, store.ErrNewer) {
		return fmt.Errorf("data folder %s: %w: run that version or a later one, or choose another folder with --data", data, err)
	}
	return fmt.Errorf("open the ledger in %s: %w", data, err)
}

// listen opens both addresses, so that a port in use is known before anything starts.
func (h *Hub) listen(ctx context.Context) error {
	var err error
	if h.identity, err = protocol.LoadIdentity(h.folder("identity.key")); err != nil {
		return err
	}
	reset, err := h.secret(ctx, "quic.stateless-reset")
	if err != nil {
		return err
	}
	token, err := h.secret(ctx, "quic.address-token")
	if err != nil {
		return err
	}
	if h.listener, err = net.Listen("tcp", h.opt.HTTP); err != nil {
		return explainListen(h.opt.HTTP, "--http", err)
	}
	h.nodes, err = protocol.ListenQUIC(h.opt.Nodes, h.identity,
		protocol.QUICSecrets{StatelessReset: reset, TokenKey: token}, protocol.QUICOptions{})
	if err != nil {
		return explainListen(h.opt.Nodes, "--nodes", err)
	}
	return nil
}

func explainListen(addr, flag string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s: the port is in use by another program, perhaps another hub; choose another with %s", addr, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: not allowed; choose a port above 1023 with %s", addr, flag)
	}
	return fmt.Errorf("listen on %s: %w; choose another address with %s", addr, err, flag)
}

func (h *Hub) secret(ctx context.Context, name string) ([]byte, error) {
	fresh := make([]byte, 32)
	rand.Read(fresh)
	s, err := h.store.Secret(ctx, name, fresh)
	if err != nil {
		return nil, fmt.Errorf("read the hub's secret %s: %w", name, err)
	}
	return s, nil
}

// adminKey makes the operator's API key at the first start. Only its hash is stored;
// the key itself lies in admin.key for the operator to use and take away.
func (h *Hub) adminKey(ctx context.Context) error {
	keys, err := h.store.Keys(ctx)
	if err != nil {
		return err
	}
	if len(keys) > 0 {
		return nil
	}
	h.first = true
	raw := make([]byte, 32)
	rand.Read(raw)
	key := "spare_" + hex.EncodeToString(raw)
	// The file first: a key that is stored but not written down would be lost.
	if err := os.WriteFile(h.folder("admin.key"), []byte(key+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the admin key: %w", err)
	}
	return h.store.PutKey(ctx, store.Key{
		ID: uuid.NewString(), Name: "admin", Hash: spare.Sum([]byte(key)), Owner: "admin",
		Role: store.RoleAdmin, Issued: time.Now(),
	})
}

// First reports whether this is the data folder's first start.
func (h *Hub) First() bool { return h.first }

// HTTPAddr and NodesAddr are where the hub listens.
func (h *Hub) HTTPAddr() string { return h.listener.Addr().String() }

// NodesAddr is where nodes connect.
func (h *Hub) NodesAddr() string { return h.nodes.Addr().String() }

// Run serves until ctx ends, then ends the sessions, interrupts what runs and closes
// the data folder.
func (h *Hub) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// The scheduler outlives those who post to it.
	core, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	coreDone := make(chan error, 1)
	go func() { coreDone <- h.dispatch.Run(core) }()

	group.Go(func() error { return h.pipeline.Serve(ctx) })
	group.Go(func() error { return h.gateway.Serve(ctx, h.nodes) })
	group.Go(func() error { return h.gateway.Watch(ctx) })
	group.Go(func() error { return h.serveHTTP(ctx) })
	err := group.Wait()
	stopCore()
	return errors.Join(err, <-coreDone, h.close())
}

func (h *Hub) serveHTTP(ctx context.Context) error {
	srv := &http.Server{
		Handler: h.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(h.opt.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	defer stopped()
	if err := srv.Serve(h.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

func (h *Hub) close() error {
	var errs []error
	if h.listener != nil {
		if err := h.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if h.nodes != nil {
		errs = append(errs, h.nodes.Close())
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Unlock())
	}
	return errors.Join(errs...)
}

// restore brings the scheduler's core to where the ledger says it was.
func (h *Hub) restore(ctx context.Context) error {
	records, err := h.store.Records(ctx)
	if err != nil {
		return err
	}
	opened, err := h.pipeline.Start(ctx)
	if err != nil {
		return err
	}
	live, err := h.store.LiveAttempts(ctx)
	if err != nil {
		return err
	}
	restored := scheduler.AttemptsRestored{Attempts: live}
	for _, a := range live {
		tasks, err := h.store.Tasks(ctx, a.Job, a.Chunk, 1)
		if err != nil {
			return err
		}
		if len(tasks) == 1 && tasks[0].ID == a.Task {
			restored.Tasks = append(restored.Tasks, tasks[0])
		}
	}
	h.dispatch.Prime(scheduler.RecordsRestored{Records: records})
	h.dispatch.Prime(opened...)
	h.dispatch.Prime(restored)
	return nil
}
