// Package local is how commands on this machine talk to the running node: a unix
// socket that only the data folder's owner can open, or on Windows a loopback port
// with a random token in a file only the owner can read. One question, one answer,
// both JSON. Nothing of it is reachable from the network. Package node serves it;
// cmd/spare-node asks.
package local

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrNotRunning means that no node answers for the data folder.
var ErrNotRunning = errors.New("the node is not running")

// The questions a node answers.
const (
	DoStatus = "status" // what it is and does now
	DoReload = "reload" // read the preferences again
)

const (
	limit    = 5 * time.Second // one question and its answer
	maxBytes = 4 << 20
	pointer  = "control.json" // where the node listens
)

type request struct {
	Token string `json:"token"`
	Do    string `json:"do"`
}

type response struct {
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// address is what the pointer file holds.
type address struct {
	Network string `json:"network"`
	Address string `json:"address"`
	Token   string `json:"token"`
}

// Answer gives the answer to one question.
type Answer func(ctx context.Context, do string) (any, error)

// A Server answers questions until it is closed.
type Server struct {
	dir      string
	listener net.Listener
	remove   func()
	token    string
	answer   Answer
}

// Listen begins to listen for the node whose data folder is dir. The caller holds the
// folder's lock, so whatever an earlier process left there is stale.
func Listen(dir string, answer Answer) (*Server, error) {
	l, network, addr, remove, err := listen(dir)
	if err != nil {
		return nil, fmt.Errorf("listen for local commands: %w", err)
	}
	s := &Server{dir: dir, listener: l, remove: remove, token: rand.Text(), answer: answer}
	raw, err := json.Marshal(address{network, addr, s.token})
	if err == nil {
		err = writePrivate(filepath.Join(dir, pointer), raw)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("listen for local commands: %w", err)
	}
	return s, nil
}

func (s *Server) close() {
	_ = s.listener.Close()
	_ = os.Remove(filepath.Join(s.dir, pointer))
	s.remove()
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, 8) // more would be a mistake of a script, not a need
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("answer local commands: %w", err)
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			defer func() { _ = conn.Close() }()
			s.serve(ctx, conn)
		})
	}
}

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(limit))
	line, err := bufio.NewReader(io.LimitReader(conn, 4096)).ReadBytes('\n')
	if err != nil {
		return
	}
	var req request
	if json.Unmarshal(line, &req) != nil || subtle.ConstantTimeCompare([]byte(req.Token), []byte(s.token)) != 1 {
		return // not one of our commands: it learns nothing
	}
	var resp response
	v, err := s.answer(ctx, req.Do)
	if err == nil {
		resp.Answer, err = json.Marshal(v)
	}
	if err != nil {
		resp = response{Error: err.Error()}
	}
	_ = json.NewEncoder(conn).Encode(resp)
}

// Ask puts a question to the node whose data folder is dir and decodes its answer.
func Ask(ctx context.Context, dir, do string, answer any) error {
	raw, err := os.ReadFile(filepath.Join(dir, pointer))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("find the running node: %w", err)
	}
	var at address
	if err := json.Unmarshal(raw, &at); err != nil {
		return fmt.Errorf("find the running node: %s: %w", filepath.Join(dir, pointer), err)
	}
	var d net.Dialer
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := d.DialContext(ctx, at.Network, at.Address)
	if err != nil {
		return ErrNotRunning // a node that was killed leaves its pointer behind
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(limit))
	if err := json.NewEncoder(conn).Encode(request{at.Token, do}); err != nil {
		return fmt.Errorf("ask the node for its %s: %w", do, err)
	}
	var resp response
	if err := json.NewDecoder(io.LimitReader(conn, maxBytes)).Decode(&resp); err != nil {
		return fmt.Errorf("ask the node for its %s: %w", do, err)
	}
	if resp.Error != "" {
		return fmt.Errorf("ask the node for its %s: %s", do, resp.Error)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(resp.Answer, answer)
}

func writePrivate(path string, raw []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".control-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
