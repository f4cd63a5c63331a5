package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsServerWord makes this program a NATS server in a process of its own.
const natsServerWord = "nats-server"

// serveNATS runs until its input ends, so that it cannot outlive its parent.
func serveNATS(dir, address string) {
	s, err := server.NewServer(&server.Options{Host: address, Port: -1, JetStream: true, StoreDir: dir, SyncAlways: true, NoSigs: true, NoLog: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		fmt.Fprintln(os.Stderr, "the NATS server did not get ready")
		os.Exit(1)
	}
	fmt.Println(s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
}

// dispatchNATS runs the tasks through a JetStream work queue that syncs before it
// acknowledges. The server is a process of its own, as Spare's hub is.
func dispatchNATS(ctx context.Context, _ place) (d dispatched, err error) {
	d.tasks = peerTasks
	dir, err := os.MkdirTemp("", "spare-bench-")
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	url, stop, err := startNATS(dir)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	conn, err := nats.Connect(url)
	if err != nil {
		return d, err
	}
	defer conn.Close()
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		return d, err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "tasks", Subjects: []string{"task.>"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage,
	}); err != nil {
		return d, err
	}
	if _, err := js.CreateConsumer(ctx, "tasks", jetstream.ConsumerConfig{Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10000}); err != nil {
		return d, err
	}
	payload := []byte(strings.Repeat("x", payloadBytes))
	if d.latency, err = natsLatency(ctx, js, payload); err != nil {
		return d, err
	}
	began := time.Now()
	for range peerTasks {
		if _, err := js.PublishAsync("task.x", payload, jetstream.WithStallWait(time.Minute)); err != nil {
			return d, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return d, ctx.Err()
	}
	d.submit = time.Since(began)
	d.work, err = natsDrain(ctx, url)
	return d, err
}

func startNATS(dir string) (url string, stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(self, natsServerWord, dir, "127.0.0.1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error { return errors.Join(in.Close(), cmd.Wait()) }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, errors.Join(err, stop())
	}
	return strings.TrimSpace(line), stop, nil
}

// natsLatency takes one task after the other and times each from the wish to the acknowledgement.
func natsLatency(ctx context.Context, js jetstream.JetStream, payload []byte) ([]time.Duration, error) {
	consumer, err := js.Consumer(ctx, "tasks", "workers")
	if err != nil {
		return nil, err
	}
	for range warmUps + latencyTasks {
		if _, err := js.Publish(ctx, "task.x", payload); err != nil {
			return nil, err
		}
	}
	var took []time.Duration
	for range warmUps + latencyTasks {
		began := time.Now()
		m, err := consumer.Next()
		if err != nil {
			return nil, err
		}
		if err := m.DoubleAck(ctx); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// natsDrain has consumers, each with a connection of its own, finish all tasks.
func natsDrain(ctx context.Context, url string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var accepted atomic.Int64
	finished := make(chan struct{})
	var once sync.Once
	var consumers []jetstream.Consumer
	for range dispatchWorkers {
		conn, err := nats.Connect(url)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return 0, err
		}
		c, err := js.Consumer(ctx, "tasks", "workers")
		if err != nil {
			return 0, err
		}
		consumers = append(consumers, c)
	}
	slots := make(chan struct{}, dispatchWorkers*dispatchWindow) // acknowledgements under way at once, as with Spare's windows
	began := time.Now()
	for _, c := range consumers {
		consume, err := c.Consume(func(m jetstream.Msg) {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				if m.DoubleAck(ctx) == nil && accepted.Add(1) == peerTasks {
					once.Do(func() { close(finished) })
				}
			}()
		}, jetstream.PullMaxMessages(dispatchWindow))
		if err != nil {
			return 0, err
		}
		defer consume.Stop()
	}
	select {
	case <-finished:
		return time.Since(began), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%d of %d tasks done: %w", accepted.Load(), peerTasks, ctx.Err())
	}
}
