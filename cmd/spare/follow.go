package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spare-compute/spare/client"
)

// watched is how following a job ended.
type watched struct {
	job client.Job
	err error
}

// follow shows a job's progress until it is final. Ctrl-C asks what to do; where nobody
// can answer it detaches.
func (c *cli) follow(cl *client.Client, id, out string) (client.Job, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := c.meter()
	defer m.clear()
	ended := make(chan watched, 1)
	go func() {
		j, err := cl.Follow(ctx, id, func(p client.Progress) { m.set(progressLine(p)) })
		ended <- watched{j, err}
	}()
	detach := func() error {
		cancel()
		<-ended
		m.clear()
		return &coded{exitDetached, errors.New(howToFollow(id, out))}
	}
	var lines chan string // answers, once a question was asked
	for {
		select {
		case w := <-ended:
			return w.job, lost(w.err, id, out)
		case <-c.signals:
		}
		if !c.asks {
			return client.Job{}, detach()
		}
		if lines == nil {
			lines = c.readLines()
		}
		m.pause()
		fmt.Fprint(c.err, "\ndetach (the job goes on), abort it, or continue? [d/a/c] ")
		var answer string
		select {
		case answer = <-lines:
		case <-c.signals: // twice: away
		case w := <-ended:
			fmt.Fprintln(c.err)
			return w.job, lost(w.err, id, out)
		}
		m.resume()
		switch strings.ToLower(strings.TrimSpace(answer)) {
		case "c", "continue":
		case "a", "abort":
			m.say("aborting")
			if err := cl.Abort(ctx, id); err != nil && !client.IsConflict(err) {
				return client.Job{}, lost(err, id, out)
			}
		default:
			return client.Job{}, detach()
		}
	}
}

// lost adds to a hub that stays away that the job is not lost with it.
func lost(err error, id, out string) error {
	var away *client.Unreachable
	if errors.As(err, &away) {
		return fmt.Errorf("%w; %s", err, howToFollow(id, out))
	}
	return err
}

// readLines reads answers for as long as the program lives; the end of input is "".
func (c *cli) readLines() chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		in := bufio.NewScanner(c.in)
		for in.Scan() {
			lines <- in.Text()
		}
	}()
	return lines
}
