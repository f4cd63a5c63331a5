package image

// join lays layers over each other, the lowest first, and gives the tree that a program
// sees. What layers hold comes from their records, which are read one by one: of what
// breaks the limits not much more than the limits is ever in memory.
func join(layers int, read func(layer int) (record, error), lim Limits) (*node, error) {
	root := newTree()
	count, words := 0, 0
	for i := range layers {
		l, err := read(i)
		if err != nil {
			return nil, err
		}
		for _, e := range l.entries {
			words += len(e.name) + len(e.to)
		}
		if words > lim.Names {
			return nil, refuse("its layers' names and links have more than %d KiB", lim.Names>>10)
		}
		for _, e := range l.entries {
			switch e.kind {
			case whiteout:
				root.drop(e.name)
			case opaque:
				if n := root.find(e.name); n != nil && n.kind == folder {
					clear(n.children)
				}
			}
		}
		links, err := lay(root, i, l.entries)
		if err != nil {
			return nil, err
		}
		if count += len(l.entries); count > lim.Entries {
			return nil, refuse("its layers hold more than %d files", lim.Entries)
		}
		for _, e := range links {
			target := root.find(e.to)
			if target == nil || target.kind != file {
				return nil, &Refused{Name: e.name, Reason: "is a hard link to what is no file of this image"}
			}
			linked := *target
			linked.name = e.name
			root.put(&linked)
		}
	}
	return root, nil
}

// lay puts one layer's own entries over what is there, and returns those that are links
// to files below, which are looked up when the whole layer is in place.
func lay(root *node, layer int, entries []entry) (links []entry, err error) {
	for _, e := range entries {
		if e.kind == whiteout || e.kind == opaque {
			continue
		}
		// A layer's own record names every folder before what is in it.
		dir, _ := split(e.name)
		if parent := root.find(dir); parent == nil || parent.kind != folder {
			return nil, errRecord
		}
		before := root.find(e.name)
		if e.kind == folder && before != nil && before.kind == folder {
			continue
		}
		if e.kind == lower {
			links = append(links, e)
			if before != nil && e.to != e.name {
				root.drop(e.name)
			}
			continue
		}
		root.put(&node{entry: e, layer: layer, path: e.name})
	}
	return links, nil
}
