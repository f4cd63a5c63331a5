// Command spare-node lends what this machine does not need to the hubs it has joined.
// It holds flags and wiring only; package node does the work.
//
// Exit codes: 0 done, 1 failed, 2 wrong use or a bad ticket, 3 the hub does not want
// this node, 4 the data folder cannot be used, 5 the hub cannot be reached.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node"
	"github.com/spare-compute/spare/node/link"
	"github.com/spare-compute/spare/node/service"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm"
)

func main() {
	sandbox.Init()
	wasm.Init()
	code := run(os.Args[1:], os.Stdout, os.Stderr)
	sandbox.Settle()
	os.Exit(code)
}

// The exit codes. A service manager must not start again what ended with exitRefused.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = service.NoRestart
	exitData        = 4
	exitUnreachable = 5
)

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "spare-node: %v\n", err)
	return exitCode(err)
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func exitCode(err error) int {
	var (
		usage       usageError
		refused     *link.Refused
		home        *node.HomeError
		unreachable *link.Unreachable
		wrongHub    *protocol.WrongHubError
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, protocol.ErrTicketMangled), errors.Is(err, protocol.ErrTicketVersion), errors.Is(err, protocol.ErrTicketExpired):
		return exitUsage
	case errors.As(err, &refused), errors.As(err, &wrongHub):
		return exitRefused
	case errors.As(err, &home):
		return exitData
	case errors.As(err, &unreachable):
		return exitUnreachable
	}
	return exitFailed
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "spare-node",
		Short: "Lend this machine's spare time to a Spare hub",
		Long: `spare-node lends what this machine does not need to the hubs it has joined. What
hubs send runs contained, at idle priority, and only while your preferences allow it.

Exit codes: 0 done, 1 failed, 2 wrong use or a bad ticket, 3 the hub does not want
this node, 4 the data folder cannot be used, 5 the hub cannot be reached.`,
		Example: `  spare-node join spare1:…            join with the ticket that "spare-hub ticket" printed
  spare-node run                      work in the foreground; Ctrl-C stops
  spare-node status                   what it is and does, and why
  spare-node log                      what ran here, and for whom
  spare-node prefs set when=always    work on battery too
  sudo spare-node install             work from now on as a service`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          unknownCommand,
		// Without a RunE cobra shows the help of any command line and finds it right.
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath())}
	})
	data := root.PersistentFlags().String("data", node.DefaultData(), "data folder")
	if err := root.MarkPersistentFlagDirname("data"); err != nil {
		panic(err) // the flag is defined one line above
	}
	root.AddCommand(joinCommand(data), runCommand(data), statusCommand(data), prefsCommand(data), leaveCommand(data), logCommand(data))
	root.AddCommand(serviceCommands(data)...)
	root.AddCommand(versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  spare-node version --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, map[string]string{"version": spare.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintln(w, "spare-node", spare.Version)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// unknownCommand refuses what is no sub-command of a command that has some, and names the
// nearest.
func unknownCommand(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see \"%s --help\"", cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(given[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageError{fmt.Errorf("%s has no command %q; %s", cmd.CommandPath(), given[0], hint)}
}

// args marks what check finds as wrong use.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return usageError{fmt.Errorf("%w; see \"%s --help\"", err, cmd.CommandPath())}
		}
		return nil
	}
}
