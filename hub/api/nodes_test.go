package api_test

import (
	"testing"

	"github.com/spare-compute/spare"
)

func TestNodes_AnAdminRemovesThem(t *testing.T) {
	h, c := start(t)
	id := spare.NodeID(spare.Sum([]byte("n")))
	if err := h.Store.PutNode(t.Context(), spare.Node{ID: id}); err != nil {
		t.Fatal(err)
	}
	at := "/v1/computing/nodes/" + string(id)
	c.refused(403, "needs admin", "DELETE", at, nil)
	c.auth = h.Admin
	c.refused(400, "64 lower-case hex digits", "DELETE", "/v1/computing/nodes/nonsense", nil)
	c.ok("DELETE", at, nil)
	c.refused(404, "no node "+id.Short(), "DELETE", at, nil)
	if left, err := h.Store.Nodes(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("nodes left: %v, %v", left, err)
	}
}
