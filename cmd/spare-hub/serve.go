package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spare-compute/spare/apps"
	"github.com/spare-compute/spare/hub"
)

func serveCommand() *cobra.Command {
	var opt hub.Options
	var allow, mirrors []string
	var asJSON, verbose bool
	cmd := &cobra.Command{
		Use:   "serve --data DIR",
		Short: "Run the hub",
		Long: `Runs the hub in the foreground until it gets SIGTERM or Ctrl-C. The first start makes
the data folder: the hub's keys, an admin API key in DIR/admin.key and a publisher's key in
DIR/publisher.key that only its owner can read, the ledger, and the official Apps. It answers GET /healthz when it is ready.`,
		Example: `  # try it on this machine
  spare-hub serve --data ~/spare-hub

  # serve a network
  spare-hub serve --data /var/lib/spare-hub --http 0.0.0.0:8080 --nodes 0.0.0.0:7770

  # let jobs fetch their input from a server on the office network
  spare-hub serve --data ~/spare-hub --allow-fetch 192.168.1.0/24`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, a := range allow {
				prefix, err := netip.ParsePrefix(a)
				if err != nil {
					return usageError{fmt.Errorf("--allow-fetch %q: want a network such as 192.168.1.0/24", a)}
				}
				opt.AllowFetch = append(opt.AllowFetch, prefix)
			}
			for _, m := range mirrors {
				host, mirror, ok := strings.Cut(m, "=")
				if !ok || host == "" || mirror == "" {
					return usageError{fmt.Errorf("--image-mirror %q: want REGISTRY=MIRROR, as docker.io=mirror.lan:5000", m)}
				}
				if opt.Mirrors == nil {
					opt.Mirrors = map[string][]string{}
				}
				opt.Mirrors[host] = append(opt.Mirrors[host], mirror)
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			opt.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			opt.Official = apps.FS
			return serve(cmd, opt, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Data, "data", defaultData(), "data folder, made if it is missing")
	f.StringVar(&opt.HTTP, "http", "127.0.0.1:8080", "address of the API")
	f.StringVar(&opt.Nodes, "nodes", "0.0.0.0:7770", "address for nodes (QUIC over UDP)")
	f.StringVar(&opt.Name, "name", "", "what the hub calls itself (default: the machine's name)")
	f.StringSliceVar(&allow, "allow-fetch", nil, "private network that jobs may name as an input url; may be repeated")
	f.StringSliceVar(&mirrors, "image-mirror", nil, "mirror to ask before a registry of images, as docker.io=mirror.lan:5000; may be repeated")
	f.StringVar(&opt.Runtimes, "runtimes", besideProgram("runtimes"), "folder of interpreter bundles that nodes may fetch")
	f.Int64Var(&opt.MinFree, "min-free", 1<<30, "bytes of disk to leave free")
	f.BoolVar(&asJSON, "json", false, "print the addresses as one line of JSON when ready")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

func serve(cmd *cobra.Command, opt hub.Options, asJSON bool) error {
	h, err := hub.Open(cmd.Context(), opt)
	if err != nil {
		return err
	}
	if err := announce(cmd.OutOrStdout(), h, opt, asJSON); err != nil {
		opt.Log.Warn("cannot print where the hub is", "error", err)
	}
	err = h.Run(cmd.Context())
	opt.Log.Info("hub stopped")
	return err
}

func announce(w io.Writer, h *hub.Hub, opt hub.Options, asJSON bool) error {
	key := filepath.Join(opt.Data, "admin.key")
	if asJSON {
		return json.NewEncoder(w).Encode(map[string]string{
			"http": "http://" + h.HTTPAddr(), "nodes": h.NodesAddr(), "adminKeyFile": key,
		})
	}
	fmt.Fprintf(w, "hub ready: API http://%s, nodes %s (UDP)\n", h.HTTPAddr(), h.NodesAddr())
	if !h.First() {
		return nil
	}
	_, err := fmt.Fprintf(w, `
What to do next:
  add a machine    spare-hub ticket --data %[1]s
                   then on that machine: spare-node join TICKET && spare-node run
  use the hub      export SPARE_HUB=http://%[2]s SPARE_KEY_FILE=%[3]s
                   spare run video.mp4 --template video-transcoding@v0.2 --preset web-720p -o out/
  volunteers?      before you hand tickets to others, take the key that signs what runs
                   on their machines off this hub, to where no network reaches it:
                   spare-hub publisher export --data %[1]s --remove FILE

`, opt.Data, h.HTTPAddr(), key)
	return err
}

// besideProgram is a folder next to this program.
func besideProgram(name string) string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(exe), name)
}

func defaultData() string {
	if dir, err := os.UserConfigDir(); err == nil {
		return filepath.Join(dir, "spare-hub")
	}
	return "spare-hub-data"
}
