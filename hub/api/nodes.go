package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// removeTime is how long ending a node's session may take.
const removeTime = 30 * time.Second

// removeNode makes the hub forget a node, which then needs a ticket to come back.
func (s *server) removeNode(w http.ResponseWriter, r *http.Request) error {
	id, err := spare.ParseNodeID(r.PathValue("id"))
	if err != nil {
		return refuse(http.StatusBadRequest, "%s; GET /v1/computing/nodes lists them", err)
	}
	// Once begun it is done to the end, whether or not the caller still listens.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), removeTime)
	defer cancel()
	err = s.Nodes.Remove(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return refuse(http.StatusNotFound, "no node %s: GET /v1/computing/nodes lists them", id.Short())
	}
	if err != nil {
		return fmt.Errorf("remove node %s: %w", id.Short(), err)
	}
	s.Log.Info("node removed", "node", id.Short(), "by", caller(r.Context()).Name)
	return s.ok(w, r, "removed")
}
