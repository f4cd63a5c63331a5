package storetest

import (
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

func runNodes(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("NodeComesBackWhole", func(t *testing.T) { nodeComesBackWhole(t, open(t)) })
	t.Run("TokenAdmitsAsOftenAsItSays", func(t *testing.T) { tokenAdmits(t, open(t)) })
	t.Run("LastUseIsTakenOnce", func(t *testing.T) { lastUseOnce(t, open(t)) })
}

func nodeComesBackWhole(t *testing.T, s store.Store) {
	load := 0.5
	n := spare.Node{
		ID: nodeID("a"), Pool: "trusted", Owner: "ann", State: spare.NodePaused, Joined: at(0), LastSeen: at(9),
		Reason: spare.Reason{Code: "on_battery", Detail: "62 %"},
		Device: spare.Device{Name: "lap", OS: "linux", Load1: &load, Memory: &spare.Amount{Total: 8, Free: 4}},
	}
	ok(t, s.PutNode(ctx, spare.Node{ID: n.ID}))
	ok(t, s.PutNode(ctx, n))
	if got := must[spare.Node](t)(s.Node(ctx, n.ID)); !reflect.DeepEqual(got, n) {
		t.Errorf("node %+v\nwant %+v", got, n)
	}
	ok(t, s.PutNode(ctx, spare.Node{ID: nodeID("b")}))
	if all := must[[]spare.Node](t)(s.Nodes(ctx)); len(all) != 2 || all[0].ID >= all[1].ID {
		t.Errorf("nodes %+v", all)
	}
	ok(t, s.Commit(ctx, scheduler.Ledger{Records: []spare.Record{{Node: n.ID, App: "x"}, {Node: nodeID("b"), App: "x"}}}))
	ok(t, s.DeleteNode(ctx, n.ID))
	if all := must[[]spare.Node](t)(s.Nodes(ctx)); len(all) != 1 {
		t.Errorf("nodes %+v", all)
	}
	if r := must[[]spare.Record](t)(s.Records(ctx)); len(r) != 1 || r[0].Node != nodeID("b") {
		t.Errorf("records %+v: a node's go with it", r)
	}
}

func tokenAdmits(t *testing.T, s store.Store) {
	hash := digest("secret")
	ok(t, s.PutToken(ctx, store.Token{Hash: hash, Pool: "volunteers", Owner: "bob", Uses: 2, Created: at(0), Expires: at(3600)}))
	enrol := func(name string, now time.Time) (spare.Node, error) {
		return s.Enrol(ctx, hash, spare.Node{ID: nodeID(name), Device: spare.Device{Name: name}}, now)
	}
	a := must[spare.Node](t)(enrol("a", at(1)))
	if a.Pool != "volunteers" || a.Owner != "bob" || !a.Joined.Equal(at(1)) {
		t.Errorf("enrolled as %+v", a)
	}
	if got := must[spare.Node](t)(s.Node(ctx, nodeID("a"))); got.Pool != "volunteers" || got.Device.Name != "a" {
		t.Errorf("stored as %+v", got)
	}
	again := must[spare.Node](t)(enrol("a", at(2))) // a known node costs no use
	if !again.Joined.Equal(at(1)) {
		t.Errorf("joined anew: %+v", again)
	}
	if _, err := enrol("late", at(3600)); !errors.Is(err, store.ErrTokenExpired) {
		t.Errorf("late: %v, want ErrTokenExpired", err)
	}
	must[spare.Node](t)(enrol("b", at(3)))
	if _, err := enrol("c", at(4)); !errors.Is(err, store.ErrTokenUsed) {
		t.Errorf("third: %v, want ErrTokenUsed", err)
	}
	if _, err := s.Node(ctx, nodeID("c")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a refused node is stored: %v", err)
	}
	must[spare.Node](t)(enrol("b", at(9999))) // known: the token does not matter
}

func lastUseOnce(t *testing.T, s store.Store) {
	hash := digest("secret")
	ok(t, s.PutToken(ctx, store.Token{Hash: hash, Uses: 1, Expires: at(60)}))
	var wg sync.WaitGroup
	var mu sync.Mutex
	admitted := 0
	for i := range 8 {
		wg.Go(func() {
			_, err := s.Enrol(ctx, hash, spare.Node{ID: nodeID(string(rune('a' + i)))}, at(1))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				admitted++
			} else if !errors.Is(err, store.ErrTokenUsed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if admitted != 1 {
		t.Errorf("%d nodes admitted by one use", admitted)
	}
}

func runKeys(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("KeyIsFoundByItsHash", func(t *testing.T) {
		s := open(t)
		expires := at(60)
		k := store.Key{ID: "k1", Name: "laptop", Hash: digest("s1"), Owner: "ann", Role: store.RoleSubmitter, Issued: at(0), Expires: &expires}
		ok(t, s.PutKey(ctx, k))
		if got := must[store.Key](t)(s.KeyByHash(ctx, digest("s1"))); !reflect.DeepEqual(got, k) {
			t.Errorf("key %+v\nwant %+v", got, k)
		}
		k.Revoked = true
		ok(t, s.PutKey(ctx, k))
		if got := must[store.Key](t)(s.KeyByHash(ctx, digest("s1"))); !got.Revoked {
			t.Error("the change is lost")
		}
		if err := s.PutKey(ctx, store.Key{ID: "k2", Hash: digest("s1")}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("two keys with one secret: %v, want ErrConflict", err)
		}
		ok(t, s.PutKey(ctx, store.Key{ID: "k0", Hash: digest("s0")}))
		if all := must[[]store.Key](t)(s.Keys(ctx)); len(all) != 2 || all[0].ID != "k0" {
			t.Errorf("keys %+v", all)
		}
	})
	t.Run("SecretIsMadeOnce", func(t *testing.T) {
		s := open(t)
		if got := must[[]byte](t)(s.Secret(ctx, "links", []byte{1, 0, 2})); !reflect.DeepEqual(got, []byte{1, 0, 2}) {
			t.Errorf("secret %v", got)
		}
		if got := must[[]byte](t)(s.Secret(ctx, "links", []byte{9})); !reflect.DeepEqual(got, []byte{1, 0, 2}) {
			t.Errorf("secret %v, want the first one", got)
		}
		if got := must[[]byte](t)(s.Secret(ctx, "other", []byte{9})); !reflect.DeepEqual(got, []byte{9}) {
			t.Errorf("other secret %v", got)
		}
	})
}
