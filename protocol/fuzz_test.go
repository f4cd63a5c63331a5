package protocol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

func FuzzParseTicket(f *testing.F) {
	text := exampleTicket().String()
	for _, s := range []string{
		text, "", "spare1:", "spare2:AAAA", text[:40], "\"" + text + "\"\n",
		Ticket{HubKey: exampleTicket().HubKey, Addresses: []string{"h:1"}}.String(),
		Ticket{}.String(),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTicket(s)
		if err != nil {
			if !errors.Is(err, ErrTicketMangled) && !errors.Is(err, ErrTicketVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		again, err := ParseTicket(got.String())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%+v comes back as %+v, %v", got, again, err)
		}
	})
}

// FuzzTicketContent gets past the checksum, which a forger can compute.
func FuzzTicketContent(f *testing.F) {
	for _, k := range []Ticket{exampleTicket(), {}} {
		text := k.String()
		raw, err := ticketBytes(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("\x10\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := ParseTicket(ticketText(raw))
		if err == nil {
			if err := k.Check(); err != nil {
				t.Fatalf("a ticket was taken that fails its check: %v", err)
			}
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	for _, frame := range v1Session() {
		var b bytes.Buffer
		if err := WriteFrame(&b, frame); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 3, 0xc2, 0x3e, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		frame, err := ReadFrame(r, 4096)
		if err != nil {
			return
		}
		if read := len(b) - r.Len(); read > frameHeader+4096 {
			t.Fatalf("%d bytes were read, 4096 are allowed", read)
		}
		var again bytes.Buffer
		if err := WriteFrame(&again, frame); err != nil {
			t.Fatal(err)
		}
		back, err := ReadFrame(&again, MaxFrame)
		if err != nil || !proto.Equal(back, frame) {
			t.Fatalf("%v comes back as %v, %v", frame, back, err)
		}
	})
}

// tape is a Stream whose peer has said everything in advance.
type tape struct {
	in     *bytes.Reader
	out    bytes.Buffer
	closed bool
}

func (s *tape) Read(b []byte) (int, error) { return s.in.Read(b) }

func (s *tape) Write(b []byte) (int, error) {
	if s.closed {
		return 0, errWriteClosed
	}
	return s.out.Write(b)
}
func (s *tape) CloseWrite() error                { s.closed = true; return nil }
func (s *tape) Cancel(Code)                      {}
func (s *tape) SetDeadline(time.Time) error      { return nil }
func (s *tape) SetReadDeadline(time.Time) error  { return nil }
func (s *tape) SetWriteDeadline(time.Time) error { return nil }
func (s *tape) SetPriority(Priority)             {}

// shelf is a BlobStore in memory.
type shelf struct {
	stored, begun map[spare.Digest][]byte
}

func (s *shelf) Stat(d spare.Digest) (int64, error) {
	b, ok := s.stored[d]
	if !ok {
		return 0, ErrNotFound
	}
	return int64(len(b)), nil
}

func (s *shelf) Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error) {
	b := s.stored[d]
	return io.NopCloser(bytes.NewReader(b[offset:])), int64(len(b)), nil
}

func (s *shelf) Partial(d spare.Digest, size int64) (PartialWriter, error) {
	b := s.begun[d]
	return &shelfWriter{shelf: s, digest: d, size: size, b: b[:min(int64(len(b)), size)]}, nil
}

type shelfWriter struct {
	shelf  *shelf
	digest spare.Digest
	size   int64
	b      []byte
}

func (w *shelfWriter) Offset() int64 { return int64(len(w.b)) }

func (w *shelfWriter) Write(b []byte) (int, error) {
	if int64(len(w.b)+len(b)) > w.size {
		panic("more bytes than were declared")
	}
	w.b = append(w.b[:len(w.b):len(w.b)], b...)
	return len(b), nil
}

func (w *shelfWriter) Commit() error {
	if int64(len(w.b)) != w.size {
		panic("commit of half a blob")
	}
	if spare.Sum(w.b) != w.digest {
		w.b = nil
		return ErrMismatch
	}
	w.shelf.stored[w.digest] = w.b
	return nil
}

func (w *shelfWriter) Close() error { w.shelf.begun[w.digest] = w.b; return nil }

func wire(f testing.TB, frames ...*pb.Frame) []byte {
	var b bytes.Buffer
	for _, frame := range frames {
		if err := WriteFrame(&b, frame); err != nil {
			f.Fatal(err)
		}
	}
	return b.Bytes()
}

func FuzzServeBlob(f *testing.F) {
	const maxBlob = 4096
	here, begun := []byte("this is here"), []byte("this was begun before")
	get := func(d spare.Digest, offset uint64) []byte {
		return wire(f, &pb.Frame{Body: &pb.Frame_BlobGet{BlobGet: &pb.BlobGet{Digest: string(d), Offset: offset}}})
	}
	put := func(d spare.Digest, size uint64, b string) []byte {
		return append(wire(f, &pb.Frame{Body: &pb.Frame_BlobPut{BlobPut: &pb.BlobPut{Digest: string(d), Size: size}}}), b...)
	}
	f.Add(get(spare.Sum(here), 0))
	f.Add(get(spare.Sum(here), 5))
	f.Add(get(spare.Sum(here), 1<<63))
	f.Add(get(spare.Sum(nil), 0))
	f.Add(get("../../etc/passwd", 0))
	f.Add(put(spare.Sum([]byte("new")), 3, "new"))
	f.Add(put(spare.Sum([]byte("new")), 3, "newer"))
	f.Add(put(spare.Sum([]byte("new")), 4, "new"))
	f.Add(put(spare.Sum([]byte("new")), 3, "old"))
	f.Add(put(spare.Sum(here), uint64(len(here)), ""))
	f.Add(put(spare.Sum(begun), uint64(len(begun)), string(begun[8:])))
	f.Add(put(spare.Sum(nil), 0, ""))
	f.Add(put(spare.Sum(nil), 1<<63, ""))
	f.Add(put(spare.Sum(nil), maxBlob+1, ""))
	f.Add(wire(f, &pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		store := &shelf{
			stored: map[spare.Digest][]byte{spare.Sum(here): here},
			begun:  map[spare.Digest][]byte{spare.Sum(begun): begun[:8]},
		}
		st := &tape{in: bytes.NewReader(b)}
		first, err := ReadFrame(st, MaxFirstFrame)
		if err != nil {
			return
		}
		err = ServeBlob(t.Context(), st, first, store, BlobLimits{MaxBlob: maxBlob})
		for d, content := range store.stored {
			if spare.Sum(content) != d || len(content) > maxBlob {
				t.Fatalf("%d bytes are stored as %s", len(content), d)
			}
		}
		if first.GetBlobGet() == nil && first.GetBlobPut() == nil {
			if err == nil || st.out.Len() > 0 {
				t.Fatalf("%v was served", first)
			}
			return
		}
		checkServed(t, st, first, err)
	})
}

// checkServed reads what the hub said: an answer; then bytes, or the end of a put.
func checkServed(t *testing.T, st *tape, first *pb.Frame, served error) {
	t.Helper()
	if !st.closed {
		t.Fatal("the stream was left open")
	}
	f, err := ReadFrame(&st.out, MaxFrame)
	if err != nil || f.GetBlobAnswer() == nil {
		t.Fatalf("the hub's answer is %v, %v", f, err)
	}
	a := f.GetBlobAnswer()
	switch {
	case a.ErrorCode != "":
		if st.out.Len() > 0 || served == nil {
			t.Fatalf("after refusing %v the hub went on", first)
		}
	case first.GetBlobGet() != nil:
		if uint64(st.out.Len()) != a.Size-a.Offset || served != nil {
			t.Fatalf("%d bytes follow %v, %v", st.out.Len(), a, served)
		}
	default:
		f, err := ReadFrame(&st.out, MaxFrame)
		if err != nil || f.GetBlobDone() == nil || (f.GetBlobDone().ErrorCode == "") != (served == nil) {
			t.Fatalf("the put ends with %v, %v, served %v", f, err, served)
		}
	}
}

// oneStream is a Session with one stream to open.
type oneStream struct {
	Session
	st Stream
}

func (s oneStream) OpenStream(context.Context) (Stream, error) { return s.st, nil }

func FuzzHubAnswer(f *testing.F) {
	content := []byte("what the hub sends")
	digest := spare.Sum(content)
	answer := func(size, offset uint64, code string) []byte {
		return wire(f, &pb.Frame{Body: &pb.Frame_BlobAnswer{BlobAnswer: &pb.BlobAnswer{Size: size, Offset: offset, ErrorCode: code, Error: "e\x1b"}}})
	}
	done := func(code string) []byte {
		return wire(f, &pb.Frame{Body: &pb.Frame_BlobDone{BlobDone: &pb.BlobDone{ErrorCode: code}}})
	}
	n := uint64(len(content))
	f.Add(append(answer(n, 0, ""), content...))
	f.Add(append(answer(n, 0, ""), content[:5]...))
	f.Add(append(answer(5, 0, ""), content...))
	f.Add(append(answer(1<<62, 0, ""), content...))
	f.Add(answer(1<<63, 1<<63, ""))
	f.Add(answer(0, 0, "not_found"))
	f.Add(append(answer(n, 0, ""), done("")...))
	f.Add(append(answer(n, n, ""), done("")...))
	f.Add(append(answer(n, 3, ""), done("full")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got bytes.Buffer
		st := &tape{in: bytes.NewReader(b)}
		size, err := GetBlob(t.Context(), oneStream{st: st}, digest, 0, &got)
		if err == nil && (spare.Sum(got.Bytes()) != digest || size != int64(got.Len())) {
			t.Fatalf("GetBlob took %d bytes of %d that are not the blob's", got.Len(), size)
		}
		if got.Len() > len(b) {
			t.Fatalf("%d bytes came out of %d", got.Len(), len(b))
		}

		st = &tape{in: bytes.NewReader(b)}
		err = PutBlob(t.Context(), oneStream{st: st}, digest, int64(len(content)), func(offset int64) (io.ReadCloser, error) {
			if offset < 0 || offset >= int64(len(content)) {
				panic(fmt.Sprintf("open at %d", offset))
			}
			return io.NopCloser(bytes.NewReader(content[offset:])), nil
		})
		if err == nil && !st.closed {
			t.Fatal("PutBlob succeeded and left the stream open")
		}
	})
}

func FuzzPeerCertificate(f *testing.F) {
	id, err := NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(id.cert.Certificate[0])
	f.Add([]byte{})
	f.Add(ecdsaCertificate(f))
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		got, err := peerID([]*x509.Certificate{cert})
		if err == nil {
			if _, err := spare.ParseNodeID(string(got)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := peerID([]*x509.Certificate{cert, cert}); err == nil {
			t.Fatal("two certificates were taken")
		}
	})
}

// ecdsaCertificate is a certificate with a key of another kind.
func ecdsaCertificate(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func FuzzKeyFile(f *testing.F) {
	path := f.TempDir() + "/key"
	if _, err := LoadIdentity(path); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:60])
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, err := parseKey(b)
		if err != nil {
			return
		}
		if _, err := identityOf(key); err != nil {
			t.Fatalf("a key was taken that makes no identity: %v", err)
		}
	})
}
