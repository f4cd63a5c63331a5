package attack

// Kind is what contains the attacks of a column.
type Kind string

// The kinds.
const (
	Linux     Kind = "linux"
	Container Kind = "container"
	Engine    Kind = "engine"
	Wasm      Kind = "wasm"
	Podman    Kind = "podman"
	Bwrap     Kind = "bubblewrap"
)

// A Column is one place that attacks run in.
type Column struct {
	Name string // as the table calls it
	Kind Kind
	User string // "root" or "user": who runs it
	Ours bool   // one of Spare's runtimes, which must refuse everything
	Long bool   // runs only when asked for
}

// Columns lists the table's, in its order.
func Columns() []Column {
	return []Column{
		{Name: "linux, root", Kind: Linux, User: "root", Ours: true},
		{Name: "linux, user", Kind: Linux, User: "user", Ours: true},
		{Name: "image, root", Kind: Container, User: "root", Ours: true},
		{Name: "image, user", Kind: Container, User: "user", Ours: true},
		{Name: "engine", Kind: Engine, User: "root", Ours: true},
		{Name: "wasm", Kind: Wasm, User: "root", Ours: true},
		{Name: "podman run", Kind: Podman, User: "root", Long: true},
		{Name: "bwrap --unshare-all", Kind: Bwrap, User: "root", Long: true},
	}
}
