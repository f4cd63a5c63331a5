package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

// store is a hub's blobs in memory.
type store struct {
	mu    sync.Mutex
	blobs map[spare.Digest][]byte
	part  map[spare.Digest]*bytes.Buffer
}

func (s *store) Stat(d spare.Digest) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.blobs[d]; ok {
		return int64(len(b)), nil
	}
	return 0, protocol.ErrNotFound
}

func (s *store) Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d]
	if !ok {
		return nil, 0, protocol.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b[offset:])), int64(len(b)), nil
}

type partial struct {
	s *store
	d spare.Digest
	b *bytes.Buffer
}

func (s *store) Partial(d spare.Digest, _ int64) (protocol.PartialWriter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.part[d] == nil {
		s.part[d] = new(bytes.Buffer)
	}
	return partial{s, d, s.part[d]}, nil
}

func (p partial) Write(b []byte) (int, error) { return p.b.Write(b) }
func (p partial) Offset() int64               { return int64(p.b.Len()) }
func (p partial) Close() error                { return nil }
func (p partial) Commit() error {
	if spare.Sum(p.b.Bytes()) != p.d {
		return protocol.ErrMismatch
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.s.blobs[p.d] = bytes.Clone(p.b.Bytes())
	return nil
}

// serveBlobs serves one session's blob streams; after cut streams it breaks the session.
func (p *peer) serveBlobs(st *store, cut int) {
	for n := 0; ; n++ {
		stream, err := p.s.AcceptStream(context.Background())
		if err != nil {
			return
		}
		if n == cut {
			_ = p.s.Close(protocol.CodeLost, "cable cut")
			return
		}
		first, err := protocol.NewConn(stream).Receive()
		if err != nil {
			continue
		}
		_ = protocol.ServeBlob(context.Background(), stream, first, st, protocol.BlobLimits{MaxBlob: 1 << 30})
	}
}

func TestTransfer_OutlastsLostSessionsAndGoesOn(t *testing.T) {
	content := bytes.Repeat([]byte("spare"), 100_000)
	d := spare.Sum(content)
	hubStore := &store{blobs: map[spare.Digest][]byte{d: content}, part: map[spare.Digest]*bytes.Buffer{}}
	h := newHub(t)
	l, stop := start(t, h, newDesk())
	defer stop()
	var got bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- l.Get(t.Context(), d, 0, &got) }() // before there is a session
	p, _ := h.accept()
	p.welcome(nil)
	p.serveBlobs(hubStore, 0)
	p, _ = h.accept()
	p.welcome(nil)
	go p.serveBlobs(hubStore, -1)
	if err := <-done; err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Fatalf("Get = %v, %d bytes", err, got.Len())
	}
	made := bytes.Repeat([]byte("result"), 50_000)
	md := spare.Sum(made)
	hubStore.part[md] = bytes.NewBuffer(bytes.Clone(made[:1000])) // of an earlier try
	asked := int64(-1)
	err := l.Put(t.Context(), md, int64(len(made)), func(offset int64) (io.ReadCloser, error) {
		asked = offset
		return io.NopCloser(bytes.NewReader(made[offset:])), nil
	})
	if err != nil || asked != 1000 || !bytes.Equal(hubStore.blobs[md], made) {
		t.Errorf("Put = %v from byte %d", err, asked)
	}
}

func TestTransfer_WhatCannotBeDoneIsNotTriedAgain(t *testing.T) {
	h := newHub(t)
	l, stop := start(t, h, newDesk())
	defer stop()
	p, _ := h.accept()
	p.welcome(nil)
	content := []byte("here")
	go p.serveBlobs(&store{blobs: map[spare.Digest][]byte{spare.Sum(content): content}}, -1)
	if err := l.Get(t.Context(), spare.Sum([]byte("gone")), 0, io.Discard); !errors.Is(err, protocol.ErrNotFound) {
		t.Errorf("Get of a missing blob = %v", err)
	}
	full := errors.New("disk full")
	if err := l.Get(t.Context(), spare.Sum(content), 0, failing{full}); !errors.Is(err, full) {
		t.Errorf("Get to a full disk = %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(full)
	if err := l.Get(ctx, spare.Sum(content), 0, io.Discard); !errors.Is(err, full) {
		t.Errorf("Get after the end = %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// line is a session that stays.
type line struct {
	protocol.Session
	done chan struct{}
}

func (l line) Done() <-chan struct{} { return l.done }

func TestTransfer_AResultOutwaitsAFullHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{})
		l.session = line{done: make(chan struct{})}
		full := &protocol.BlobError{Op: "put", Code: protocol.BlobFull, Message: "the hub's disk is full"}
		began, tries := time.Now(), 0
		hub := func(protocol.Session) error {
			tries++
			if time.Since(began) < 48*time.Hour {
				return full
			}
			return nil
		}
		if err := l.persist(t.Context(), putTries, hub); err != nil {
			t.Errorf("a weekend of a full hub: %v", err)
		}
		if took := time.Since(began); tries > int(48*time.Hour/(mostDelay/4)) || took > 48*time.Hour+mostDelay {
			t.Errorf("%d tries, and it took %v", tries, took)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := errors.New("the job has ended")
		time.AfterFunc(time.Hour, func() { cancel(ended) })
		if err := l.persist(ctx, putTries, func(protocol.Session) error { return full }); !errors.Is(err, ended) {
			t.Errorf("after the job's end: %v", err)
		}
		for _, code := range []protocol.BlobCode{protocol.BlobDenied, protocol.BlobTooLarge, protocol.BlobMismatch, protocol.BlobMalformed} {
			never := &protocol.BlobError{Op: "put", Code: code}
			if err := l.persist(t.Context(), putTries, func(protocol.Session) error { return never }); !errors.Is(err, never) {
				t.Errorf("%s: %v", code, err)
			}
		}
	})
}
