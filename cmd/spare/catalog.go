package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

// readDocument reads a JSON object from a file, or from standard input for "-".
func (c *cli) readDocument(file string) (map[string]json.RawMessage, json.RawMessage, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(c.in)
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, nil, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(b, &object); err != nil {
		return nil, nil, fmt.Errorf("%s is not a JSON object: %w", file, err)
	}
	return object, b, nil
}

// told prints what the hub said of something it stored.
func (c *cli) told(s client.Stored) error {
	for _, w := range s.Warnings {
		c.note("warning: " + w)
	}
	if c.json {
		return c.printJSON(s)
	}
	_, err := fmt.Fprintln(c.out, s.Message)
	return err
}

func (c *cli) templateCommand() *cobra.Command {
	push := &cobra.Command{
		Use: "push FILE", Short: "Store a template", Args: args("the template's FILE"),
		Example: "  spare template push template.json\n  cat template.json | spare template push -",
		RunE: func(_ *cobra.Command, given []string) error {
			_, body, err := c.readDocument(given[0])
			if err != nil {
				return err
			}
			return c.do(func(ctx context.Context, cl *client.Client) error {
				stored, err := cl.PushTemplate(ctx, body)
				if err != nil {
					return err
				}
				return c.told(stored)
			})
		},
	}
	get := &cobra.Command{
		Use: "get ID", Short: "Show a template, as JSON", Args: args("the template's ID"),
		Example: "  spare template get video-transcoding@v0.2",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				raw, err := cl.Template(ctx, given[0])
				if err != nil {
					return err
				}
				return c.printJSON(raw)
			})
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "List templates", Args: args(),
		Example: "  spare template list",
		RunE: func(*cobra.Command, []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				all, err := cl.Templates(ctx)
				if err != nil {
					return err
				}
				return show(c, all, []string{"ID", "APP", "PARTITION", "MERGE", "OWNER", "DESCRIPTION"}, func(t client.Template) []string {
					return []string{t.ID, t.App, t.Partitioner, t.Assembler, t.Owner, t.Description}
				})
			})
		},
	}
	return group("template", "Store and list templates", push, get, list)
}

func (c *cli) presetCommand() *cobra.Command {
	var template string
	push := &cobra.Command{
		Use: "push FILE [--template T]", Short: "Store a preset of a template", Args: args("the preset's FILE"),
		Long: `push stores a preset {"template", "id", "description", "data"}; data is checked against
the template's schema. --template stands for the field, and the file's name for id.`,
		Example: "  spare preset push web-720p.json --template video-transcoding@v0.2",
		RunE: func(_ *cobra.Command, given []string) error {
			body, err := c.readPreset(given[0], &template)
			if err != nil {
				return err
			}
			return c.do(func(ctx context.Context, cl *client.Client) error {
				stored, err := cl.PushPreset(ctx, template, body)
				if err != nil {
					return err
				}
				return c.told(stored)
			})
		},
	}
	push.Flags().StringVarP(&template, "template", "t", "", "the template it is for")
	list := &cobra.Command{
		Use: "list TEMPLATE", Short: "List a template's presets", Args: args("a TEMPLATE"),
		Example: "  spare preset list video-transcoding@v0.2",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				all, err := cl.Presets(ctx, given[0])
				if err != nil {
					return err
				}
				return show(c, all, []string{"ID", "DESCRIPTION"}, func(p spare.Preset) []string { return []string{p.ID, p.Description} })
			})
		},
	}
	return group("preset", "Store and list presets", push, list)
}

// readPreset fills in what the file leaves to the command line.
func (c *cli) readPreset(file string, template *string) (json.RawMessage, error) {
	object, _, err := c.readDocument(file)
	if err != nil {
		return nil, err
	}
	if *template == "" {
		if err := json.Unmarshal(object["template"], template); err != nil || *template == "" {
			return nil, usage("%s does not say which template it is for: add --template T", file)
		}
	}
	if err := fill(object, "template", *template); err != nil {
		return nil, err
	}
	if object["id"] == nil && file != "-" {
		base := filepath.Base(file)
		if err := fill(object, "id", strings.TrimSuffix(base, filepath.Ext(base))); err != nil {
			return nil, err
		}
	}
	return json.Marshal(object)
}

func fill(object map[string]json.RawMessage, field, value string) error {
	raw, err := json.Marshal(value)
	object[field] = raw
	return err
}

func (c *cli) schemaCommand() *cobra.Command {
	var id, version string
	push := &cobra.Command{
		Use: "push FILE [--id ID --version V]", Short: "Store a schema of App parameters", Args: args("the schema's FILE"),
		Long: `push stores {"id", "version", "schema"}, or with --id and --version a file that is the
JSON Schema itself.`,
		Example: "  spare schema push schema.json --id video-transcoding --version 9",
		RunE: func(_ *cobra.Command, given []string) error {
			object, body, err := c.readDocument(given[0])
			if err != nil {
				return err
			}
			if object["schema"] == nil {
				if id == "" || version == "" {
					return usage("%s is a bare JSON Schema: say --id and --version", given[0])
				}
				if body, err = json.Marshal(spare.Schema{ID: id, Version: version, Body: body}); err != nil {
					return err
				}
			}
			return c.do(func(ctx context.Context, cl *client.Client) error {
				stored, err := cl.PushSchema(ctx, body)
				if err != nil {
					return err
				}
				return c.told(stored)
			})
		},
	}
	push.Flags().StringVar(&id, "id", "", "the schema's name")
	push.Flags().StringVar(&version, "version", "", "the schema's version")
	get := &cobra.Command{
		Use: "get ID VERSION | get TEMPLATE", Short: "Show a schema, as JSON", Args: args("a schema's ID or a TEMPLATE", "[VERSION]"),
		Example: "  spare schema get video-transcoding 9\n  spare schema get video-transcoding@v0.2",
		RunE: func(_ *cobra.Command, given []string) error {
			return c.do(func(ctx context.Context, cl *client.Client) error {
				var found spare.Schema
				var err error
				if len(given) == 2 {
					found, err = cl.Schema(ctx, given[0], given[1])
				} else {
					found, err = cl.TemplateSchema(ctx, given[0])
				}
				if err != nil {
					return err
				}
				return c.printJSON(found)
			})
		},
	}
	return group("schema", "Store and show parameter schemas", push, get)
}
