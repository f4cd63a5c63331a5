package image_test

import (
	"net/http"
	"sync"
)

// moved counts bytes that a server sends, and tells when there were as many.
type moved struct {
	mu      sync.Mutex
	n       int64
	limit   int64
	reached chan struct{}
}

// at is closed once n bytes were sent in all.
func (m *moved) at(n int64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	reached := make(chan struct{})
	if m.n >= n {
		close(reached)
		return reached
	}
	m.limit, m.reached = n, reached
	return reached
}

func (m *moved) writer(w http.ResponseWriter) http.ResponseWriter { return &movedWriter{w, m} }

type movedWriter struct {
	http.ResponseWriter
	m *moved
}

func (w *movedWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.n += int64(n)
	if w.m.n >= w.m.limit && w.m.reached != nil {
		close(w.m.reached)
		w.m.reached = nil
	}
	return n, err
}

func (w *movedWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }
