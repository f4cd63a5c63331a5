// Command spare is for those who have work for a hub: it runs jobs and follows them,
// fetches their results, pushes Apps, templates, presets and schemas, and manages keys.
// It talks to the hub's HTTP interface through package client and keeps nothing itself.
package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	isTerminal := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	c := &cli{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, signals: signals,
		live:  isTerminal(os.Stderr),
		asks:  isTerminal(os.Stdin) && isTerminal(os.Stderr),
		width: stderrWidth,
	}
	os.Exit(c.main(os.Args[1:]))
}

func stderrWidth() int {
	if w, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && w > 20 {
		return w
	}
	return 80
}
