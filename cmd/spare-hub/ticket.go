package main

import (
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/hub"
)

func ticketCommand() *cobra.Command {
	var opt hub.TicketOptions
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ticket --data DIR",
		Short: "Make a ticket that lets machines join",
		Long: `Prints a ticket as its last line: one string to paste on the machine that joins. It
carries the hub's addresses and key, the pool, and the right to join, for a number of
machines and a time. The hub may run or not.`,
		Example: `  spare-hub ticket --data ~/spare-hub
  spare-hub ticket --data ~/spare-hub --pool volunteers --uses 100 --expires 720h
  spare-hub ticket --data ~/spare-hub --address hub.example.org:7770`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opt.Uses < 1 {
				return usageError{fmt.Errorf("--uses %d: want 1 or more", opt.Uses)}
			}
			if opt.Expires <= 0 {
				return usageError{fmt.Errorf("--expires %v: want a time to come, such as 24h", opt.Expires)}
			}
			for _, a := range opt.Addresses {
				if _, _, err := net.SplitHostPort(a); err != nil {
					return usageError{fmt.Errorf("--address %q: want host:port", a)}
				}
			}
			t, err := hub.NewTicket(cmd.Context(), data, opt, time.Now())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(w).Encode(map[string]any{
					"ticket": t.String(), "pool": t.Pool, "addresses": t.Addresses, "uses": opt.Uses, "expires": t.Expires,
				})
			}
			fmt.Fprintf(w, "for pool %s, %d machine(s), until %s; on the machine that joins:\n  spare-node join TICKET\n",
				t.Pool, opt.Uses, t.Expires.Format(time.RFC3339))
			_, err = fmt.Fprintln(w, t.String())
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", defaultData(), "the hub's data folder")
	f.StringVar(&opt.Pool, "pool", "trusted", "pool that the machine joins")
	f.IntVar(&opt.Uses, "uses", 1, "how many machines may join with it")
	f.DurationVar(&opt.Expires, "expires", 24*time.Hour, "how long it can be used")
	f.StringSliceVar(&opt.Addresses, "address", nil, "where nodes find the hub, host:port (default: its own addresses)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
