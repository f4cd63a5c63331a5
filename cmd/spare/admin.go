package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

func (c *cli) nodeCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the machines that work for the hub", Args: args(),
		Example: "  spare node list\n  spare node list --json",
		RunE: func(*cobra.Command, []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				all, err := cl.Nodes(ctx)
				if err != nil {
					return err
				}
				return show(c, all, []string{"ID", "NAME", "STATE", "POOL", "SYSTEM", "CORES", "MEMORY", "TOOLS", "LAST SEEN", "WHY"}, nodeRow)
			})
		},
	}
	return group("node", "See and remove the machines that work for the hub", list, c.nodeRemove())
}

func (c *cli) nodeRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Take a machine off the hub", Args: args("a node's ID"),
		Long: `remove makes the hub forget a machine, named by its name or by the first digits of its
ID. If it is connected, it is told so and stops; what it works on is done elsewhere. Only
a ticket lets it in again.`,
		Example: "  spare node remove 3f9a02b4c1d7\n  spare node remove old-laptop",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				n, err := findNode(ctx, cl, given[0])
				if err != nil {
					return err
				}
				if err := cl.RemoveNode(ctx, n.ID); err != nil {
					return err
				}
				return c.done(fmt.Sprintf("node %s (%s) is removed; only a new ticket lets it in again", n.ID.Short(), firstOf(n.Device.Name, "without a name")))
			})
		},
	}
}

// leastOfID is how many digits of a node's id name it, unless it is all of it.
const leastOfID = 6

// findNode is the one node that goes by a name or the first digits of an id.
func findNode(ctx context.Context, cl *client.Client, which string) (spare.Node, error) {
	all, err := cl.Nodes(ctx)
	if err != nil {
		return spare.Node{}, err
	}
	var found []spare.Node
	for _, n := range all {
		if n.Device.Name == which || (len(which) >= leastOfID && strings.HasPrefix(string(n.ID), which)) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return spare.Node{}, &coded{exitRefused, fmt.Errorf("the hub knows no node %.80q; `spare node list` shows those it knows", which)}
	}
	return spare.Node{}, &coded{exitRefused, fmt.Errorf("%d nodes go by %.80q; name one by its ID, as `spare node list` shows it", len(found), which)}
}

func nodeRow(n spare.Node) []string {
	d := n.Device
	memory := "-"
	switch {
	case d.Offer.Memory > 0:
		memory = size(int64(d.Offer.Memory))
	case d.Memory != nil:
		memory = size(int64(d.Memory.Total))
	}
	cores := d.Offer.Cores
	if cores == 0 {
		cores = d.CPU.Cores
	}
	tools := []string{}
	for _, t := range d.Tools {
		tools = append(tools, t.Name)
	}
	return []string{
		n.ID.Short(), d.Name, string(n.State), n.Pool, d.OS + "/" + d.Arch, fmt.Sprint(cores), memory,
		firstOf(strings.Join(tools, ","), "-"), when(n.LastSeen), n.Reason.Detail,
	}
}

func (c *cli) keyCommand() *cobra.Command {
	return group("key", "Make, list and revoke API keys", c.keyCreate(), c.keyList(), c.keyRevoke())
}

func (c *cli) keyCreate() *cobra.Command {
	var k client.NewKey
	var life time.Duration
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an API key and print it, once", Args: args("a NAME for the key"),
		Long: `create makes an API key. Roles: submitter runs jobs and sees its owner's; viewer reads
all; contributor owns nodes; admin may do everything. Keys of one owner share their jobs.`,
		Example: "  spare key create alice\n  spare key create dashboard --role viewer --expires 720h",
		RunE: func(_ *cobra.Command, given []string) error {
			k.Name = given[0]
			if life != 0 && life < time.Second {
				return usage("--expires %s: want at least 1s", life)
			}
			k.ExpiresIn = int(life / time.Second)
			return c.do(func(ctx context.Context, cl *client.Client) error {
				secret, made, err := cl.CreateKey(ctx, k)
				if err != nil {
					return err
				}
				if c.json {
					return c.printJSON(map[string]any{"key": secret, "apiKey": made})
				}
				c.note(fmt.Sprintf("%s key %q (id %s); it is shown only now:", made.Role, made.Name, made.ID))
				_, err = fmt.Fprintln(c.out, secret)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&k.Role, "role", "submitter", "admin, submitter, contributor or viewer")
	cmd.Flags().StringVar(&k.Owner, "owner", "", "whose jobs it sees (the key's name)")
	cmd.Flags().DurationVar(&life, "expires", 0, "how long it is good for (for ever)")
	return cmd
}

func (c *cli) keyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List API keys", Args: args(),
		Example: "  spare key list",
		RunE: func(*cobra.Command, []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				all, err := cl.Keys(ctx)
				if err != nil {
					return err
				}
				return show(c, all, []string{"ID", "NAME", "ROLE", "OWNER", "ISSUED", "EXPIRES", "STATE"}, func(k client.Key) []string {
					expires, state := "-", "good"
					if k.ExpiresAt != nil {
						expires = when(*k.ExpiresAt)
						if time.Now().After(*k.ExpiresAt) {
							state = "expired"
						}
					}
					if k.Revoked {
						state = "revoked"
					}
					return []string{k.ID, k.Name, k.Role, k.Owner, when(k.IssuedAt), expires, state}
				})
			})
		},
	}
}

func (c *cli) keyRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End an API key", Args: args("a key's ID"),
		Example: "  spare key revoke 7b1f4d0e-3c52-4c54-8d6f-0a1b2c3d4e5f",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				if err := cl.RevokeKey(ctx, given[0]); err != nil {
					return err
				}
				return c.done(fmt.Sprintf("key %s is revoked", given[0]))
			})
		},
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: args(),
		Example: "  spare version --json",
		RunE: func(*cobra.Command, []string) error {
			if c.json {
				return c.printJSON(map[string]string{"version": spare.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Fprintf(c.out, "spare %s (%s %s/%s)\n", spare.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
