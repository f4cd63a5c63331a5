package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/node"
	"github.com/spare-compute/spare/node/local"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/node/service"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/publisher"
)

func joinCommand(data *string) *cobra.Command {
	var require, asJSON bool
	cmd := &cobra.Command{
		Use:   "join TICKET",
		Short: "Join the hub that issued a ticket",
		Long: `Join connects to the hub that issued the ticket, and enrols this machine there
under a key of its own. The hub prints tickets with "spare-hub ticket".

The ticket names the publishers whose Apps may run here. In a pool of volunteers, which
is any but "trusted", nothing runs that none of them has signed, whatever the hub says;
--require-signature asks the same of a trusted pool, and --require-signature=false
gives it up.`,
		Example: `  spare-node join spare1:CgRob21lEhIx…
  spare-node join spare1:CgRob21lEhIx… --data /srv/spare-node --json`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, given []string) error {
			t, err := protocol.ParseTicket(given[0])
			if err != nil {
				return err
			}
			opt := node.JoinOptions{}
			if cmd.Flags().Changed("require-signature") {
				opt.RequireSignature = &require
			}
			hub, err := node.JoinWith(cmd.Context(), *data, t, opt, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			required, keys, err := node.Signers(*data, hub)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, map[string]any{
					"joined": showHub(hub), "data": *data, "require_publisher_signature": required, "publishers": append([]publisher.ID{}, keys...),
				})
			}
			if required {
				fmt.Fprintf(w, "Only Apps run here that are signed by %s.\n", signers(keys))
			}
			_, err = fmt.Fprintf(w, "Joined hub %q (key %s), pool %s. Start working with: spare-node run%s\n",
				hub.Name, hub.Key.Short(), hub.Pool, dataFlag(*data))
			return err
		},
	}
	cmd.Flags().BoolVar(&require, "require-signature", false, "run only Apps that a publisher in the ticket has signed (default: in pools of volunteers)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// showHub is a hub for programs, under the names that "status --json" uses.
func showHub(hub node.Hub) map[string]any {
	return map[string]any{"key": hub.Key, "name": hub.Name, "pool": hub.Pool}
}

// dataFlag is how to name the data folder in a command that is shown.
func dataFlag(data string) string {
	if data == node.DefaultData() {
		return ""
	}
	return " --data " + data
}

func runCommand(data *string) *cobra.Command {
	verbose := false
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Work for the joined hubs until stopped",
		Long: `Run works in the foreground until Ctrl-C, or as a service under the system's
service manager. What is running when it stops is handed back to the hub.`,
		Example: `  spare-node run
  spare-node run --data /srv/spare-node --verbose`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			return service.Run(func(ctx context.Context) error { return work(ctx, *data, log) })
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// collectEarly trades a little processor time, which an idle node has, for memory,
// which its owner wants.
const collectEarly = 40

func work(ctx context.Context, data string, log *slog.Logger) error {
	debug.SetGCPercent(collectEarly)
	home, err := node.OpenHome(data, false)
	if err != nil {
		return err
	}
	defer home.Close()
	n, err := node.New(ctx, home, log)
	if err != nil {
		return err
	}
	log.Info("node started", "data", data)
	err = n.Run(ctx)
	log.Info("node stopped")
	return err
}

func leaveCommand(data *string) *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "leave [HUB]",
		Short: "Forget a hub",
		Long:  `Leave makes this node forget a hub, named by its name or the first digits of its key. Without a name it means the only one.`,
		Example: `  spare-node leave
  spare-node leave 3f9a02 --force --json`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			home, err := node.OpenHome(*data, false)
			if err != nil {
				return err
			}
			defer home.Close()
			hub, err := home.Leave(strings.Join(given, ""), force)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"left": showHub(hub)})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Left hub %q (key %s).\n", hub.Name, hub.Key.Short())
			return err
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "give up results that the hub has not taken yet")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func prefsCommand(data *string) *cobra.Command {
	asJSON := false
	keys, help := policy.Keys()
	var list strings.Builder
	width := 0
	for _, k := range keys {
		width = max(width, len(k))
	}
	for i, k := range keys {
		fmt.Fprintf(&list, "  %-*s  %s\n", width, k, help[i])
	}
	show := func(cmd *cobra.Command, p policy.Prefs) error {
		if asJSON {
			return printJSON(cmd.OutOrStdout(), p)
		}
		for _, k := range keys {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s=%s\n", k, p.Get(k)); err != nil {
				return err
			}
		}
		return nil
	}
	file := func() string { return filepath.Join(*data, "prefs.json") }
	prefs := &cobra.Command{
		Use:   "prefs",
		Short: "Show or set what this machine lends, and when",
		Long:  "Prefs shows the preferences. A running node takes changes at once.\n\n" + list.String(),
		Example: `  spare-node prefs
  spare-node prefs set when=always cores=2 memory=4GiB disk=20GiB`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := policy.Load(file())
			if err != nil {
				return err
			}
			return show(cmd, p)
		},
	}
	prefs.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	prefs.AddCommand(&cobra.Command{
		Use:     "set KEY=VALUE…",
		Short:   "Set preferences",
		Long:    "Set changes one or more preferences, all or none of them.\n\n" + list.String(),
		Example: `  spare-node prefs set when=ac cores=0`,
		Args:    args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for i, k := range keys {
				out = append(out, k+"=\t"+help[i])
			}
			return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(cmd *cobra.Command, given []string) error {
			p, err := set(file(), given)
			if err != nil {
				return err
			}
			err = local.Ask(cmd.Context(), *data, local.DoReload, nil)
			if err != nil && !errors.Is(err, local.ErrNotRunning) {
				return err
			}
			return show(cmd, p)
		},
	})
	return prefs
}

func set(file string, given []string) (policy.Prefs, error) {
	p, err := policy.Load(file)
	if err != nil {
		return p, err
	}
	for _, g := range given {
		key, value, ok := strings.Cut(g, "=")
		if !ok {
			return p, usageError{fmt.Errorf("preference %q: write it as key=value", g)}
		}
		if err := p.Set(key, value); err != nil {
			return p, usageError{err}
		}
	}
	return p, policy.Save(file, p)
}

func serviceCommands(data *string) []*cobra.Command {
	var o service.Options
	did := map[string]string{"install": "installed", "uninstall": "uninstalled", "start": "started", "stop": "stopped"}
	var commands []*cobra.Command
	for _, c := range []struct{ action, short, long string }{
		{"install", "Install the node as a service of this system", "Install makes the system start the node with the machine. Join a hub first, with the same data folder."},
		{"uninstall", "Remove the service", "Uninstall removes the service. The data folder stays."},
		{"start", "Start the installed service", "Start starts the installed service now."},
		{"stop", "Stop the installed service", "Stop stops the installed service until it is started, or the machine is."},
	} {
		cmd := &cobra.Command{
			Use: c.action, Short: c.short, Long: c.long, Args: args(cobra.NoArgs),
			Example: "  sudo spare-node " + c.action,
			RunE: func(cmd *cobra.Command, _ []string) error {
				o.Data = *data
				if err := service.Control(c.action, o); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "Service %s %s.\n", service.Name, did[c.action])
				return err
			},
		}
		if c.action == "install" {
			cmd.Flags().StringVar(&o.User, "user", "", "the user it runs as (default: the service manager's)")
		}
		commands = append(commands, cmd)
	}
	return commands
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
