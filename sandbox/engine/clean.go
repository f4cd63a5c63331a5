package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Clean removes the containers that this node's earlier lives left behind. It returns how many there were. Probe calls it.
func (r *Runtime) Clean(ctx context.Context) (int, error) {
	e, err := r.engine(ctx)
	if err != nil {
		return 0, err
	}
	return r.clean(ctx, e)
}

func (r *Runtime) clean(ctx context.Context, e *engine) (int, error) {
	said, err := e.call(ctx, "ps", "--all", "--no-trunc", "--filter", "label="+labelInstance+"="+r.instance(), "--format", "{{.ID}}")
	if err != nil {
		return 0, fmt.Errorf("look for containers that were left behind: %w", err)
	}
	removed := 0
	var errs []error
	for id := range strings.FieldsSeq(string(said)) {
		labels, err := e.call(ctx, "inspect", "--type", "container", "--format",
			`{{index .Config.Labels "`+labelProcess+`"}} {{index .Config.Labels "`+labelPID+`"}}`, id)
		if err != nil {
			continue // it has just gone
		}
		if !r.orphan(string(labels)) {
			continue
		}
		e.remove(ctx, id)
		if _, err := e.call(ctx, "inspect", "--type", "container", "--format", "{{.ID}}", id); err == nil {
			errs = append(errs, fmt.Errorf("container %s, left behind, cannot be removed", id))
			continue
		}
		removed++
	}
	return removed, errors.Join(errs...)
}

// orphan judges by the labels "process pid". One process at a time has an instance's
// folder: whatever has another word than this one's is left over. Where instances are not
// told apart the number counts, though it may be another process's by now.
func (r *Runtime) orphan(labels string) bool {
	f := strings.Fields(labels)
	if len(f) != 2 {
		return true // nobody of ours labels like this any more
	}
	if r.config.Instance != "" {
		return f[0] != r.token
	}
	p, err := strconv.Atoi(f[1])
	switch {
	case f[0] == r.token:
		return false
	case err != nil || p == pid:
		return true
	}
	return !alive(p)
}
