package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/hub"
	"github.com/spare-compute/spare/publisher"
)

func publisherCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "publisher",
		Short: "The keys that say what may run on volunteers' nodes",
		Long: `Nodes of volunteers run an App only if a publisher that they trust has signed it; which
ones that are is in the ticket they join with. A hub makes a publisher's key at its first
start and signs the Apps that come with it. Whoever has that key and the hub can have any
code run on all its nodes, so take it off the hub: "spare-hub publisher export".`,
		Example: `  spare-hub publisher show --data ~/spare-hub
  spare-hub publisher export --data ~/spare-hub --remove /media/stick/publisher.key
  spare-hub publisher add --data ~/spare-hub --name ann ann.pub`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&data, "data", defaultData(), "the hub's data folder")
	cmd.AddCommand(publisherShow(&data), publisherExport(&data), publisherRotate(&data), publisherAdd(&data), publisherRemove(&data))
	return cmd
}

func publisherShow(data *string) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "show", Short: "List the publishers that tickets name", Args: none,
		Example: "  spare-hub publisher show --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := hub.ReadPublishers(*data)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(w).Encode(map[string]any{"publishers": p.Known, "privateKeyHere": p.KeyHere})
			}
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "PUBLISHER\tKEY\tADDED\t")
			for _, k := range p.Known {
				note := ""
				if k.Own {
					note = "this hub's own; its private key was taken off"
					if p.KeyHere {
						note = "this hub's own; its private key lies on this hub: export it"
					}
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", k.Name, k.Public.ID().Short(), k.Added.Format(time.DateOnly), note)
			}
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func publisherExport(data *string) *cobra.Command {
	remove := false
	cmd := &cobra.Command{
		Use: "export FILE [--remove]", Short: "Take the private key off the hub", Args: exactly(1, "a FILE to write the key to"),
		Long: `Export writes the hub's private publisher key to FILE, which its owner alone can read, and
with --remove takes it out of the data folder. From then on the hub signs nothing: not
even who steals all of it can make a volunteer's node run new code. To sign, use the file
on another machine: "spare app push --sign --publisher-key FILE", and after an update of
the hub "spare app sign --official --publisher-key FILE". Backups that were made of the data
folder before still hold the key.`,
		Example: `  spare-hub publisher export --data ~/spare-hub --remove /media/stick/publisher.key`,
		RunE: func(cmd *cobra.Command, given []string) error {
			id, err := hub.ExportPublisher(*data, given[0], remove)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if remove {
				_, err = fmt.Fprintf(w, "The private key of publisher %s is in %s and no longer on this hub. Keep a second copy; a lost key cannot be made again.\n", id.Short(), given[0])
				return err
			}
			_, err = fmt.Fprintf(w, "The private key of publisher %s is in %s, and still on this hub. Once the copy is safe, run the same again with --remove.\n", id.Short(), given[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "take the key out of the data folder; I have read what that means")
	return cmd
}

func publisherRotate(data *string) *cobra.Command {
	var key, newKey string
	cmd := &cobra.Command{
		Use: "rotate", Short: "Replace the hub's own publisher key", Args: none,
		Long: `Rotate makes a new key, which the old one signs for. Nodes follow once they see anything
that the new one signed, and refuse the old one from then on. If the key lies on the hub,
restart the hub afterwards: it signs its own Apps anew. If it was exported, name its file
and one for the new key, and sign anew with that.`,
		Example: `  spare-hub publisher rotate --data ~/spare-hub
  spare-hub publisher rotate --data ~/spare-hub --key /media/stick/publisher.key --new-key /media/stick/publisher-2.key`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			old, next, err := hub.RotatePublisher(*data, key, newKey)
			if err != nil {
				return err
			}
			then := "restart the hub, so that it signs its own Apps anew"
			if key != "" {
				then = "sign the Apps anew with it, \"spare app sign --official\" first, and then destroy the old one"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Publisher key %s takes the place of %s. Now %s.\n", next.Short(), old.Short(), then)
			return err
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "file of the private key, if it was exported")
	cmd.Flags().StringVar(&newKey, "new-key", "", "file for the new private key, if the old one was exported")
	return cmd
}

func publisherAdd(data *string) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "add KEY|FILE --name NAME", Short: "Take another publisher's signed Apps, and name it in tickets", Args: exactly(1, "a publisher's public KEY or its FILE"),
		Long: `Add makes the hub take Apps that a publisher signed, and puts its key into tickets from
now on. Nodes that joined before do not trust it: they would have to join again with a new
ticket. A key that takes an earlier one's place needs no new tickets. "spare publisher
show" prints a public key.`,
		Example: `  spare-hub publisher add ann.pub --name ann`,
		RunE: func(cmd *cobra.Command, given []string) error {
			public, err := publisher.ParsePublic([]byte(given[0]))
			if err != nil {
				if public, err = readPublic(given[0]); err != nil {
					return err
				}
			}
			replaced, err := hub.AddPublisher(*data, name, public)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if replaced != "" {
				_, err = fmt.Fprintf(w, "Publisher key %s takes the place of %s.\n", public.ID().Short(), replaced.Short())
				return err
			}
			_, err = fmt.Fprintf(w, "Publisher %s with key %s is in tickets from now on.\n", name, public.ID().Short())
			return err
		},
	}
	cmd.Flags().StringVar(&name, "name", "publisher", "what to call it")
	return cmd
}

// maxPublic is more than a public key with all its rotations takes, in bytes.
const maxPublic = 64 << 10

func readPublic(file string) (publisher.Public, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return publisher.Public{}, usageError{fmt.Errorf("%q is neither a publisher's public key nor a file with one", file)}
	}
	if err != nil {
		return publisher.Public{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxPublic+1))
	if err != nil {
		return publisher.Public{}, err
	}
	public, err := publisher.ParsePublic(raw)
	if err != nil {
		return public, fmt.Errorf("read %s: %w", file, err)
	}
	return public, nil
}

func publisherRemove(data *string) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME|KEY", Short: "Take no more signed Apps of a publisher", Args: exactly(1, "a publisher's NAME or the first digits of its KEY"),
		Long:    "Remove takes a publisher out of tickets, and refuses what it signs from now on. Nodes that joined before go on trusting it.",
		Example: "  spare-hub publisher remove ann",
		RunE: func(cmd *cobra.Command, given []string) error {
			gone, err := hub.RemovePublisher(*data, given[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Publisher %s with key %s is removed.\n", gone.Name, gone.Public.ID().Short())
			return err
		},
	}
}
