// Command spare-hub is the hub: it takes jobs over HTTP, hands their chunks to the nodes
// that joined it, and puts the results together.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub"
	"github.com/spare-compute/spare/sandbox"
)

// The exit codes, as `spare-hub help exit-codes` lists them.
const (
	exitFailed = 1
	exitUsage  = 2
	exitInUse  = 3
)

func main() {
	sandbox.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := root().ExecuteContext(ctx)
	sandbox.Settle()
	if err != nil {
		fmt.Fprintf(os.Stderr, "spare-hub: %v\n", err)
		os.Exit(exitCode(err))
	}
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func exitCode(err error) int {
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, hub.ErrInUse):
		return exitInUse
	}
	return exitFailed
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spare-hub",
		Short: "Run a Spare hub: jobs in, chunks out to nodes, results together",
		Long: `spare-hub takes jobs over HTTP, cuts their input into chunks, has the nodes that
joined it work on them, and puts the results together.`,
		Example: `  spare-hub serve --data ~/spare-hub
  spare-hub ticket --data ~/spare-hub`,
		Version:       spare.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	cmd.AddCommand(serveCommand(), ticketCommand(), publisherCommand(), versionCommand(), exitCodes())
	return cmd
}

// unknownCommand refuses what is no sub-command of a command that only groups others, and
// names the nearest.
func unknownCommand(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	hint := fmt.Sprintf("see %s --help", cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(given[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageError{fmt.Errorf("%s has no command %q; %s", cmd.CommandPath(), given[0], hint)}
}

// none wants no arguments.
func none(cmd *cobra.Command, given []string) error {
	if len(given) > 0 {
		return usageError{fmt.Errorf("%s does not know what to do with %q; see %[1]s --help", cmd.CommandPath(), given[0])}
	}
	return nil
}

// exactly wants so many arguments.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) != n {
			return usageError{fmt.Errorf("%s needs %s; see %[1]s --help", cmd.CommandPath(), what)}
		}
		return nil
	}
}

func versionCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "version", Short: "Print the release", Args: none,
		Example: "  spare-hub version --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(w).Encode(map[string]string{"version": spare.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintln(w, spare.Version)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func exitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `0  all went well
1  something failed; the message says what and what to do
2  the command line is wrong
3  the data folder is in use by another process`,
	}
}
