package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

const defaultHub = "http://127.0.0.1:8080"

// cli is one run of the program: its streams, and what its flags said.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	signals  <-chan os.Signal
	live     bool       // err is a terminal: one line may be written over
	asks     bool       // somebody can answer a question
	width    func() int // columns of that terminal

	hub, key, keyFile string
	json              bool
	waitHub           time.Duration
}

// The exit codes, as exitHelp explains them.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitRefused     = 4
	exitJobFailed   = 5
	exitAborted     = 6
	exitDetached    = 7
)

const exitHelp = `Every command ends with one of these codes. They do not change between versions.

  0  done
  1  failed on this machine or inside the hub: a file, a disk, a damaged transfer
  2  the command was not understood: a flag, an argument, a missing key
  3  no hub answers at the address, or it stayed away longer than --wait-hub
  4  the hub refused: no such job or template, wrong parameter, key without the right
  5  the job failed; the message says at which stage and why
  6  the job was aborted, here or by somebody else
  7  detached: the job goes on without this program; the message says how to follow it`

// coded is an error that knows its exit code. With no error inside, all was said.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *coded) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &coded{exitUsage, fmt.Errorf(format, args...)}
}

// codeOf is the exit code for an error.
func codeOf(err error) int {
	var (
		own     *coded
		away    *client.Unreachable
		refused *client.Error
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &away):
		return exitUnreachable
	case errors.As(err, &refused) && refused.Status < 500:
		return exitRefused
	}
	return exitFailed
}

// main runs the program and returns its exit code.
func (c *cli) main(args []string) int {
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.Execute()
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	if err != nil && err.Error() != "" {
		fmt.Fprintf(c.err, "spare: %s\n", oneLine(err.Error()))
	}
	return codeOf(err)
}

// oneLine keeps a message to a line; cobra's suggestions come on several.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "spare",
		Short: "Run work on spare computers",
		Long: `spare sends work to a hub, which cuts it into chunks that its nodes do.

The hub is named by --hub or SPARE_HUB (` + defaultHub + ` if neither is given). The API key
comes from --key, --key-file, SPARE_KEY or SPARE_KEY_FILE; a hub's first key lies in
the file admin.key in its data folder.`,
		Example: `  export SPARE_KEY_FILE=hub-data/admin.key
  spare run video.mp4 --template video-transcoding@v0.2 --preset web-720p -o out
  spare job list
  spare node list`,
		SilenceUsage: true, SilenceErrors: true,
		Version: spare.Version,
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.hub, "hub", "", "the hub's address (SPARE_HUB)")
	flags.StringVar(&c.key, "key", "", "API key (SPARE_KEY)")
	flags.StringVar(&c.keyFile, "key-file", "", "file with the API key, or the folder of its admin.key (SPARE_KEY_FILE)")
	flags.BoolVar(&c.json, "json", false, "print JSON")
	flags.DurationVar(&c.waitHub, "wait-hub", 2*time.Minute, "how long to wait for a hub that goes away meanwhile")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		c.runCommand(), c.jobCommand(), c.appCommand(), c.imageCommand(), c.publisherCommand(), c.templateCommand(), c.presetCommand(),
		c.schemaCommand(), c.nodeCommand(), c.keyCommand(), c.versionCommand(),
		&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitHelp},
	)
	return root
}

// unknownCommand refuses what is no sub-command of a command that only groups others.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see %s --help", cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usage("%s has no command %q; %s", cmd.CommandPath(), args[0], hint)
}

// group makes a command that only groups others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	g.AddCommand(commands...)
	return g
}

// args wants exactly the named arguments; one in brackets may be left out.
func args(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	return func(cmd *cobra.Command, given []string) error {
		switch {
		case len(given) < least:
			return usage("%s needs %s; see %s --help", cmd.CommandPath(), names[len(given)], cmd.CommandPath())
		case len(given) > len(names):
			return usage("%s does not know what to do with %q; see %s --help", cmd.CommandPath(), given[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// connect makes the client for the hub and key that flags and environment name.
func (c *cli) connect() (*client.Client, error) {
	hub := firstOf(c.hub, c.env("SPARE_HUB"), defaultHub)
	key, err := c.findKey()
	if err != nil {
		return nil, err
	}
	wait := c.waitHub
	if wait == 0 {
		wait = -1 // said so: do not wait
	}
	cl, err := client.New(client.Options{Hub: hub, Key: key, Wait: wait, Log: c.note})
	if err != nil {
		return nil, usage("%w", err)
	}
	return cl, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// findKey returns the API key: a flag wins over the environment, the key over its file.
func (c *cli) findKey() (string, error) {
	if c.key != "" {
		return strings.TrimSpace(c.key), nil
	}
	file := c.keyFile
	if file == "" {
		if key := c.env("SPARE_KEY"); key != "" {
			return strings.TrimSpace(key), nil
		}
		file = c.env("SPARE_KEY_FILE")
	}
	if file == "" {
		return "", usage("no API key: set SPARE_KEY, or name the hub's key file with --key-file DIR/admin.key")
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		file = filepath.Join(file, "admin.key")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", usage("read the API key: %w", err)
	}
	key := strings.TrimSpace(string(b))
	if key == "" || strings.ContainsAny(key, " \t\r\n") {
		return "", usage("%s does not hold an API key: it must be one word on one line", file)
	}
	return key, nil
}

// note tells the user something on the way.
func (c *cli) note(sentence string) { fmt.Fprintf(c.err, "spare: %s\n", sentence) }

// context ends at Ctrl-C or SIGTERM, for commands that have nothing to ask then.
func (c *cli) context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-c.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// do runs f with a client, until Ctrl-C.
func (c *cli) do(f func(ctx context.Context, cl *client.Client) error) error {
	cl, err := c.connect()
	if err != nil {
		return err
	}
	ctx, cancel := c.context()
	defer cancel()
	return f(ctx, cl)
}
