package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/spare-compute/spare"
)

// RemoveNode makes the hub forget a node, which then needs a new ticket to come back.
func (c *Client) RemoveNode(ctx context.Context, id spare.NodeID) error {
	return c.call(ctx, http.MethodDelete, "/v1/computing/nodes/"+url.PathEscape(string(id)), nil, nil)
}
