package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	maxBody   = 4 << 20   // bytes of an ordinary JSON body
	maxPush   = 256 << 20 // bytes of a JSON body that carries an archive
	bodyPause = 60 * time.Second
)

type contextKey int

const (
	keyRequest contextKey = iota
	keyPrincipal
)

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(keyRequest).(string)
	return id
}

func newRequestID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// generic is the contract's answer where there is nothing else to say.
type generic struct {
	OK        bool         `json:"ok"`
	RequestID string       `json:"requestId"`
	Message   string       `json:"message"`
	Error     *errorDetail `json:"error"`
	Link      string       `json:"link,omitempty"`
	Warnings  []string     `json:"warnings,omitempty"`
}

func (s *server) ok(w http.ResponseWriter, r *http.Request, message string) error {
	return writeJSON(w, http.StatusOK, generic{OK: true, RequestID: requestID(r.Context()), Message: message})
}

// writeJSON sends v. A reader that has gone away is nobody's error.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
	return nil
}

// readBody reads the whole body, at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyPause + time.Duration(limit/(1<<20))*time.Second))
	// What the handler does next may take longer, and must not end with this.
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return nil, refuse(http.StatusBadRequest, "the request's body did not arrive whole: send it again")
	}
	return b, err
}

// readObject reads a JSON object; an absent body counts as an empty one.
func readObject(w http.ResponseWriter, r *http.Request, limit int64) (map[string]json.RawMessage, error) {
	b, err := readBody(w, r, limit)
	if err != nil {
		return nil, err
	}
	return parseObject("body", b)
}

// parseObject reads a JSON object named path in messages. Absent and null are empty.
func parseObject(path string, b []byte) (map[string]json.RawMessage, error) {
	obj := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(b)) == 0 {
		return obj, nil
	}
	if err := json.Unmarshal(b, &obj); err != nil {
		return nil, badJSON(path, err)
	}
	if obj == nil { // null
		obj = map[string]json.RawMessage{}
	}
	return obj, nil
}

func badJSON(path string, err error) error {
	var (
		syntax *json.SyntaxError
		kind   *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &syntax):
		return refuseField(path, "not valid JSON at byte %d (%s)", syntax.Offset, syntax)
	case errors.As(err, &kind):
		if kind.Field != "" {
			path += "." + kind.Field
		}
		return refuseField(path, "want %s, got a %s", wantOf(kind), kind.Value)
	}
	return refuseField(path, "not valid JSON (%s)", err)
}

func wantOf(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "map", "struct":
		return "an object"
	case "slice":
		return "a list"
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	}
	return "a number"
}

func isNull(raw json.RawMessage) bool {
	t := bytes.TrimSpace(raw)
	return len(t) == 0 || string(t) == "null"
}

// text reads a string field; absent and null are "".
func text(path string, raw json.RawMessage) (string, error) {
	var v string
	if isNull(raw) {
		return "", nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", badJSON(path, err)
	}
	return v, nil
}

// number reads a whole number that clients send as a number or as its digits.
func number(path string, raw json.RawMessage, least, most int) (int, error) {
	digits := bytes.Trim(bytes.TrimSpace(raw), `"`)
	n, err := strconv.Atoi(string(digits))
	if err != nil {
		return 0, refuseField(path, "want a whole number, got %.40s", raw)
	}
	if n < least || n > most {
		return 0, refuseField(path, "want a number from %d to %d, got %d", least, most, n)
	}
	return n, nil
}

// pagination is the contract's, as asked for and as answered.
type pagination struct {
	Total       int  `json:"total"`
	Offset      int  `json:"offset"`
	HasPrevious bool `json:"hasPrevious"`
	HasNext     bool `json:"hasNext"`
}

const (
	pageDefault = 50
	pageMax     = 1000
)

type page struct {
	limit, offset int
	orderBy       string
}

// pageOf reads pagination.limit and pagination.offset, or limit and offset.
func pageOf(r *http.Request) (page, error) {
	q := r.URL.Query()
	p := page{limit: pageDefault, orderBy: q.Get("orderBy")}
	for name, to := range map[string]*int{"limit": &p.limit, "offset": &p.offset} {
		for _, key := range []string{name, "pagination." + name} {
			if v := q.Get(key); v != "" {
				n, err := number(key, json.RawMessage(v), 0, 1<<31-1)
				if err != nil {
					return p, err
				}
				*to = n
			}
		}
	}
	return p.bounded(), nil
}

func (p page) bounded() page {
	if p.limit == 0 {
		p.limit = pageDefault
	}
	p.limit = min(p.limit, pageMax)
	return p
}

func (p page) answer(total int) pagination {
	return pagination{
		Total: total, Offset: p.offset,
		HasPrevious: p.offset > 0 && total > 0,
		HasNext:     p.offset+p.limit < total,
	}
}

// cut returns the page's part of all.
func cut[T any](p page, all []T) []T {
	from := min(p.offset, len(all))
	return all[from:min(from+p.limit, len(all))]
}
