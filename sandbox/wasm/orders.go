package wasm

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
)

// Orders reach a plain helper by its standard input, which stays open for as long as the
// parent lives. A helper inside another runtime has none: there they come in variables.
const (
	markEnv   = "SPARE_WASM_HELPER"  // set in a helper: "stdin", or how many variables hold the orders
	ordersEnv = "SPARE_WASM_ORDERS_" // and a number from 0
	fromStdin = "stdin"
	ordersCut = 96 << 10 // bytes of orders in a variable; Linux takes 128 KiB
	maxOrders = 16 << 20
)

// orders are what a helper does.
type orders struct {
	Version string // of the program that gives them: after an update there may be another
	Compile bool   // compile the entry's module, and run nothing
	Cores   int    // processors that compiling uses
	Entry   string // folder of the module, compiled or to be
	Scratch string // what is left there counts for nothing; removed if the parent dies; "" = none
	Report  string // file that the report goes to

	Argv          []raw
	Env           []raw
	Dir           raw // working folder of the program
	Mounts        []folder
	Tmp           string // folder that the program sees as /tmp
	TmpSize       int64  // bytes
	Overlay       bool   // a relative path leads into Dir
	Deterministic bool
	Memory        int64 // bytes; 0 = 4 GiB
	Files         int
	Disk          int64 // bytes; 0 = no limit
	CPU           int64 // nanoseconds; 0 = no limit, or someone else's to keep
	Floor         bool  // set the process's own limits: no other walls are around it
	Nice          bool
}

// folder is a mount: a folder or a file.
type folder struct {
	Host, Inner raw
	Writable    bool
}

// raw is any bytes, kept whole in JSON: names and variables need not be UTF-8.
type raw string

// MarshalText implements encoding.TextMarshaler.
func (r raw) MarshalText() ([]byte, error) { return []byte(strconv.QuoteToASCII(string(r))), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *raw) UnmarshalText(b []byte) error {
	s, err := strconv.Unquote(string(b))
	*r = raw(s)
	return err
}

func raws(all []string) []raw {
	out := make([]raw, len(all))
	for i, s := range all {
		out[i] = raw(s)
	}
	return out
}

func strs(all []raw) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = string(s)
	}
	return out
}

// report is what a helper says at its end, and, as far as it got, before.
type report struct {
	Stage    stage
	Stale    bool   // the entry cannot be used: it must be compiled anew
	Refused  string // the module cannot be run
	ExitCode int
	Trap     string // what stopped the program, if it did not exit
	Cause    sandbox.Cause
	Starved  bool // it was refused memory at its limit
	Memory   int64
	Written  int64
}

// stage is how far a helper got.
type stage int

const (
	notBegun stage = iota
	running        // the module's code runs
	ended
)

var errOrders = errors.New("the helper's orders are cut off")

// writeOrders frames orders for a helper's standard input.
func writeOrders(w io.Writer, o orders) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if len(text) > maxOrders {
		return errTooLong
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

var errTooLong = fmt.Errorf("arguments and variables are longer than %d MiB", maxOrders>>20)

// readOrders takes them from there, or from variables.
func readOrders(mark string, stdin io.Reader) (o orders, err error) {
	var text []byte
	if mark == fromStdin {
		var size [4]byte
		if _, err := io.ReadFull(stdin, size[:]); err != nil {
			return o, errOrders
		}
		n := binary.LittleEndian.Uint32(size[:])
		if n > maxOrders {
			return o, errOrders
		}
		text = make([]byte, n)
		if _, err := io.ReadFull(stdin, text); err != nil {
			return o, errOrders
		}
	} else {
		n, err := strconv.Atoi(mark)
		if err != nil || n < 1 || n > maxOrders/ordersCut+1 {
			return o, errOrders
		}
		var all strings.Builder
		for i := range n {
			all.WriteString(os.Getenv(ordersEnv + strconv.Itoa(i)))
		}
		text = []byte(all.String())
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, errOrders
	}
	if o.Version != spare.Version {
		return o, fmt.Errorf("this program was replaced by version %s while version %s runs: restart it", spare.Version, o.Version)
	}
	return o, nil
}

// ordersInEnv puts orders into variables.
func ordersInEnv(o orders) ([]string, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	if len(text) > maxOrders {
		return nil, errTooLong
	}
	var env []string
	n := 0
	for ; len(text) > 0; n++ {
		cut := min(len(text), ordersCut)
		env = append(env, ordersEnv+strconv.Itoa(n)+"="+string(text[:cut]))
		text = text[cut:]
	}
	return append(env, markEnv+"="+strconv.Itoa(n)), nil
}

const maxReport = 64 << 10

// readReport reads what a helper has written. What is not there, or is no report, counts
// as nothing said. A module that broke out of a helper may have put anything in its
// place: a link, or a pipe that nobody ever writes to.
func readReport(name string) (rep report) {
	root, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return rep
	}
	defer root.Close()
	name = filepath.Base(name)
	if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return rep
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return rep
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxReport))
	if err != nil || json.Unmarshal(text, &rep) != nil {
		return report{}
	}
	return rep
}

// write replaces what the file says. The file itself stays: it may be a mount.
func (rep report) write(name string) error {
	text, err := json.Marshal(rep)
	if err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o600)
}
