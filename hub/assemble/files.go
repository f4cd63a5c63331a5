package assemble

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A result is one file that the App made of one chunk.
type result struct {
	chunk int
	dir   string // of the part
	name  string // slash-separated, relative to dir
	size  int64
}

// results lists the files of all parts: by chunk, then by name with numbers in their
// natural order.
func results(parts []Part) ([]result, error) {
	var all []result
	for _, p := range parts {
		root, err := os.OpenRoot(p.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a chunk may make no file
		}
		if err != nil {
			return nil, fmt.Errorf("open the results of chunk %d: %w", p.Chunk, err)
		}
		err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is no regular file", name)
			}
			all = append(all, result{chunk: p.Chunk, dir: p.Dir, name: name, size: info.Size()})
			return nil
		})
		root.Close()
		if err != nil {
			return nil, fmt.Errorf("list the results of chunk %d: %w", p.Chunk, err)
		}
	}
	slices.SortStableFunc(all, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.chunk, b.chunk), natural(a.name, b.name))
	})
	return all, nil
}

// natural compares names so that "data_2" comes before "data_10".
func natural(a, b string) int {
	for a != "" && b != "" {
		na, ra := number(a)
		nb, rb := number(b)
		if na != "" && nb != "" {
			ta, tb := strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
			if c := cmp.Or(cmp.Compare(len(ta), len(tb)), strings.Compare(ta, tb), cmp.Compare(len(na), len(nb))); c != 0 {
				return c
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func number(s string) (digits, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

// open opens the file; its name cannot lead out of the part.
func (r result) open() (*os.File, error) {
	root, err := os.OpenRoot(r.dir)
	if err != nil {
		return nil, fmt.Errorf("open the results of chunk %d: %w", r.chunk, err)
	}
	defer root.Close()
	f, err := root.Open(filepath.FromSlash(r.name))
	if err != nil {
		return nil, fmt.Errorf("open %s of chunk %d: %w", r.name, r.chunk, err)
	}
	return f, nil
}

// flatNames gives each result its name in the output: a top-level name that is unique
// stays; where chunks share one, all of them become <stem>_<chunk><ext>; what lies in
// folders goes under <chunk>/. Names that differ only by case count as shared.
func flatNames(all []result) []string {
	count := map[string]int{}
	for _, r := range all {
		count[strings.ToLower(r.name)]++
	}
	names := make([]string, len(all))
	taken := map[string]bool{}
	give := func(i int, name string) {
		ext := path.Ext(name)
		stem := strings.TrimSuffix(name, ext)
		for n := 2; taken[strings.ToLower(name)]; n++ {
			name = fmt.Sprintf("%s_%d%s", stem, n, ext)
		}
		taken[strings.ToLower(name)] = true
		names[i] = name
	}
	for i, r := range all { // names that stay are given first, so that they do stay
		if !strings.Contains(r.name, "/") && count[strings.ToLower(r.name)] == 1 {
			give(i, r.name)
		}
	}
	for i, r := range all {
		switch {
		case names[i] != "":
		case strings.Contains(r.name, "/"):
			give(i, fmt.Sprintf("%d/%s", r.chunk, r.name))
		default:
			ext := path.Ext(r.name)
			give(i, fmt.Sprintf("%s_%d%s", strings.TrimSuffix(r.name, ext), r.chunk, ext))
		}
	}
	return names
}

// Flatten copies the files of all parts into dst under the contract's collision rule:
// see flatNames. It links where the disk can do that.
func Flatten(parts []Part, dst string) error {
	all, err := results(parts)
	if err != nil {
		return err
	}
	return place(all, flatNames(all), dst)
}

// place puts results into dst under the given names.
func place(all []result, names []string, dst string) error {
	for i, r := range all {
		if err := r.put(dst, names[i]); err != nil {
			return err
		}
	}
	return nil
}

// put links or copies the file to dst/name.
func (r result) put(dst, name string) error {
	src, err := r.open()
	if err != nil {
		return err
	}
	defer src.Close()
	root, err := os.OpenRoot(dst)
	if err != nil {
		return fmt.Errorf("open the output folder: %w", err)
	}
	defer root.Close()
	to := filepath.FromSlash(name)
	if err := root.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("place %s: %w", name, err)
	}
	if filepath.IsLocal(filepath.FromSlash(r.name)) &&
		os.Link(filepath.Join(r.dir, filepath.FromSlash(r.name)), filepath.Join(dst, to)) == nil {
		return nil
	}
	f, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("place %s: %w", name, err)
	}
	if _, err := io.Copy(f, src); err != nil {
		f.Close()
		return fmt.Errorf("place %s: %w", name, err)
	}
	return f.Close()
}
