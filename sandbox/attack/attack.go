// Package attack is the list of what foreign code tries against a sandbox: each attack by
// name, with the few lines of Python that try it, the walls that stop it and the limits it
// tries them under. It also makes the bait that attacks go for, composes and reads runs of
// many attacks, and draws the table in docs/sandbox.md. It never decides whether a sandbox
// is good: the suite in package sandbox_test runs it against every runtime, and against
// what others use. Nothing but tests imports it.
//
// Every attack is bounded by itself, so that where a wall is missing, or switched off to
// see that the attack bites, it does the machine no harm.
package attack

import (
	"slices"
	"strings"

	"github.com/spare-compute/spare/sandbox"
)

// An Attack is one thing that foreign code tries.
type Attack struct {
	Name  string // as the table and the tests call it
	Tries string // what it is, in a sentence

	// Walls stop it, each by itself: the suite switches all of them off and wants to see it
	// succeed. None means that no wall can be switched off to show it, and Unshown says why.
	Walls   []string
	Unshown string

	Proof Proof

	// Script is the body of a Python function. It returns what it got away with, or
	// nothing; an OSError is a refusal. H is the bait.
	Script string

	// Collected is set if the script leaves something in OUT, a results folder of its own.
	Collected bool

	// Load is set for an attack that has a run of its own, since it disturbs others or
	// uses up what it can.
	Load *Load
}

// Proof says how it is shown that an attack bites. Most do for everybody whose walls are
// switched off. Some walls cannot be, like the user and pid namespaces that all else
// stands on: there a run with no sandbox at all shows it.
type Proof struct {
	Bare bool
	By   string // whose runs can show it, "root" or "user"; "" = everybody's
}

// The proofs.
var (
	ByRoot   = Proof{By: "root"}
	ByUser   = Proof{By: "user"}
	Bare     = Proof{Bare: true}
	BareRoot = Proof{Bare: true, By: "root"}
	BareUser = Proof{Bare: true, By: "user"}
)

// A Load is a run of its own.
type Load struct {
	Limits sandbox.Limits
	First  bool     // nothing else runs beside it
	Cancel bool     // the run is cancelled once the script is ready, with a short grace
	Env    []string // more variables; {open} is the bait's open folder
	Args   []string // the program's arguments
	Linked bool     // in an image where a link to the host's folder stands in the mounts' place
}

// Verdict is how an attack ended.
type Verdict string

// The verdicts. A broken attack is a fault of the suite: its script failed by itself.
const (
	Refused   Verdict = "refused"
	Succeeded Verdict = "succeeded"
	Absent    Verdict = "absent" // what it attacks does not exist there
	Broken    Verdict = "broken"
)

// Outcome is one attack's end in one place.
type Outcome struct {
	Attack  string  `json:"attack"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
}

// All lists every attack, in the table's order. A group's heading is in Group.
func All() []Attack {
	var all []Attack
	for _, g := range Groups() {
		all = append(all, g.Attacks...)
	}
	return all
}

// A Group is attacks on one thing.
type Group struct {
	Name    string
	Attacks []Attack
}

// Groups lists the attacks by what they are after.
func Groups() []Group {
	return []Group{
		{"Seeing what is not its own", see},
		{"Writing outside its folders", write},
		{"Reaching a network or a service", reach},
		{"Other processes", processes},
		{"Gaining rights", rights},
		{"Mounting and leaving its root", mounts},
		{"The kernel's interfaces", kernel},
		{"Memory and processes without end", memory},
		{"Disk without end", disk},
		{"Time and output without end", outlast},
		{"What it leaves as results, and what it says", results},
	}
}

// Quick lists the attacks that share a run, Alone those with a run of their own.
func Quick() []Attack { return slices.DeleteFunc(All(), func(a Attack) bool { return a.Load != nil }) }

// Alone lists the attacks that have a run of their own.
func Alone() []Attack { return slices.DeleteFunc(All(), func(a Attack) bool { return a.Load == nil }) }

// walls splits a comma-separated list: most attacks have one or two.
func walls(list string) []string { return strings.Split(list, ", ") }
