package main

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/client"
)

func (c *cli) appCommand() *cobra.Command {
	return group("app", "Push Apps and switch their versions on and off",
		c.appPush(), c.appSign(),
		c.appSwitch("activate", "Let jobs use a version", "active", true),
		c.appSwitch("deactivate", "Keep new jobs from a version", "inactive", false),
		c.appList(), c.appGet())
}

func (c *cli) appPush() *cobra.Command {
	var activate, sign bool
	var how signing
	cmd := &cobra.Command{
		Use: "push FOLDER", Short: "Send an App's folder to the hub", Args: args("the App's FOLDER"),
		Long: `push packs FOLDER, which holds manifest.json and the App's program in app/, and sends it.
The same name and version again makes a new revision; jobs that run keep theirs. A new
version takes jobs once it is activated.

With --sign it is signed with your publisher's key first ("spare publisher new"), which
nodes of volunteers ask for; the hub must know your publisher ("spare-hub publisher add").`,
		Example: "  spare app push ./hello-world\n  spare app push ./hello-world --activate\n  spare app push ./hello-world --sign",
		RunE: func(_ *cobra.Command, given []string) error {
			archive, err := pack(given[0])
			if err != nil {
				return err
			}
			return c.do(func(ctx context.Context, cl *client.Client) error {
				var signed []byte
				if sign {
					app, err := c.sign(ctx, cl, given[0], how)
					if err != nil {
						return err
					}
					signed = app.Signed
				}
				a, err := cl.PushSigned(ctx, client.Apps, archive, signed)
				if err != nil {
					return err
				}
				for _, w := range a.Warnings {
					c.warn(w)
				}
				if activate {
					warning, err := cl.Switch(ctx, client.Apps, a.Tag, true)
					if err != nil {
						return err
					}
					c.warn(warning)
					a.Status = "active"
				}
				if c.json {
					return c.printJSON(a)
				}
				fmt.Fprintf(c.out, "%s revision %s is pushed and %s\n", a.Tag, a.Revision, a.Status)
				if sign {
					fmt.Fprintf(c.out, "%s is signed%s\n", a.Tag, signedBy(a))
				}
				if a.Status != "active" {
					c.note(fmt.Sprintf("let jobs use it with `spare app activate %s`", a.Tag))
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&activate, "activate", false, "let jobs use it at once")
	cmd.Flags().BoolVar(&sign, "sign", false, "sign it with your publisher's key")
	how.flags(cmd)
	return cmd
}

// pack makes the archive of an App's folder.
func pack(folder string) ([]byte, error) {
	info, err := os.Stat(folder)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is a file: name the App's folder, which holds manifest.json", folder)
	}
	var b bytes.Buffer
	if _, err := bundle.Pack(folder, &b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (c *cli) appSwitch(verb, short, state string, active bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " TAG", Short: short, Args: args("the App's TAG"),
		Example: fmt.Sprintf("  spare app %s hello-world@0.1", verb),
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				warning, err := cl.Switch(ctx, client.Apps, given[0], active)
				if err != nil {
					return err
				}
				c.warn(warning)
				return c.done(fmt.Sprintf("%s is %s", given[0], state))
			})
		},
	}
}

// warn passes on what the hub warns of, if anything.
func (c *cli) warn(sentence string) {
	if sentence != "" {
		c.note("warning: " + sentence)
	}
}

func (c *cli) appList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List Apps and their versions", Args: args(),
		Example: "  spare app list\n  spare app list --json",
		RunE: func(*cobra.Command, []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				apps, err := cl.List(ctx, client.Apps)
				if err != nil {
					return err
				}
				return show(c, apps, []string{"TAG", "REVISION", "STATUS", "PLATFORM", "OWNER", "UPDATED", "DESCRIPTION"}, func(a client.App) []string {
					return []string{a.Tag, a.Revision, a.Status, a.Platform, a.Owner, when(a.UpdatedAt), a.Description}
				})
			})
		},
	}
}

func (c *cli) appGet() *cobra.Command {
	return &cobra.Command{
		Use: "get TAG", Short: "Show what a tag means, as JSON", Args: args("the App's TAG"),
		Example: "  spare app get hello-world@0.1",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				_, raw, err := cl.App(ctx, client.Apps, given[0])
				if err != nil {
					return err
				}
				return c.printJSON(raw)
			})
		},
	}
}
