package catalog

import (
	"slices"
	"strings"
)

// nearest is the known name that somebody who wrote name most likely meant, or "".
func nearest(name string, known []string) string {
	name = strings.ToLower(name)
	if name == "" || len(name) > 200 {
		return ""
	}
	best, bestDistance := "", len(name)/3+2 // a third of the letters may be wrong
	for _, k := range slices.Sorted(slices.Values(known)) {
		low := strings.ToLower(k)
		distance := edits(name, low)
		if len(name) > 3 && strings.Contains(low, name) || len(low) > 3 && strings.HasPrefix(name, low) {
			distance = min(distance, 1) // a part left out or added: "x" for "x@v0.2"
		}
		if distance < bestDistance {
			best, bestDistance = k, distance
		}
	}
	return best
}

// edits counts the letters to insert, remove, replace or swap with their neighbour to
// make b of a.
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		row[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
