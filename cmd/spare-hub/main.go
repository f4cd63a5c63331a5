// Command spare-hub is the hub: it takes jobs over HTTP, hands their chunks to the nodes
// that joined it, and puts the results together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
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
		Args:          cobra.NoArgs,
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

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the release", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), spare.Version)
			return err
		},
	}
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
