package attack

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
)

//go:embed prelude.py
var prelude string

// ResultsFolder is where, below the writable folder, each attack of a battery that leaves
// results has a folder of its own, by its number in it.
const ResultsFolder = "results"

// Battery is a program that tries several attacks, each in a process of its own where
// there are processes, and says for each how it ended.
func Battery(attacks []Attack) string {
	var b strings.Builder
	b.WriteString(prelude)
	for i, a := range attacks {
		function(&b, i, a)
	}
	b.WriteString("\n\nbattery([")
	for i, a := range attacks {
		fmt.Fprintf(&b, "(%q, attack_%d), ", a.Name, i)
	}
	b.WriteString("])\n")
	return b.String()
}

// Single is a program that tries one attack.
func Single(a Attack) string {
	var b strings.Builder
	b.WriteString(prelude)
	function(&b, 0, a)
	fmt.Fprintf(&b, "\n\nalone(%q, attack_0)\n", a.Name)
	return b.String()
}

func function(b *strings.Builder, i int, a Attack) {
	fmt.Fprintf(b, "\n\ndef attack_%d():\n", i)
	if a.Collected {
		fmt.Fprintf(b, "    OUT = RW + \"/%s/%d\"\n    os.makedirs(OUT)\n", ResultsFolder, i)
	}
	for line := range strings.Lines(strings.Trim(a.Script, "\n")) {
		fmt.Fprintf(b, "    %s", line)
	}
	b.WriteString("\n    return None\n")
}

const mark = "VERDICT "

// Read finds the outcomes in what a battery or a single attack printed.
func Read(out []byte) map[string]Outcome {
	found := map[string]Outcome{}
	for line := range bytes.Lines(out) {
		text, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte(mark))
		var o Outcome
		if ok && json.Unmarshal(text, &o) == nil {
			found[o.Attack] = o
		}
	}
	return found
}
