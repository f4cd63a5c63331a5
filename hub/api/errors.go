package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"syscall"

	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/dispatch"
	"github.com/spare-compute/spare/hub/store"
)

// A problem is a refusal that says what to do: its message is shown to people as is.
type problem struct {
	status  int
	message string
	field   string   // path of the field that is wrong, "params.app.outputs[0].codec"
	allowed []string // what may stand there instead
}

func (p *problem) Error() string { return p.message }

func refuse(status int, format string, args ...any) *problem {
	return &problem{status: status, message: fmt.Sprintf(format, args...)}
}

// refuseField is a 400 about one field of the body.
func refuseField(field, format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, field: field, message: field + ": " + fmt.Sprintf(format, args...)}
}

// errorBody is one body for every kind of client: the newer era's generic response, the
// gateway's status (code, message, details), and our field path.
type errorBody struct {
	OK        bool         `json:"ok"`
	RequestID string       `json:"requestId"`
	Code      int          `json:"code"` // as gRPC numbers it
	Message   string       `json:"message"`
	Details   []any        `json:"details"`
	Error     *errorDetail `json:"error"`
	Field     string       `json:"field,omitempty"`
	Allowed   []string     `json:"allowed,omitempty"`
}

type errorDetail struct {
	Code        int    `json:"code"` // HTTP status
	Message     string `json:"message"`
	Description string `json:"description"`
}

// fail answers with err's status and sentence. What is nobody's fault but the hub's is
// logged here and told without its inside.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody is listening
	}
	p := s.explain(r, err)
	writeJSON(w, p.status, errorBody{
		RequestID: requestID(r.Context()),
		Code:      grpcCode(p.status),
		Message:   p.message,
		Details:   []any{},
		Error:     &errorDetail{Code: p.status, Message: p.message, Description: http.StatusText(p.status)},
		Field:     p.field,
		Allowed:   p.allowed,
	})
}

// explain turns any error into a problem.
func (s *server) explain(r *http.Request, err error) *problem {
	var (
		p        *problem
		field    *catalog.FieldError
		refused  *catalog.Refused
		tooLarge *http.MaxBytesError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &field):
		return &problem{status: http.StatusBadRequest, message: err.Error(), field: field.Path, allowed: field.Allowed}
	case errors.Is(err, catalog.ErrForbidden):
		return refuse(http.StatusForbidden, "%s", err)
	case errors.As(err, &tooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "the request is larger than the %d bytes this path takes", tooLarge.Limit)
	case errors.Is(err, store.ErrNotFound):
		return refuse(http.StatusNotFound, "%s", err)
	case errors.Is(err, store.ErrConflict):
		return refuse(http.StatusConflict, "%s", err)
	case errors.As(err, &refused):
		return refuse(http.StatusBadRequest, "%s", err)
	case errors.Is(err, blob.ErrFull), errors.Is(err, store.ErrFull), outOfSpace(err):
		return refuse(http.StatusInsufficientStorage, "the hub's disk is full: free space on it or delete old jobs, then try again")
	case errors.Is(err, dispatch.ErrHeld), errors.Is(err, dispatch.ErrStopped):
		return refuse(http.StatusServiceUnavailable, "the hub is busy, cannot write to its ledger or is being stopped; nothing is lost: try again in a moment")
	}
	s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "request", requestID(r.Context()), "err", err)
	return refuse(http.StatusInternalServerError, "the hub could not do this; its log says why under request %s", requestID(r.Context()))
}

// outOfSpace reports whether the system said that a disk is full.
func outOfSpace(err error) bool {
	const windowsDiskFull = syscall.Errno(112) // another error elsewhere
	return errors.Is(err, syscall.ENOSPC) || (runtime.GOOS == "windows" && errors.Is(err, windowsDiskFull))
}

// grpcCode is the number a gRPC gateway would give for an HTTP status.
func grpcCode(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestedRangeNotSatisfiable:
		return 3 // invalid argument
	case http.StatusUnauthorized:
		return 16
	case http.StatusForbidden:
		return 7
	case http.StatusNotFound:
		return 5
	case http.StatusConflict:
		return 9 // failed precondition
	case http.StatusInsufficientStorage:
		return 8 // resource exhausted
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return 12
	case http.StatusServiceUnavailable:
		return 14
	}
	return 13 // internal
}
