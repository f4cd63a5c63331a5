package node

import (
	"log/slog"
	"testing"

	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/node/device"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/node/work"
)

// What is too much on the disk may take long to remove: a look at the owner's wishes, the
// one to pause among them, does not wait for it.
func TestNode_ALookDoesNotWaitForTheDisk(t *testing.T) {
	home, err := OpenHome(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() })
	n := &Node{home: home, log: slog.New(slog.DiscardHandler), disk: make(chan int64, 1), reader: device.NewReader(device.Config{Volume: home.dir})}
	if n.cache, err = cache.Open(home.path("cache"), 0); err != nil {
		t.Fatal(err)
	}
	if n.images, err = image.Open(home.path("images"), image.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.images.Close() })
	if n.work, err = work.New(work.Config{Scratch: home.path("work"), Cache: n.cache, Log: n.log}); err != nil {
		t.Fatal(err)
	}
	n.device = n.reader.Read(t.Context())
	for _, disk := range []policy.Size{64 << 20, 96 << 20} { // nobody sets quotas meanwhile
		if err := policy.Save(home.path("prefs.json"), policy.Prefs{When: policy.WhenAlways, Disk: disk}); err != nil {
			t.Fatal(err)
		}
		n.look(t.Context())
		if n.decision.Limits.Disk == 0 {
			t.Fatalf("nothing is lent of the disk: %+v", n.decision)
		}
		if q := n.cache.Stats().Quota; q != 0 {
			t.Fatalf("the look set the quota to %d itself", q)
		}
	}
	lent := <-n.disk
	if lent != int64(n.decision.Limits.Disk) {
		t.Errorf("to be kept to is %d, want the last word, %d", lent, n.decision.Limits.Disk)
	}
	n.setQuotas(t.Context(), lent)
	if q := n.cache.Stats().Quota; q != lent-lent/2 {
		t.Errorf("the cache may hold %d of %d", q, lent)
	}
}
